"""What can be asked of TokenOps: the document's own examples, only documented values, and every problem at once."""

import contextlib
import json
import re
from collections.abc import Callable
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from prefect_genmedia.errors import InvalidRequest
from prefect_genmedia.providers.tokenops import JimengVideo, OmniHumanVideo, catalog
from prefect_genmedia.providers.tokenops.subjects import SubjectSelection

P, S, F = "jimeng-video-3.0-pro", "jimeng-video-3.0-720P", "jimeng-video-3.0-1080P"
PORTRAIT = "https://example.com/portrait.jpg"
SPEECH = "https://example.com/speech.mp3"
PICTURE = "https://example.com/a.jpg"
DATA_URI = "data:image/jpeg;base64,/9j/4AAQSkZJRg"

# The bodies of the commands on the provider's page; only some line breaks are taken out.
OMNIHUMAN_DOCUMENT = """
  --data '{
    "model": "OmniHuman_1.5", "req_key": "jimeng_realman_avatar_picture_omni_v15",
    "prompt": "自然说话,面带微笑", "generation_type": "omni_human", "output_resolution": 1080,
    "content": [
      {"type": "image_url", "image_url": {"url": "https://example.com/portrait.jpg"}},
      {"type": "audio_url", "audio_url": {"url": "https://example.com/speech.mp3"}}
    ]
  }'
"""
JIMENG_DOCUMENT = """
  --data '{
    "model": "jimeng-video-3.0-pro", "prompt": "千军万马奔腾在草原上,阳光明媚,高清画质",
    "req_key": "jimeng_ti2v_v30_pro", "seed": -1, "frames": 121, "aspect_ratio": "16:9"
  }'
  --data '{
    "model": "jimeng-video-3.0-pro", "prompt": "根据图片内容生成一段动态视频,保持画面风格一致",
    "req_key": "jimeng_ti2v_v30_pro",
    "image_urls": ["https://example.com/reference_image.jpg"],
    "seed": -1, "frames": 241, "aspect_ratio": "16:9"
  }'
  -d '{
    "model": "jimeng-video-3.0-pro", "size": "1280x720", "seconds": "5", "req_key": "jimeng_ti2v_v30_pro",
    "content": [
      {"type": "text", "text": "千军万马奔腾在草原上,阳光明媚,高清画质"}
    ]
  }'
  -d '{
    "model": "jimeng-video-3.0-pro", "size": "1280x720", "seconds": "5", "req_key": "jimeng_ti2v_v30_pro",
    "content": [
      {"type": "text", "text": "根据这张风景图生成一段视频,展现微风轻抚、云朵缓缓移动的动态效果"},
      {"type": "image_url", "image_url": {"url": "https://example.com/landscape.jpg"}}
    ]
  }'
  -d '{
    "model": "jimeng-video-3.0-pro", "size": "1280x720", "seconds": "5", "req_key": "jimeng_ti2v_v30_pro",
    "content": [
      {"type": "text", "text": "让画面中的小猫跳跃玩耍"},
      {"type": "image_base64", "image_url": {"url": "data:image/jpeg;base64,/9j/4AAQSkZJRg..."}}
    ]
  }'
"""
MASK_DOCUMENT = """{"type": "image_url", "role": "mask_image", "image_url": {"url": "https://example.com/mask.png"}}"""


def bodies_in(document: str) -> list[dict[str, Any]]:
    return [json.loads(body) for body in re.findall(r"(?:--data|-d) '(.*?)'", document, flags=re.DOTALL)]


def omnihuman(**changes: Any) -> OmniHumanVideo:
    return OmniHumanVideo(**{"image_url": PORTRAIT, "audio_url": SPEECH} | changes)


def jimeng(**changes: Any) -> JimengVideo:
    return JimengVideo(**{"prompt": "A cat jumps."} | changes)


