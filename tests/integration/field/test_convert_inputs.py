"""`convert_inputs=True`: a user's own pictures become what the provider takes, and stay what the job is known by."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageCms

from prefect_genmedia import TokenOpsCredentials, errors
from prefect_genmedia._core import Ledger
from prefect_genmedia.flows.batch import generate_batch
from prefect_genmedia.flows.jimeng import jimeng_video
from prefect_genmedia.simulator import RunningSimulator
from prefect_genmedia.simulator.media import Recipe
from prefect_genmedia.simulator.world import World

pytestmark = pytest.mark.usefixtures("prefect_server", "quick")

RED, BLUE = (200, 30, 30), (30, 30, 200)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    rendered = World._rendered

    async def few_frames(world: World, recipe: Recipe) -> bytes:
        return await rendered(world, Recipe(None, short_side=1080, ratio=16 / 9, rate=1, frames=5))

    monkeypatch.setattr(World, "_rendered", few_frames)


def two_halves(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Red above, blue below."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (0, height // 2, width, height))
    return image.convert(mode)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    output = io.BytesIO()
    image.save(output, kind, **options)
    return output.getvalue()


def rotated_heic() -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif")
    output = io.BytesIO()
    pillow_heif.from_pillow(two_halves(480, 640)).save(output)
    return output.getvalue()


def sideways_jpeg() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(two_halves(640, 480).transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif)


def with_profile() -> bytes:
    """Red above, blue below, by a profile that has red and blue exchanged."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = srgb.replace(b"rXYZ", b"----", 1).replace(b"bXYZ", b"rXYZ", 1).replace(b"----", b"bXYZ", 1)
    exchanged = two_halves(400, 400).transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    return saved(exchanged, "WEBP", icc_profile=profile, quality=100)


def noise(width: int, height: int) -> Image.Image:
    return Image.effect_noise((width, height), 90).convert("RGB")


PICTURES: dict[str, Any] = {
    "heic": rotated_heic,
    "avif": lambda: saved(two_halves(480, 640), "AVIF"),
    "webp": lambda: saved(two_halves(480, 640), "WEBP"),
    "tiff": lambda: saved(two_halves(480, 640), "TIFF"),
    "cmyk": lambda: saved(two_halves(480, 640, "CMYK"), "JPEG"),
    "sideways": sideways_jpeg,
    "sixteen bits": lambda: saved(Image.new("I;16", (480, 640), 30_000), "PNG"),
    "large sides": lambda: saved(two_halves(3000, 6000), "PNG"),
    "small sides": lambda: saved(two_halves(200, 300), "PNG"),
    "as it is": lambda: saved(two_halves(480, 640), "JPEG"),
    "a profile": with_profile,
    "many bytes": lambda: saved(noise(1600, 1600), "PNG"),
}


def sent_pictures(simulator: RunningSimulator) -> dict[str, Image.Image]:
    """What the provider was sent, by the prompt."""
    found = {}
    for job in simulator.world.jobs.values():
        texts = sorted(_texts(job.body), key=len)
        content = base64.b64decode(texts[-1].rpartition(",")[2])
        assert len(content) <= 4.7 * 1024**2
        found[next(text for text in texts if text in PICTURES)] = Image.open(io.BytesIO(content))
    return found


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for inner in value.values() for text in _texts(inner)]
    if isinstance(value, list):
        return [text for inner in value for text in _texts(inner)]
    return [value] if isinstance(value, str) else []


