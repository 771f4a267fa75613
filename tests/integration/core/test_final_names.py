"""What delivered files are called: nothing that a person, or another job, has put there is ever written over."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import fsspec
import pytest
from prefect.filesystems import LocalFileSystem

from prefect_genmedia._core import Job, JobState, Ledger, deliver
from prefect_genmedia._media.storage import LocalFolder, RemoteFolder, Storage, Target, anywhere, is_relative, target_at
from prefect_genmedia._prefect.targets import BlockFolder
from prefect_genmedia.errors import ResultInvalid, StorageError
from prefect_genmedia.providers.protocol import MediaExpectation, ProviderClient, ResultStream
from prefect_genmedia.simulator.media import Recipe, render


@lru_cache
def video(frames: int = 3) -> bytes:
    return render(Recipe(None, short_side=64, ratio=1.0, rate=1, frames=frames))


class Client:
    """A provider that has these files for every job."""

    def __init__(self, *files: bytes) -> None:
        self.files = files

    @asynccontextmanager
    async def open_result(self, provider_job_id: str, index: int = 0) -> AsyncIterator[ResultStream]:
        async def chunks() -> AsyncIterator[bytes]:
            yield self.files[index]

        yield ResultStream(chunks, len(self.files[index]), "video/mp4")


Deliver = Callable[..., Any]


@pytest.fixture(name="delivered")
def deliver_new_job(ledger: Ledger) -> Deliver:
    """Deliver a new job that has these files."""

    async def delivered(
        target: Target | str, *files: bytes, kind: str = "stylize", provider_job_id: str = "7", **facts: Any
    ) -> Job:
        count = len(await ledger.jobs())
        new = Job(
            key=facts.pop("key", ""),
            identity=f"job {count}",
            provider="hidream",
            kind=kind,
            outputs=len(files) or 1,
            **facts,
        )
        job: Job | None = await ledger.reserve(new)
        for state in (JobState.SENDING, JobState.SUBMITTED, JobState.SUCCEEDED):
            assert job is not None
            job = await ledger.move(job, state, provider_job_id=provider_job_id)
        assert job is not None
        client = cast(ProviderClient, Client(*(files or (video(),))))
        return await deliver(ledger, client, job, target_at(target) if isinstance(target, str) else target)

    return delivered


def name_of(job: Job, index: int = 0) -> str:
    assert job.delivery is not None
    file = (job.delivery, *job.delivery.others)[index]
    assert file.poster_uri == f"{file.uri}.jpg"
    assert file.sidecar_uri == f"{file.uri}.json"
    return file.uri.rpartition("/")[2]


@pytest.fixture(params=["local", "remote", "block"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """An empty folder of each kind of storage."""
    if request.param == "local":
        return LocalFolder(tmp_path / "people")
    if request.param == "remote":
        return RemoteFolder(f"memory://{tmp_path.name}/people")
    return BlockFolder(LocalFileSystem(basepath=str(tmp_path)), "block://local-file-system/here", "people")


def put(folder: Storage, name: str, content: bytes) -> None:
    """Put a file there by other means than this package's."""
    if isinstance(folder, RemoteFolder):
        with fsspec.open(folder.uri_of(name), "wb") as file:
            file.write(content)
        return
    with folder.staging() as staged:
        staged.write_bytes(content)
        folder.publish(staged, name)


async def test_poster_and_sidecar_are_named_after_the_whole_file_name(folder: Storage, delivered: Deliver) -> None:
    """The portrait that a video is made from is often called like the video."""
    for name in ("anna.jpg", "anna.json"):
        put(folder, name, b"mine")
    job = await delivered(Target(folder, "anna.mp4"))
    assert name_of(job) == "anna.mp4"
    assert folder.read(folder.uri_of("anna.mp4.jpg"))[:2] == b"\xff\xd8"
    assert json.loads(folder.read(folder.uri_of("anna.mp4.json")))["job_key"] == job.key
    assert [folder.read(folder.uri_of(name)) for name in ("anna.jpg", "anna.json")] == [b"mine"] * 2