def element_of(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


# --- The document's own bodies ---


def test_the_omnihuman_body_of_the_document_is_produced_exactly() -> None:
    (body,) = bodies_in(OMNIHUMAN_DOCUMENT)
    assert omnihuman(prompt="自然说话,面带微笑").body() == body


@pytest.mark.parametrize("body", bodies_in(JIMENG_DOCUMENT), ids=["text", "image", "content", "content+url", "base64"])
def test_each_jimeng_body_of_the_document_is_produced_exactly(body: dict[str, Any]) -> None:
    assert JimengVideo(**body).body() == body
    assert JimengVideo(**body | {"req_key": None}).body() == body


def test_masks_travel_in_mask_urls_or_as_the_documents_content_element() -> None:
    (body,) = bodies_in(OMNIHUMAN_DOCUMENT)
    masks = ("https://example.com/mask.png",)
    request = omnihuman(prompt="自然说话,面带微笑", mask_urls=masks)
    assert request.body() == body | {"mask_urls": list(masks)}
    in_content = OmniHumanVideo(**request.model_dump(exclude_unset=True) | {"masks_as": "content"})
    assert in_content.body() == body | {"content": [*body["content"], json.loads(MASK_DOCUMENT)]}


def test_what_is_not_set_is_left_to_the_documented_default() -> None:
    assert set(omnihuman().body()) == {"model", "req_key", "generation_type", "output_resolution", "content"}
    assert jimeng().body() == {"model": P, "prompt": "A cat jumps.", "req_key": "jimeng_ti2v_v30_pro"}


def test_what_is_set_is_sent_even_where_it_is_the_default() -> None:
    defaults = {"seed": -1, "pe_fast_mode": False}
    assert omnihuman(**defaults).body() == omnihuman().body() | defaults


# --- req_key ---

CAMERA = {"template_id": "hitchcock_dolly_in", "camera_strength": "weak"}
CATALOG = [
    (P, 0, {}, "jimeng_ti2v_v30_pro"),
    (P, 1, {}, "jimeng_ti2v_v30_pro"),
    (S, 0, {}, "jimeng_t2v_v30"),
    (S, 1, {}, "jimeng_i2v_first_v30"),
    (S, 2, {}, "jimeng_i2v_first_tail_v30"),
    (S, 1, CAMERA, "jimeng_i2v_recamera_v30"),
    (F, 0, {}, "jimeng_t2v_v30_1080p"),
    (F, 1, {}, "jimeng_i2v_first_v30_1080"),
    (F, 2, {}, "jimeng_i2v_first_tail_v30_1080"),
]


@pytest.mark.parametrize(("model", "pictures", "camera", "req_key"), CATALOG)
@pytest.mark.parametrize("place", ["image_urls", "content"])
def test_the_req_key_follows_from_the_model_and_the_inputs(
    model: str, pictures: int, camera: dict[str, str], req_key: str, place: str
) -> None:
    urls = [f"https://example.com/{number}.jpg" for number in range(pictures)]
    request = jimeng(model=model, **camera, **{place: urls if place == "image_urls" else [*map(element_of, urls)]})
    assert request.body()["req_key"] == req_key
    assert request.body().items() >= camera.items()
    assert jimeng(**request.model_dump(exclude_unset=True) | {"req_key": req_key}).body() == request.body()


@pytest.mark.parametrize(("model", "pictures"), [(P, 2), (F, 3), (S, 3)])
def test_more_pictures_than_a_model_takes_are_refused(model: str, pictures: int) -> None:
    with pytest.raises(InvalidRequest, match=f"{pictures} pictures do not fit"):
        jimeng(model=model, content=[element_of(PICTURE)] * pictures)


# --- Whatever is accepted is documented ---

Make = Callable[..., JimengVideo | OmniHumanVideo]
Inputs = dict[str, st.SearchStrategy[Any]]
KINDS = ["jimeng", "omnihuman"]
TEXTS = st.sampled_from(["", " ", "A cat jumps.", "千军万马", "x" * 800, "x" * 801])
BAD_URLS = ["", "gopher://example.com/a", "s3://", "https://", "https://example.com/a b.jpg"]
URLS = st.sampled_from([PICTURE, f"{PICTURE}?sign=1", DATA_URI, "data:text/plain,x", "https://a.com:99999/", *BAD_URLS])
ELEMENTS = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "image_url", "image_base64", "audio_url"])},
    optional={"text": TEXTS, "image_url": st.fixed_dictionaries({"url": URLS})},
)
JIMENG_INPUTS: Inputs = {
    "model": st.sampled_from([P, S, F, "jimeng-video-4"]),
    "prompt": TEXTS,
    "req_key": st.sampled_from([None, "", "nonsense", *(key.name for key in catalog.REQ_KEYS)]),
    "image_urls": st.lists(URLS, max_size=3),
    "content": st.lists(ELEMENTS, max_size=3),
    "frames": st.sampled_from([None, 0, 121, 241, "121", 121.0, True]),
    "seconds": st.sampled_from([None, 5, 10, "5", "10", " 5", 5.0, 7, ""]),
    "aspect_ratio": st.sampled_from([None, "", "16:9", "21:9", "16x9"]),
    "size": st.sampled_from([None, "", "1280x720", "1280 x 720", "１２８０x７２０", "0x720", "1280x720x1", "99999x1"]),
    "seed": st.sampled_from([-2, -1, 0, 2**31 - 1, 2**31, "7", None]),
    "template_id": st.sampled_from([None, "", "handheld", "nonsense"]),
    "camera_strength": st.sampled_from([None, "weak", "heavy"]),
    "colour": st.just("red"),
}
OMNIHUMAN_INPUTS: Inputs = {
    "image_url": URLS,
    "audio_url": URLS,
    "prompt": TEXTS,
    "mask_urls": st.lists(URLS, max_size=6),
    "masks_as": st.sampled_from(["mask_urls", "content", ""]),
    "subject": st.sampled_from(["", "auto", "largest", "1", "640,360", "somebody"]),
    "output_resolution": st.sampled_from([720, 1080, "1080", 1080.0, 480]),
    "pe_fast_mode": st.sampled_from([True, False, "yes", 2]),
    "seed": JIMENG_INPUTS["seed"],
    "colour": st.just("red"),
}


