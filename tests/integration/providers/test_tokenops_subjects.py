"""Who of the people in a picture speaks: by word, by index, or by a point, with masks that are really looked at."""

import io
import json
import random
import threading
import warnings
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import respx
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from prefect_genmedia.errors import InputRefused, InvalidRequest, NoSubject, ProviderError
from prefect_genmedia.providers.tokenops import Recognition, TokenOpsClient
from prefect_genmedia.providers.tokenops.ask import draw_gallery
from prefect_genmedia.providers.tokenops.subjects import (
    Detection,
    Subject,
    SubjectSelection,
    opened_picture,
    parse_subject,
    select_masks,
)
from prefect_genmedia.simulator.hostile import picture_bomb

# Taken from the provider's page; only some line breaks are taken out.
DETECT = """{
    "model": "OmniHuman_1.5",
    "req_key": "jimeng_realman_avatar_object_detection",
    "image_url": "https://example.com/portrait.jpg"
  }"""
DETECTED = """{
  "status": 1,
  "mask_urls": ["https://example.com/mask1.png", "https://example.com/mask2.png"],
  "request_id": "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"
}"""
RECOGNIZE = """{
    "model": "OmniHuman_1.5",
    "req_key": "jimeng_realman_avatar_picture_create_role_omni_v15",
    "image_url": "https://example.com/portrait.jpg"
  }"""
RECOGNIZED = """{
  "task_id": "xxxxxxxx",
  "status": 1,
  "request_id": "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"
}"""
BASE = "https://api.tokenops.ai/v1"
PORTRAIT = "https://example.com/portrait.jpg"

WIDTH, HEIGHT = 640, 360
Box = tuple[int, int, int, int]

# A picture of three people, the largest first, as detection sorts them: one in the middle, one on the right, and a
# small one on the left; and the small one stands partly in front of the large one.
PEOPLE: dict[str, Box] = {
    "middle": (200, 40, 430, 350),
    "right": (450, 60, 600, 350),
    "left": (150, 120, 230, 350),
}


def mask(*boxes: Box, mode: str = "L", file_format: str = "PNG", size: tuple[int, int] = (WIDTH, HEIGHT)) -> bytes:
    """A mask picture: white boxes on black."""
    picture = Image.new("L", size, 0)
    for box in boxes:
        ImageDraw.Draw(picture).rectangle(box, fill=255)
    file = io.BytesIO()
    picture.convert(mode).save(file, file_format)
    return file.getvalue()


class Masks:
    """Masks by their URLs, and which of them were read."""

    def __init__(self, **masks: bytes) -> None:
        self.masks = {f"https://example.com/{name}.png": content for name, content in masks.items()}
        self.read_urls: list[str] = []

    @property
    def detection(self) -> Detection:
        return Detection(found=True, mask_urls=tuple(self.masks))

    async def read(self, url: str) -> bytes:
        self.read_urls.append(url)
        return self.masks[url]

    async def select(self, subject: Subject) -> SubjectSelection:
        return await select_masks(self.detection, subject, self.read)

    async def chosen(self, subject: Subject) -> list[str]:
        """The names of the chosen masks."""
        selection = await self.select(subject)
        return [url.removeprefix("https://example.com/").removesuffix(".png") for url in selection.mask_urls]


@pytest.fixture
def people() -> Masks:
    return Masks(**{name: mask(box) for name, box in PEOPLE.items()})


@pytest.fixture
def person() -> Masks:
    return Masks(alone=mask(PEOPLE["middle"]))


# --- Words ---


async def test_auto_needs_no_mask_where_none_was_given() -> None:
    assert await Masks().chosen("auto") == []


async def test_auto_needs_no_mask_for_a_single_person(person: Masks) -> None:
    assert await person.chosen("auto") == []


async def test_auto_lets_the_largest_of_several_speak(people: Masks) -> None:
    assert await people.chosen("auto") == ["middle"]


@pytest.mark.parametrize(
    ("subject", "names"),
    [
        ("largest", ["middle"]),
        ("leftmost", ["left"]),
        ("rightmost", ["right"]),
        ("all", ["middle", "right", "left"]),
    ],
)
async def test_a_word_chooses_among_several(people: Masks, subject: str, names: list[str]) -> None:
    assert await people.chosen(subject) == names


@pytest.mark.parametrize("subject", ["largest", "leftmost", "rightmost", "all", "0", 0])
async def test_every_choice_of_a_single_person_is_that_person(person: Masks, subject: Subject) -> None:
    assert await person.chosen(subject) == ["alone"]


