"""A download on its way to the disk: whole and hashed, or an error and nothing left."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from fsspec.registry import _registry

from prefect_genmedia._media import staged, storage
from prefect_genmedia._media.staged import StagedDownload
from prefect_genmedia._media.storage import LocalFolder, RemoteFolder, storing, target_at
from prefect_genmedia.errors import InvalidRequest, ProviderError, ResultInvalid, StorageError
from prefect_genmedia.providers.protocol import ResultStream


def stream_of(pieces: Sequence[bytes], length: int | None = None, content_type: str = "video/mp4") -> ResultStream:
    async def chunks() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    return ResultStream(chunks, length, content_type)


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of some bytes take many trips to a thread."""
    monkeypatch.setattr(staged, "PIECE_BYTES", 4)


@pytest.mark.parametrize("pieces", [[b"abc"], [b"abcd"], [b"abc", b"de", b"fghij", b"k"] * 20])
async def test_what_arrives_in_pieces_is_written_in_order_and_hashed(
    pieces: list[bytes], tmp_path: Path, small_pieces: None
) -> None:
    arriving = StagedDownload(LocalFolder(tmp_path))
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
async def test_what_is_no_file_is_reported_and_may_be_fetched_again(
    stream: ResultStream, said: str, tmp_path: Path
) -> None:
    with pytest.raises(ProviderError, match=said) as caught:
        await StagedDownload(LocalFolder(tmp_path)).receive(stream)
    assert caught.value.retryable


async def test_a_runaway_download_ends_at_the_cap_and_leaves_nothing(tmp_path: Path, small_pieces: None) -> None:
    arriving = StagedDownload(LocalFolder(tmp_path), max_bytes=100)
    with pytest.raises(ResultInvalid, match="larger than 100 bytes") as caught:
        await arriving.receive(stream_of([b"abcdef"] * 1000))
    assert not caught.value.retryable
    arriving.close()
    assert list(tmp_path.iterdir()) == []


async def test_a_full_disk_is_reported_while_the_rest_still_arrives(tmp_path: Path, small_pieces: None) -> None:
    class FullFolder(LocalFolder):
        def staging(self):
            raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match="no space left") as caught:
        await StagedDownload(FullFolder(tmp_path)).receive(stream_of([b"abcdef"] * 10))
    assert caught.value.retryable


def test_a_storage_s_error_is_reported_without_the_credentials_and_signatures_that_it_quotes() -> None:
    with pytest.raises(StorageError) as caught, storing():
        raise PermissionError("PUT https://me:hunter2@store.example/a.mp4?X-Amz-Signature=5ec12e7 was refused")
    assert "store.example/a.mp4" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "5ec12e7" not in str(caught.value)


@pytest.mark.parametrize(
    "output",
    [
        "sftp://me:hunter2@store.example/media",
        "s3://key:hunter2@bucket/media/film.mp4",
        "simplecache::sftp://me:hunter2@store.example/media",
    ],
)
def test_a_password_in_an_output_is_refused_with_where_it_belongs_and_not_repeated(output: str) -> None:
    with pytest.raises(InvalidRequest, match="block://") as caught:
        target_at(output)
    assert "hunter2" not in f"{caught.value} {vars(caught.value)}"


@pytest.mark.parametrize("output", ["s4://bucket/media", "s4://bucket/film.mp4"])
def test_a_storage_that_nothing_here_opens_is_named_before_anything_is_paid(output: str) -> None:
    with pytest.raises(InvalidRequest, match="s4://bucket"):
        target_at(output)


def test_a_storage_whose_library_is_missing_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(_registry, "s3", raising=False)  # where S3 was opened before in this process
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(InvalidRequest, match=r"s3://bucket/media cannot be opened here: .*s3fs"):
        target_at("s3://bucket/media")


def test_a_storage_that_cannot_be_reached_may_be_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(url: str) -> None:
        raise RuntimeError("no route to https://me:hunter2@store.example")

    monkeypatch.setattr(storage, "url_to_fs", unreachable)
    with pytest.raises(StorageError, match=r"no route to https://store\.example\.") as caught:
        target_at("sftp://me@store.example/media")
    assert (caught.value.retryable, caught.value.paid) == (True, "nothing")
    assert "billed" not in str(caught.value.about("key", "id"))


def test_a_storage_that_does_not_tell_whether_a_file_is_there_is_reported_as_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class NoCredentials(Exception):
        """Stands for what a storage's library raises."""

    def refused(*args: Any) -> None:
        raise NoCredentials("Unable to locate credentials")

    folder = RemoteFolder("memory://media")
    monkeypatch.setattr(storage.fsspec, "open", refused)
    with pytest.raises(StorageError, match="Unable to locate credentials"):
        folder.digest("memory://media/film.mp4")