def few_of(inputs: Inputs) -> st.SearchStrategy[dict[str, Any]]:
    """Some of the inputs: with all of them hardly anything would be accepted."""
    chosen = st.lists(st.sampled_from(sorted(inputs)), max_size=5, unique=True)
    return chosen.flatmap(lambda names: st.fixed_dictionaries({name: inputs[name] for name in names}))


def is_fetchable(url: str) -> bool:
    return re.fullmatch(r"https?://example\.com(:\d{1,4})?(/\S*)?", url) is not None


DOCUMENTED: dict[str, Any] = {
    "model": lambda value: value in (*get_args(catalog.JimengModel), catalog.OMNIHUMAN_MODEL),
    "req_key": lambda value: value in {key.name for key in catalog.REQ_KEYS} | {catalog.OMNIHUMAN_REQ_KEY},
    "prompt": lambda value: isinstance(value, str),
    "seed": lambda value: type(value) is int and value >= -1,
    "frames": lambda value: type(value) is int and value in (121, 241),
    "seconds": lambda value: value in ("5", "10"),
    "size": lambda value: re.fullmatch(r"[1-9][0-9]*x[1-9][0-9]*", value) is not None,
    "aspect_ratio": lambda value: value in get_args(catalog.AspectRatio),
    "image_urls": lambda value: all(map(is_fetchable, value)),
    "mask_urls": lambda value: 1 <= len(value) <= 5 and all(map(is_fetchable, value)),
    "template_id": lambda value: value in get_args(catalog.CameraTemplate),
    "camera_strength": lambda value: value in ("weak", "medium", "strong"),
    "generation_type": lambda value: value == "omni_human",
    "output_resolution": lambda value: type(value) is int and value in (720, 1080),
    "pe_fast_mode": lambda value: isinstance(value, bool),
    "content": lambda value: all(map(is_documented_element, value)),
}


def is_documented_element(element: dict[str, Any]) -> bool:
    match element:
        case {"type": "text", "text": str()} if len(element) == 2:
            return True
        case {"type": "image_base64", "image_url": {"url": str(url)}} if len(element) == 2:
            return url.startswith("data:image/")
        case {"type": "image_url", "role": "mask_image", "image_url": {"url": str(url)}} if len(element) == 3:
            return is_fetchable(url)
        case {"type": "image_url" | "audio_url" as kind} if len(element) == 2:
            return set(element[kind]) == {"url"} and is_fetchable(element[kind]["url"])
    return False


def check_documented(body: dict[str, Any]) -> None:
    for name, value in body.items():
        assert DOCUMENTED[name](value), f"{name}: {value!r}"
    written = json.dumps(body)
    assert '""' not in written
    assert "null" not in written


many = settings(derandomize=True, deadline=None, max_examples=300)


@pytest.mark.parametrize(("make", "inputs"), [(jimeng, JIMENG_INPUTS), (omnihuman, OMNIHUMAN_INPUTS)], ids=KINDS)
@many
@given(data=st.data())
def test_whatever_is_accepted_is_sent_in_documented_values(make: Make, inputs: Inputs, data: st.DataObject) -> None:
    try:
        request = make(**data.draw(few_of(inputs)))
    except (InvalidRequest, ValidationError):  # how a refusal comes is the next test's
        return
    check_documented(request.body())
    assert json.dumps(request.identity_inputs())
    assert request.expectation().resolution_class in (720, 1080)