async def test_pictures_of_every_kind_become_what_the_provider_takes(
    credentials: TokenOpsCredentials, simulator: RunningSimulator, tmp_path: Path
) -> None:
    rows = []
    for name, made in PICTURES.items():
        file = tmp_path / f"{name}.bin"
        file.write_bytes(made())
        rows.append({"id": name, "prompt": name, "image_urls": [str(file)]})
    options: dict[str, Any] = {"kind": "jimeng", "credentials": credentials, "output": str(tmp_path / "out")}
    report = await generate_batch(rows, **options, convert_inputs=True)
    assert report.delivered == len(rows)
    found = sent_pictures(simulator)
    assert found.keys() == PICTURES.keys()
    for name, sent in found.items():
        assert sent.format in ("JPEG", "PNG")
        assert sent.mode == "RGB"
        assert sent.getexif().get(0x0112, 1) == 1
        assert "icc_profile" not in sent.info
        assert max(sent.size) <= 4096
        assert min(sent.size) >= 320
        if name not in ("sixteen bits", "many bytes"):
            above: Any = sent.getpixel((sent.width // 2, sent.height // 8))
            below: Any = sent.getpixel((sent.width // 2, sent.height - sent.height // 8))
            assert above[0] > above[2] + 60
            assert below[2] > below[0] + 60
    gray: Any = found["sixteen bits"].getpixel((200, 200))
    assert abs(gray[0] - 117) < 3
    (as_it_is,) = (job for job in simulator.world.jobs.values() if "as it is" in _texts(job.body))
    original = base64.b64encode((tmp_path / "as it is.bin").read_bytes()).decode()
    assert any(original in text for text in _texts(as_it_is.body))


async def test_the_identity_is_the_original_s_and_a_refusal_says_that_conversion_exists(
    credentials: TokenOpsCredentials, simulator: RunningSimulator, ledger: Ledger, tmp_path: Path
) -> None:
    file = tmp_path / "own.webp"
    file.write_bytes(PICTURES["webp"]())
    options: dict[str, Any] = {
        "credentials": credentials,
        "image_urls": [str(file)],
        "idempotency_key": "order-7",
        "output": str(tmp_path / "out"),
    }
    with pytest.raises(errors.InvalidRequest, match="is WEBP, not JPEG or PNG; convert_inputs=True converts it"):
        await jimeng_video("waves", **options)
    await jimeng_video("waves", **options, convert_inputs=True)
    await jimeng_video("waves", **options)  # joins the paid job: nothing is checked
    assert simulator.accepted == 1


async def test_what_no_scale_can_meet_is_still_refused_and_what_does_not_decode_is_named(
    credentials: TokenOpsCredentials, simulator: RunningSimulator, tmp_path: Path
) -> None:
    long, cut = tmp_path / "long.webp", tmp_path / "cut.jpg"
    long.write_bytes(saved(two_halves(3000, 400), "WEBP"))
    cut.write_bytes(saved(noise(600, 600).convert("CMYK"), "JPEG")[:20_000])
    for file, said in ((long, "not be more than 3 times the short one"), (cut, "cannot be converted: it does not dec")):
        with pytest.raises(errors.InvalidRequest, match=said):
            await jimeng_video("waves", credentials=credentials, image_urls=[str(file)], convert_inputs=True)
    assert simulator.accepted == 0


async def test_rows_of_a_batch_are_converted_and_refused_with_the_same_words(
    credentials: TokenOpsCredentials, simulator: RunningSimulator, tmp_path: Path
) -> None:
    file = tmp_path / "own.avif"
    file.write_bytes(PICTURES["avif"]())
    rows = [{"id": "one", "prompt": "waves", "image_urls": str(file)}]
    options: dict[str, Any] = {"kind": "jimeng", "credentials": credentials, "output": str(tmp_path / "out")}
    with pytest.raises(errors.InvalidRequest, match=r"row one.*is AVIF, not JPEG or PNG; convert_inputs=True"):
        await generate_batch(rows, **options)
    report = await generate_batch(rows, **options, convert_inputs=True, dry_run=True)
    assert report.states == {"submit": 1}


async def test_the_package_that_reads_heic_is_named_where_it_is_missing(
    credentials: TokenOpsCredentials, simulator: RunningSimulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "IMG_0001.HEIC"
    file.write_bytes(rotated_heic())
    from prefect_genmedia._inputs import convert
    from prefect_genmedia._media import decoding

    monkeypatch.setattr(convert, "find_spec", lambda name: None)
    monkeypatch.setattr(decoding, "_pool", decoding.DecoderPool())
    folders = [each for each in decoding._library_folders() if "pillow_heif" not in each]
    only = tmp_path / "libraries"
    only.mkdir()
    for folder in folders:
        for each in Path(folder).iterdir():
            if (
                each.name.startswith(("av", "PIL", "pillow.libs", "pillow-", "numpy"))
                and not (only / each.name).exists()
            ):
                (only / each.name).symlink_to(each)
    monkeypatch.setattr(decoding, "_library_folders", lambda: (str(only),))
    for convert_inputs in (False, True):
        with pytest.raises(errors.InvalidRequest, match=r"pip install 'prefect-genmedia\[heic\]'"):
            await jimeng_video("waves", credentials=credentials, image_urls=[str(file)], convert_inputs=convert_inputs)
    assert simulator.accepted == 0