async def test_a_file_that_this_package_has_not_made_stays_though_the_user_gave_the_name(
    folder: Storage, delivered: Deliver
) -> None:
    put(folder, "clip.mp4", b"my own recording")
    job = await delivered(Target(folder, "clip.mp4"))
    assert name_of(job) == f"clip-{job.key}.mp4"
    assert folder.read(folder.uri_of("clip.mp4")) == b"my own recording"
    assert folder.read(folder.uri_of(name_of(job))) == video()
    reported = json.loads(folder.read(folder.uri_of(f"{name_of(job)}.json")))
    assert reported["file"] == name_of(job)


async def test_what_this_package_made_is_replaced_under_the_user_s_name_only(
    folder: Storage, delivered: Deliver
) -> None:
    first = await delivered(Target(folder, "clip.mp4"))
    second = await delivered(Target(folder, "clip.mp4"), video(4))
    assert name_of(first) == name_of(second) == "clip.mp4"
    assert folder.read(folder.uri_of("clip.mp4")) == video(4)
    third, fourth = await delivered(Target(folder)), await delivered(Target(folder), video(4))
    assert (name_of(third), name_of(fourth)) == ("stylize-7.mp4", f"stylize-7-{fourth.key}.mp4")
    assert folder.read(folder.uri_of("stylize-7.mp4")) == video()


async def test_a_lost_or_damaged_file_gets_its_own_name_back(
    folder: Storage, delivered: Deliver, ledger: Ledger
) -> None:
    put(folder, "stylize-7.mp4", b"mine")
    job = await delivered(Target(folder))
    put(folder, name_of(job), b"damaged")
    again = await deliver(ledger, cast(ProviderClient, Client(video())), job, Target(folder))
    assert name_of(again) == name_of(job) == f"stylize-7-{job.key}.mp4"
    assert folder.read(folder.uri_of(name_of(job))) == video()


async def test_what_a_person_made_of_a_delivered_file_stays(folder: Storage, delivered: Deliver) -> None:
    await delivered(Target(folder, "clip.mp4"))
    put(folder, "clip.mp4", b"with subtitles")
    job = await delivered(Target(folder, "clip.mp4"))
    assert name_of(job) == f"clip-{job.key}.mp4"
    assert folder.read(folder.uri_of("clip.mp4")) == b"with subtitles"


@pytest.mark.parametrize(
    "given", ["{uri}", "people/anna.mp4", "../people/Anna.mp4", "https://cdn.example/people/anna.mp4?x=1"]
)
async def test_a_job_s_own_input_is_never_replaced(given: str, folder: Storage, delivered: Deliver) -> None:
    """A video of this package, made into another one by it, beside it: the source was paid, too."""
    await delivered(Target(folder, "anna.mp4"))
    request = {"video_url": given.format(uri=folder.uri_of("anna.mp4")), "style": "ink_wash"}
    job = await delivered(Target(folder, "anna.mp4"), video(4), request=request)
    assert name_of(job) == f"anna-{job.key}.mp4"
    assert folder.read(folder.uri_of("anna.mp4")) == video()
    elsewhere = await delivered(Target(folder, "anna.mp4"), request={"video_url": "recordings/anna.mp4"})
    assert name_of(elsewhere) == "anna.mp4"


async def test_further_files_have_names_that_no_other_row_has(folder: Storage, delivered: Deliver) -> None:
    other = await delivered(Target(folder, "clip-2.mp4"), video(4))
    job = await delivered(Target(folder, "clip.mp4"), video(), video(5))
    assert [name_of(job), name_of(job, 1), name_of(other)] == ["clip.mp4", "clip~2.mp4", "clip-2.mp4"]
    assert folder.read(folder.uri_of("clip~2.mp4")) == video(5)
    put(folder, "shot~2.mp4", b"mine")
    job = await delivered(Target(folder, "shot.mp4"), video(), video(5))
    assert [name_of(job), name_of(job, 1)] == ["shot.mp4", f"shot~2-{job.key}.mp4"]