@pytest.mark.parametrize("subject", ["Leftmost", " leftmost ", "LEFTMOST"])
async def test_a_word_may_be_written_freely(people: Masks, subject: str) -> None:
    selection = await people.select(subject)
    assert selection.subject == "leftmost"
    assert selection.mask_urls == ("https://example.com/left.png",)


@pytest.mark.parametrize("subject", ["auto", "largest", "all", 1])
async def test_masks_are_read_only_where_the_choice_needs_them(people: Masks, subject: Subject) -> None:
    await people.select(subject)
    assert people.read_urls == []


async def test_left_and_right_go_by_the_middle_of_the_person_and_not_by_the_edge() -> None:
    masks = Masks(wide=mask((10, 10, 600, 300)), narrow=mask((100, 10, 150, 300)))
    assert await masks.chosen("leftmost") == ["narrow"]
    assert await masks.chosen("rightmost") == ["wide"]


async def test_masks_of_different_sizes_can_be_compared() -> None:
    masks = Masks(large=mask((600, 10, 700, 300), size=(1280, 720)), small=mask((250, 10, 310, 150), size=(320, 180)))
    assert await masks.chosen("leftmost") == ["large"]
    assert await masks.chosen("rightmost") == ["small"]


# --- Indices ---


@pytest.mark.parametrize(("index", "name"), [(0, "middle"), (1, "right"), (2, "left")])
async def test_an_index_counts_from_the_largest(people: Masks, index: int, name: str) -> None:
    assert await people.chosen(index) == [name]
    assert await people.chosen(f" {index} ") == [name]


@pytest.mark.parametrize("index", [3, "3", 99, -1])
async def test_an_index_that_is_not_there_is_no_subject(people: Masks, index: Subject) -> None:
    with pytest.raises(NoSubject, match="3 detected"):
        await people.select(index)


# --- Points ---


@pytest.mark.parametrize(
    ("point", "name"),
    [
        ((300.0, 100.0), "middle"),
        ((500.0, 200.0), "right"),
        ((170.0, 300.0), "left"),
        ("500,200", "right"),
        (" 500 , 200 ", "right"),
        ([500, 200], "right"),
        ((0.5, 0.5), "middle"),
        ("0.8,0.5", "right"),
        ((0.27, 0.9), "left"),
    ],
)
async def test_a_point_in_pixels_or_shares_chooses_who_is_there(people: Masks, point: Subject, name: str) -> None:
    assert await people.chosen(point) == [name]


async def test_where_people_overlap_the_one_in_front_is_meant(people: Masks) -> None:
    assert await people.chosen((215, 200)) == ["left"]


@pytest.mark.parametrize("point", [(0, 0), (1, 1), "0,0", "1,1", (0.0, 1.0), (1.0, 0.5)])
async def test_the_corners_and_edges_belong_to_the_picture(point: Subject) -> None:
    everything = Masks(all=mask((0, 0, WIDTH, HEIGHT)))
    assert await everything.chosen(point) == ["all"]


async def test_the_last_pixel_belongs_to_the_picture_and_the_next_does_not() -> None:
    everything = Masks(all=mask((0, 0, WIDTH, HEIGHT)))
    assert await everything.chosen((WIDTH - 1, HEIGHT - 1)) == ["all"]
    with pytest.raises(NoSubject):
        await everything.select((WIDTH, HEIGHT - 1))


@pytest.mark.parametrize("point", [(20.0, 20.0), "20,20", (0.01, 0.01), (5000, 100), "300,5000"])
async def test_a_point_where_nobody_is_is_no_subject(people: Masks, point: Subject) -> None:
    with pytest.raises(NoSubject, match="None of the 3 detected subjects is at"):
        await people.select(point)


# --- Nobody ---


@pytest.mark.parametrize("subject", ["auto", "largest", "leftmost", "rightmost", "all", 0, (0.5, 0.5)])
async def test_a_picture_without_people_is_no_subject(subject: Subject) -> None:
    masks = Masks()
    with pytest.raises(NoSubject, match="No person was detected") as caught:
        await select_masks(Detection(found=False), subject, masks.read)
    assert caught.value.outcome == "refused"
    assert caught.value.paid == "nothing"


@pytest.mark.parametrize("subject", ["largest", "leftmost", "rightmost", "all", 0, (0.5, 0.5)])
async def test_nobody_can_be_chosen_without_masks(subject: Subject) -> None:
    with pytest.raises(NoSubject, match="no mask"):
        await Masks().select(subject)


# --- What is kept of the choice ---


@pytest.mark.parametrize(
    ("subject", "words"),
    [("auto", "auto"), (1, "1"), ("1", "1"), ((300.0, 100.0), "300,100"), ("0.5, 0.5", "0.5,0.5"), (" All", "all")],
)
async def test_the_choice_is_kept_in_the_users_own_words(people: Masks, subject: Subject, words: str) -> None:
    assert (await people.select(subject)).subject == words


