"""The gallery of a batch: every poster frame, on pages that a server and a browser can bear."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from prefect_genmedia.batch import gallery
from prefect_genmedia.batch.result import Result


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What is published, by its key."""
    found: dict[str, Any] = {}

    async def publish(key: str, markdown: str, description: str) -> None:
        found[key] = markdown

    monkeypatch.setattr(gallery, "acreate_markdown_artifact", publish)
    return found


def poster(folder: Path, noise: bool = False) -> str:
    path = folder / f"poster-{noise}.jpg"
    size = (640, 640)
    picture = (
        Image.frombytes("RGB", size, random.Random(1).randbytes(3 * size[0] * size[1]))
        if noise
        else Image.new("RGB", size)
    )
    picture.save(path, quality=95)
    return str(path)


def results(count: int, poster_uri: str | None) -> list[Result]:
    return [Result(f"row-{number}", "delivered", seconds=5.0, poster_uri=poster_uri) for number in range(count)]


async def test_every_file_stands_on_exactly_one_page(pages: dict[str, Any], tmp_path: Path) -> None:
    await gallery.publish_gallery("lakes", "all is well", results(100, poster(tmp_path)), "there.csv")
    assert list(pages) == ["genmedia-batch-gallery", "genmedia-batch-gallery-2", "genmedia-batch-gallery-3"]
    assert [page.count("data:image/jpeg") for page in pages.values()] == [48, 48, 4]
    text = "".join(pages.values())
    assert all(text.count(f"![row-{number}]") == 1 for number in range(100))
    assert "Files 97 to 100 of 100." in pages["genmedia-batch-gallery-3"]


async def test_pictures_that_do_not_compress_make_more_pages_not_larger_ones(
    pages: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gallery, "PAGE_BYTES", 200_000)
    await gallery.publish_gallery("noise", "", results(48, poster(tmp_path, noise=True)), None)
    assert len(pages) > 2
    assert max(map(len, pages.values())) < 1.1 * gallery.PAGE_BYTES
    assert sum(page.count("data:image/jpeg") for page in pages.values()) == 48


async def test_five_thousand_files_have_a_last_page_that_says_where_the_others_stand(
    pages: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    await gallery.publish_gallery("many", "", results(5000, None), "there.csv")
    assert len(pages) == gallery.MOST_PAGES
    assert "Files 961 to 1008 of 5000. This is the last page; all of them stand in `there.csv`." in "".join(
        pages.values()
    )


async def test_a_poster_that_cannot_be_read_leaves_its_name(pages: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    gone, broken = results(1, str(tmp_path / "gone.jpg")), results(1, str(tmp_path / "broken.jpg"))
    await gallery.publish_gallery("lakes", "", [*gone, *broken], None)
    assert pages["genmedia-batch-gallery"].count("row-0 · 5.0 s") == 2


async def test_a_batch_without_a_file_has_no_gallery(pages: dict[str, Any]) -> None:
    await gallery.publish_gallery("none", "", [], None)
    assert pages == {}