@pytest.mark.parametrize(("make", "inputs"), [(jimeng, JIMENG_INPUTS), (omnihuman, OMNIHUMAN_INPUTS)], ids=KINDS)
@many
@given(data=st.data())
def test_bad_input_is_only_ever_an_invalid_request(make: Make, inputs: Inputs, data: st.DataObject) -> None:
    with contextlib.suppress(InvalidRequest):
        make(**data.draw(few_of(inputs)))


@many
@given(st.text(max_size=900), st.integers(-1, 2**31 - 1), st.sampled_from([720, 1080]))
def test_any_text_travels_unchanged(prompt: str, seed: int, resolution: int) -> None:
    body = omnihuman(prompt=prompt, seed=seed, output_resolution=resolution).body()
    assert body.get("prompt", "") == prompt
    assert (body["seed"], body["output_resolution"]) == (seed, resolution)


# --- What is refused ---


def refusal(kind: type[JimengVideo | OmniHumanVideo], **inputs: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        kind(**inputs)
    return caught.value


BAD_OMNIHUMAN: list[dict[str, Any]] = [
    {
        "image_url": "gopher://example.com/a",
        "audio_url": "",
        "mask_urls": [PICTURE] * 6,
        "masks_as": "files",
        "colour": "red",
    },
    {"output_resolution": 480, "pe_fast_mode": "perhaps", "seed": -2, "subject": "somebody"},
]
BAD_JIMENG: list[dict[str, Any]] = [
    {"model": "jimeng-video-4", "prompt": "x" * 801, "image_urls": [PICTURE] * 3, "frames": 120, "seconds": 7},
    {"aspect_ratio": "16x9", "size": "big", "seed": 2**31, "template_id": "zoom", "camera_strength": "heavy", "no": 1},
]


@pytest.mark.parametrize(("kind", "bad"), [(JimengVideo, BAD_JIMENG), (OmniHumanVideo, BAD_OMNIHUMAN)], ids=KINDS)
def test_every_bad_field_is_named_at_once(kind: type[JimengVideo], bad: list[dict[str, Any]]) -> None:
    inputs = bad[0] | bad[1]
    error = refusal(kind, **inputs)
    assert {problem.field for problem in error.problems} == set(inputs)
    assert all(str(problem) in str(error) for problem in error.problems)


def test_missing_inputs_are_named_at_once() -> None:
    assert [problem.field for problem in refusal(OmniHumanVideo).problems] == ["image_url", "audio_url"]


@pytest.mark.parametrize("url", [*BAD_URLS, "http://[bad/", "http://:80/", "https://example.com:99999/a.jpg", DATA_URI])
def test_what_the_provider_cannot_fetch_is_refused(url: str) -> None:
    assert refusal(OmniHumanVideo, image_url=url, audio_url=SPEECH).problems[0].field == "image_url"
    assert refusal(JimengVideo, content=[element_of(url)]).problems[0].field.startswith("content.0")


@pytest.mark.parametrize("path", ["cat.jpg", "/home/me/cat.jpg"])
def test_a_path_is_an_input_but_is_never_sent_as_it_is(path: str) -> None:
    """Whether there is a file is found out when inputs are inspected."""
    for request in (
        OmniHumanVideo(image_url=path, audio_url=SPEECH),
        OmniHumanVideo(image_url=PORTRAIT, audio_url=SPEECH, mask_urls=(path,)),
        JimengVideo(prompt="x", image_urls=(path,)),
        jimeng(prompt="x", content=[element_of(path)]),
    ):
        with pytest.raises(InvalidRequest, match="must be prepared first"):
            request.body()


def test_a_row_whose_speaker_was_not_looked_for_is_too_old_to_be_sent() -> None:
    """It would be sent as if anybody might speak."""
    row = OmniHumanVideo(image_url=PORTRAIT, audio_url=SPEECH, subject="0.50,0.4").normalized()
    assert row.subject == "0.5,0.4"
    assert row.stale_at() == float("-inf")


CONFLICTS: dict[str, dict[str, Any]] = {
    "frames or seconds": {"prompt": "x", "frames": 121, "seconds": 10},
    "size or aspect_ratio": {"prompt": "x", "size": "1280x720", "aspect_ratio": "9:16"},
    "image_urls or in content": {"image_urls": [PICTURE], "content": [element_of(PICTURE)]},
    "one text in content": {"content": [{"type": "text", "text": "a"}] * 2},
    "needs a prompt": {},
    "req_key": {"prompt": "x", "req_key": "jimeng_t2v_v30"},
    "template_id and camera_strength belong": {"prompt": "x", "template_id": "handheld"},
    f"{S} with jimeng_i2v_recamera_v30 needs template_id and camera_strength": {
        "model": S,
        "image_urls": [PICTURE],
        "req_key": "jimeng_i2v_recamera_v30",
    },
    f"{S} with jimeng_i2v_recamera_v30 needs camera_strength": {
        "model": S,
        "image_urls": [PICTURE],
        "template_id": "handheld",
    },
}


@pytest.mark.parametrize(("named", "inputs"), CONFLICTS.items(), ids=CONFLICTS.keys())
def test_inputs_that_do_not_fit_together_are_refused(named: str, inputs: dict[str, Any]) -> None:
    assert named in str(refusal(JimengVideo, **inputs))


def test_what_extra_body_says_of_the_camera_is_not_missing() -> None:
    request = jimeng(model=S, image_urls=[PICTURE], template_id="handheld", extra_body={"camera_strength": "extreme"})
    assert request.payload()["camera_strength"] == "extreme"


UNSET: dict[str, dict[str, Any]] = {
    "req_key": {"req_key": ""},
    "frames": {"frames": ""},
    "frames by the form's word": {"frames": "auto"},
    "aspect_ratio": {"aspect_ratio": ""},
    "aspect_ratio by the form's word": {"aspect_ratio": "auto"},
    "template_id and camera_strength": {"template_id": "none", "camera_strength": "none"},
    "size": {"size": ""},
    "seconds": {"seconds": ""},
}


@pytest.mark.parametrize("inputs", UNSET.values(), ids=UNSET.keys())
def test_an_empty_text_and_the_forms_words_are_the_same_as_not_given(inputs: dict[str, Any]) -> None:
    assert jimeng(**inputs).identity() == jimeng(**dict.fromkeys(inputs)).identity() == jimeng().identity()
    assert jimeng(**inputs).body() == jimeng().body()


@pytest.mark.parametrize(
    ("inputs", "seconds", "sent"),
    [
        ({"seconds": 5, "frames": 241}, 10, {"frames": 241}),
        ({"seconds": 10, "frames": 241}, 10, {"frames": 241}),
        ({"seconds": 5, "frames": 121}, 5, {"frames": 121}),
        ({"seconds": 10}, 10, {"seconds": "10"}),
    ],
)
def test_frames_that_are_set_win_over_seconds(inputs: dict[str, Any], seconds: int, sent: dict[str, Any]) -> None:
    request = jimeng(**inputs)
    assert {name: value for name, value in request.body().items() if name in ("frames", "seconds")} == sent
    assert request.expectation().seconds == seconds
    assert request.identity() == jimeng(seconds=seconds).identity()


@pytest.mark.parametrize("size", ["1280x720", "1280×720", "1280 X 720", " 1280 × 720 ", "1280*720"])
def test_a_size_is_understood_as_people_write_it_and_may_stand_beside_its_ratio(size: str) -> None:
    assert jimeng(size=size).body()["size"] == "1280x720"
    assert jimeng(size=size, aspect_ratio="16:9").body() == jimeng(size=size).body() | {"aspect_ratio": "16:9"}
    assert jimeng(size=size, aspect_ratio="16:9").identity() == jimeng(aspect_ratio="16:9").identity()


def test_every_conflict_is_a_problem_of_its_own() -> None:
    inputs = CONFLICTS["frames or seconds"] | CONFLICTS["size or aspect_ratio"]
    assert len(refusal(JimengVideo, **inputs).problems) == 2


REVEALING = {
    "long": {"prompt": "s3cret" * 200},
    "user name": {"image_urls": ["http://s3cret@exa℀mple.com/"]},
    "host": {"image_urls": ["http://[s3cret]/"]},
    "type": {"prompt": "x", "content": [{"type": "s3cret"}]},
    "choice": {"prompt": "x", "frames": "s3cret", "size": "s3cret", "template_id": "s3cret"},
}


@pytest.mark.parametrize("inputs", REVEALING.values(), ids=REVEALING.keys())
def test_a_refusal_does_not_repeat_the_input(inputs: dict[str, Any]) -> None:
    assert "s3cret" not in str(refusal(JimengVideo, **inputs))


def test_a_request_cannot_be_changed() -> None:
    for request in (jimeng(), omnihuman()):
        with pytest.raises(ValidationError, match="frozen"):
            request.prompt = "Another."


# --- Identity ---

MASKS = ["https://example.com/mask1.png", "https://example.com/mask2.png"]
ONE, TWO = (f"?X-Amz-Signature={number}&X-Amz-Date={number}&X-Amz-Expires=60" for number in (1, 2))
SAME = [
    (omnihuman, {}, {"output_resolution": 1080, "seed": -1, "pe_fast_mode": False}),
    (omnihuman, {"image_url": PORTRAIT + ONE, "audio_url": SPEECH + ONE}, {}),
    (omnihuman, {"image_url": PORTRAIT + ONE, "audio_url": SPEECH + ONE}, {"image_url": PORTRAIT + TWO}),
    (omnihuman, {"mask_urls": MASKS[:1], "subject": "largest"}, {"mask_urls": MASKS[1:], "subject": "largest"}),
    (omnihuman, {"mask_urls": [MASKS[0] + ONE]}, {"mask_urls": [MASKS[0] + TWO]}),
    (omnihuman, {"mask_urls": MASKS}, {"mask_urls": MASKS, "masks_as": "content"}),
    (jimeng, {"image_urls": [PICTURE + ONE]}, {"image_urls": [PICTURE + TWO]}),
    (jimeng, {"image_urls": [PICTURE + ONE]}, {"content": [element_of(PICTURE + TWO)]}),
    (jimeng, {}, {"prompt": "", "content": [{"type": "text", "text": "A cat jumps."}]}),
    (jimeng, {}, {"req_key": "jimeng_ti2v_v30_pro", "seed": -1}),
    *[(jimeng, {}, length) for length in ({"frames": 121}, {"seconds": 5}, {"seconds": "5"})],
    *[(jimeng, {}, ratio) for ratio in ({"aspect_ratio": "16:9"}, {"size": "1280x720"})],
]
DIFFERENT = [
    *[(omnihuman, {}, change) for change in ({"prompt": "Smile."}, {"output_resolution": 720}, {"seed": 7})],
    *[(omnihuman, {}, change) for change in ({"image_url": PICTURE}, {"audio_url": PICTURE}, {"mask_urls": MASKS})],
    (omnihuman, {}, {"pe_fast_mode": True}),
    (omnihuman, {"mask_urls": MASKS[:1]}, {"mask_urls": MASKS[1:]}),
    (omnihuman, {"mask_urls": MASKS, "subject": "largest"}, {"mask_urls": MASKS, "subject": "leftmost"}),
    *[(jimeng, {}, change) for change in ({"prompt": "A dog."}, {"model": S}, {"seconds": 10}, {"seed": 7})],
    *[(jimeng, {}, change) for change in ({"aspect_ratio": "1:1"}, {"size": "9x9"}, {"image_urls": [PICTURE]})],
    (jimeng, {"model": S, "image_urls": [PICTURE]}, {"model": S, "image_urls": [PICTURE], **CAMERA}),
    (jimeng, {"model": S, "image_urls": [PICTURE, PORTRAIT]}, {"model": S, "image_urls": [PORTRAIT, PICTURE]}),
]


@pytest.mark.parametrize(("make", "one", "other"), SAME)
def test_the_same_wish_in_other_words_is_the_same(make: Make, one: dict[str, Any], other: dict[str, Any]) -> None:
    assert make(**one).identity_inputs() == make(**other).identity_inputs()


@pytest.mark.parametrize(("make", "one", "other"), DIFFERENT)
def test_another_wish_is_another(make: Make, one: dict[str, Any], other: dict[str, Any]) -> None:
    assert make(**one).identity_inputs() != make(**other).identity_inputs()


def test_choosing_a_subject_keeps_everything_else() -> None:
    chosen = omnihuman(prompt="Smile.").with_subject(SubjectSelection(subject="1", mask_urls=(MASKS[1],)))
    assert chosen.body() == omnihuman(prompt="Smile.").body() | {"mask_urls": [MASKS[1]]}
    assert chosen.identity_inputs()["speaker"] == "1"