async def test_the_words_that_are_kept_choose_the_same_again(people: Masks) -> None:
    for subject in ("auto", "leftmost", "all", 2, (300.0, 100.0), (0.5, 0.5)):
        selection = await people.select(subject)
        assert await people.select(selection.subject) == selection


# --- What is not understood ---


WRITTEN_BADLY = ["", "the tall one", "auto!", "1.5", "-1", "1,2,3", ",", "a,b", "nan,1", "inf,1", "-5,10"]
NOT_EVEN_TEXT = [(1,), (1, 2, 3), (-1.0, 5.0), (float("nan"), 1.0), True, None, 1.5, {}, object()]


@pytest.mark.parametrize("subject", [*WRITTEN_BADLY, *NOT_EVEN_TEXT])
async def test_a_choice_that_is_not_understood_is_an_invalid_request(people: Masks, subject: Subject) -> None:
    with pytest.raises(InvalidRequest, match="subject") as caught:
        await people.select(subject)
    assert [problem.field for problem in caught.value.problems] == ["subject"]
    assert people.read_urls == []


async def test_a_choice_that_is_not_understood_is_reported_even_if_nobody_was_detected() -> None:
    with pytest.raises(InvalidRequest):
        await select_masks(Detection(found=False), "the tall one", Masks().read)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.one_of(st.text(max_size=20), st.integers(), st.tuples(st.floats(), st.floats())))
def test_a_choice_is_understood_or_refused(subject: Subject) -> None:
    try:
        understood = parse_subject(subject)
    except ValueError:
        return
    assert parse_subject(understood) == understood


# --- Masks as they come ---


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "P"])
async def test_a_mask_may_be_in_any_colour_mode(mode: str) -> None:
    masks = Masks(**{name: mask(box, mode=mode) for name, box in PEOPLE.items()})
    assert await masks.chosen("leftmost") == ["left"]
    assert await masks.chosen((500, 200)) == ["right"]


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
async def test_a_mask_may_be_in_any_common_format(file_format: str) -> None:
    masks = Masks(**{name: mask(box, file_format=file_format) for name, box in PEOPLE.items()})
    assert await masks.chosen("rightmost") == ["right"]


def large_png() -> bytes:
    """A PNG whose pixels take several chunks."""
    file = io.BytesIO()
    Image.frombytes("L", (500, 500), random.Random(1).randbytes(500 * 500)).save(file, "PNG")
    return file.getvalue()


def with_a_broken_chunk(content: bytes) -> bytes:
    """The second chunk of pixels gets a name that no chunk has."""
    second = content.index(b"IDAT", content.index(b"IDAT") + 4)
    return content[:second] + b"\xff\x00\xff\xff" + content[second + 4 :]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>The mask has expired.</html>",
        mask(PEOPLE["left"])[:60],
        large_png()[:5000],
        with_a_broken_chunk(large_png()),
    ],
    ids=["empty", "html", "cut in its head", "cut in its pixels", "broken chunk"],
)
@pytest.mark.parametrize("subject", ["leftmost", "rightmost", (300, 100)])
async def test_a_mask_that_is_not_a_picture_is_an_error_of_the_provider(content: bytes, subject: Subject) -> None:
    masks = Masks(good=mask(PEOPLE["middle"]), bad=content)
    with pytest.raises(ProviderError, match="not a picture"):
        await masks.select(subject)


def many_scans() -> bytes:
    """A JPEG that begins a scan two hundred times."""
    file = io.BytesIO()
    Image.new("L", (64, 64), 255).save(file, "JPEG", progressive=True)
    scan = file.getvalue()[file.getvalue().index(b"\xff\xda") : -2]
    return file.getvalue()[:-2] + scan * 200 + b"\xff\xd9"


def oversized(file_format: str) -> bytes:
    file = io.BytesIO()
    Image.new("1" if file_format == "PNG" else "L", (5001, 5000)).save(file, file_format)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (picture_bomb(), "30000×30000 pixels"),
        (oversized("PNG"), "5001×5000 pixels"),
        (oversized("JPEG"), "5001×5000 pixels"),
        (many_scans(), "more than 100 scans"),
        (mask(PEOPLE["left"], file_format="GIF"), "not a picture"),
        (mask(PEOPLE["left"], file_format="BMP"), "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
    ],
    ids=["bomb", "large png", "large jpeg", "scans", "gif", "bmp", "postscript"],
)
async def test_a_mask_is_not_decoded_beyond_its_bounds(content: bytes, words: str) -> None:
    with pytest.raises(ProviderError, match=words):
        await Masks(good=mask(PEOPLE["middle"]), bad=content).select("leftmost")
    with pytest.raises(ProviderError, match=words):
        draw_gallery(mask(PEOPLE["middle"]), [content])
    with pytest.raises(ProviderError, match=words):
        draw_gallery(content, [])