async def test_names_that_are_all_taken_are_reported_and_nothing_is_written(
    folder: Storage, delivered: Deliver
) -> None:
    key = "0123456789ab"
    for name in ("clip.mp4", f"clip-{key}.mp4"):
        put(folder, name, b"mine")
    with pytest.raises(StorageError, match=f"clip.mp4 and clip-{key}.mp4 stand in") as caught:
        await delivered(Target(folder, "clip.mp4"), key=key)
    assert caught.value.retryable


@pytest.mark.parametrize("job_id", ["/../../escaped", "..", "a/b", "C:\\x", "\0", "x" * 500])
async def test_a_provider_s_id_never_leads_out_of_the_folder(
    job_id: str, folder: Storage, delivered: Deliver, tmp_path: Path
) -> None:
    job = await delivered(Target(folder), provider_job_id=job_id)
    assert name_of(job).startswith("stylize-")
    assert job.delivery.uri == folder.uri_of(name_of(job))
    assert folder.read(job.delivery.uri) == video()
    assert not list(tmp_path.rglob("escaped*"))


@pytest.mark.parametrize("name", ["../out.mp4", "/tmp/out.mp4", "a/../../out.mp4", "..\\out.mp4", "", "a//b", "."])
def test_nothing_is_published_outside_of_the_folder(name: str, folder: Storage, tmp_path: Path) -> None:
    staged = tmp_path / "staged"
    staged.write_bytes(b"x")
    with pytest.raises(StorageError, match="no name of a file in a folder") as caught:
        folder.publish(staged, name)
    assert not caught.value.retryable
    with pytest.raises(StorageError):
        folder.publish(staged, "fine.mp4", {name: b"x"})
    assert folder.size("fine.mp4") is None


async def test_what_does_not_verify_has_a_quarantine_of_its_own(folder: Storage, delivered: Deliver) -> None:
    kept = []
    for _ in range(2):
        with pytest.raises(ResultInvalid) as caught:
            await delivered(Target(folder, "a.mp4"), expectation=MediaExpectation(seconds=60.0))
        kept.append(f"quarantine/a-{caught.value.job_key}.mp4")
        assert kept[-1] in caught.value.message
    assert [folder.read(folder.uri_of(name)) for name in kept] == [video()] * 2
    assert folder.size("a.mp4") is None


def test_a_link_that_leads_nowhere_is_a_file_that_stands_there(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").symlink_to(tmp_path / "gone.mp4")
    assert LocalFolder(tmp_path).size("a.mp4") is not None
    assert LocalFolder(tmp_path / "nowhere").size("a.mp4") is None


def test_who_may_not_list_a_bucket_gets_403_of_what_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RemoteFolder("memory://closed")

    def refused(path: str) -> None:
        raise PermissionError("403 Forbidden")

    monkeypatch.setattr(folder._fs, "info", refused)
    assert folder.size("a.mp4") is None


@pytest.mark.parametrize(
    ("location", "is_so", "reported"),
    [
        ("media", True, "{here}/media"),
        ("media/a.mp4", True, "{here}/media/a.mp4"),
        ("file://media", True, "{here}/media"),
        ("local://media", True, "{here}/media"),
        ("~/media", False, "{home}/media"),
        ("/data/media", False, "/data/media"),
        ("file:///data/media", False, "file:///data/media"),
        ("s3://bucket/media", False, "s3://bucket/media"),
        ("block://local-file-system/team", False, "block://local-file-system/team"),
    ],
)
def test_a_relative_path_is_known_and_made_absolute(
    location: str, is_so: bool, reported: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_relative(location) is is_so
    assert anywhere(location) == reported.format(here=Path.cwd(), home=Path.home())
