"""A download on its way to the disk: whole and hashed, or an error and nothing left."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from prefect_genmedia.errors import ProviderError, ResultInvalid, StorageError
from prefect_genmedia.jobs import landing
from prefect_genmedia.jobs.landing import Landing
from prefect_genmedia.jobs.storage import LocalFolder, storing
from prefect_genmedia.providers.protocol import ResultStream


def stream_of(pieces: Sequence[bytes], length: int | None = None, content_type: str = "video/mp4") -> ResultStream:
    async def chunks() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    return ResultStream(chunks, length, content_type)


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of some bytes take many trips to a thread."""
    monkeypatch.setattr(landing, "PIECE_BYTES", 4)


@pytest.mark.parametrize("pieces", [[b"abc"], [b"abcd"], [b"abc", b"de", b"fghij", b"k"] * 20])
async def test_what_arrives_in_pieces_is_written_in_order_and_hashed(
    pieces: list[bytes], tmp_path: Path, small_pieces: None
) -> None:
    arriving = Landing(LocalFolder(tmp_path))
    await arriving.receive(stream_of(pieces, len(b"".join(pieces))))
    path, digest = arriving.settle()
    assert path.read_bytes() == b"".join(pieces)
    assert digest == hashlib.sha256(b"".join(pieces)).hexdigest()
    assert arriving.size == len(b"".join(pieces))
    arriving.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("stream", "said"),
    [
        (stream_of([b"abcdef"], 7), "ended after 6 of 7 bytes"),
        (stream_of([], 0), "is empty"),
        (stream_of([b"<html>"], None, "text/html"), "is text/html, not a video"),
    ],
    ids=["cut short", "empty", "a page"],
)
async def test_what_is_no_file_is_told_and_may_be_fetched_again(
    stream: ResultStream, said: str, tmp_path: Path
) -> None:
    with pytest.raises(ProviderError, match=said) as caught:
        await Landing(LocalFolder(tmp_path)).receive(stream)
    assert caught.value.retryable


async def test_a_runaway_download_ends_at_the_cap_and_leaves_nothing(
    tmp_path: Path, small_pieces: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(landing, "MAX_BYTES", 100)
    arriving = Landing(LocalFolder(tmp_path))
    with pytest.raises(ResultInvalid, match="larger than 100 bytes") as caught:
        await arriving.receive(stream_of([b"abcdef"] * 1000))
    assert not caught.value.retryable
    arriving.close()
    assert list(tmp_path.iterdir()) == []


async def test_a_full_disk_is_told_while_the_rest_still_arrives(tmp_path: Path, small_pieces: None) -> None:
    class FullFolder(LocalFolder):
        def staging(self):
            raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match="No space left") as caught:
        await Landing(FullFolder(tmp_path)).receive(stream_of([b"abcdef"] * 10))
    assert caught.value.retryable


def test_a_storage_s_error_is_told_without_the_credentials_and_signatures_that_it_quotes() -> None:
    with pytest.raises(StorageError) as caught, storing():
        raise PermissionError("PUT https://me:hunter2@store.example/a.mp4?X-Amz-Signature=5ec12e7 was refused")
    assert "store.example/a.mp4" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "5ec12e7" not in str(caught.value)