def test_a_large_picture_is_refused_by_its_size_without_a_warning_of_the_library() -> None:
    content = io.BytesIO()
    Image.new("1", (12_000, 8_000)).save(content, "PNG")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened = opened_picture(content.getvalue(), "The portrait")
        with pytest.raises(ProviderError, match="12000×8000 pixels"):
            opened.__enter__()


async def test_masks_are_decoded_outside_of_the_event_loop(people: Masks, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = set()
    load = Image.Image.load

    def noting(picture: Image.Image) -> Any:
        threads.add(threading.current_thread())
        return load(picture)

    monkeypatch.setattr(Image.Image, "load", noting)
    await people.chosen("leftmost")
    assert threads
    assert threading.main_thread() not in threads


# --- The provider's two calls ---


@pytest.fixture
def web() -> Iterator[respx.Router]:
    with respx.mock as router:
        yield router


@pytest.fixture
async def client() -> AsyncIterator[TokenOpsClient]:
    client = TokenOpsClient("sk-live")
    yield client
    await client.aclose()


async def test_detection_sends_and_reads_what_the_document_shows(web: respx.Router, client: TokenOpsClient) -> None:
    route = web.post(f"{BASE}/omnihuman/subject/detection").respond(text=DETECTED)
    masks = ("https://example.com/mask1.png", "https://example.com/mask2.png")
    assert await client.detect_subjects(PORTRAIT) == Detection(
        found=True, mask_urls=masks, request_id="xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"
    )
    assert json.loads(route.calls.last.request.content) == json.loads(DETECT)
    assert route.calls.last.request.headers["Authorization"] == "Bearer sk-live"


async def test_recognition_sends_and_reads_what_the_document_shows(web: respx.Router, client: TokenOpsClient) -> None:
    route = web.post(f"{BASE}/omnihuman/subject/recognition").respond(text=RECOGNIZED)
    assert await client.recognize_subject(PORTRAIT) == Recognition(
        found=True, task_id="xxxxxxxx", request_id="xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"
    )
    assert json.loads(route.calls.last.request.content) == json.loads(RECOGNIZE)


@pytest.mark.parametrize("answer", [{"status": 0}, {"status": 0, "mask_urls": []}, {"status": 0, "mask_urls": None}])
async def test_status_0_means_that_nobody_is_there(
    web: respx.Router, client: TokenOpsClient, answer: dict[str, Any]
) -> None:
    web.post(path__startswith="/v1/omnihuman/subject/").respond(json=answer)
    assert await client.detect_subjects(PORTRAIT) == Detection(found=False)
    assert await client.recognize_subject(PORTRAIT) == Recognition(found=False)


@pytest.mark.parametrize(
    "answer", [{}, {"status": 1, "mask_urls": "https://a/"}, {"status": 1, "mask_urls": [1]}, [], "<html>"]
)
async def test_a_detection_that_cannot_be_read_is_worth_another_try(
    web: respx.Router, client: TokenOpsClient, answer: Any
) -> None:
    web.post(f"{BASE}/omnihuman/subject/detection").respond(json=answer)
    with pytest.raises(ProviderError) as caught:
        await client.detect_subjects(PORTRAIT)
    assert caught.value.retryable


async def test_a_picture_that_is_refused_is_no_reason_to_try_again(web: respx.Router, client: TokenOpsClient) -> None:
    web.post(f"{BASE}/omnihuman/subject/detection").respond(400, json={"error": "[50411] Pre Img Risk Not Pass"})
    with pytest.raises(InputRefused, match="image was refused"):
        await client.detect_subjects(PORTRAIT)


async def test_our_own_signed_url_of_a_portrait_that_an_answer_quotes_gets_into_no_error(
    web: respx.Router, client: TokenOpsClient
) -> None:
    signed = "https://bucket.example.com/inputs/5a.jpg?X-Amz-Credential=AKIA1&X-Amz-Signature=5ec2e7"
    refusal = {"error": {"message": f"[50411] cannot use {signed}"}}
    web.post(f"{BASE}/omnihuman/subject/detection").respond(400, json=refusal)
    with pytest.raises(InputRefused) as caught:
        await client.detect_subjects(signed)
    assert "https://bucket.example.com/inputs/5a.jpg" in str(caught.value)
    for part in ("5ec2e7", "AKIA1"):
        assert part not in f"{caught.value} {vars(caught.value)}"
