"""Delivery: download, verify, publish. Delivered means that the file under its final name is whole and right."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from anyio import to_thread

from prefect_genmedia.errors import GenMediaError, JobExpired, ProviderError, ResultInvalid
from prefect_genmedia.jobs.clock import SYSTEM_CLOCK, Clock
from prefect_genmedia.jobs.ledger import Ledger
from prefect_genmedia.jobs.media import MediaFacts, examine_video, mismatches
from prefect_genmedia.jobs.model import Delivery, Job, JobState
from prefect_genmedia.jobs.storage import QUARANTINE, Storage, Target
from prefect_genmedia.providers.protocol import ProviderClient, ResultStream

MAX_BYTES = 4 * 1024**3
"""The largest file that is taken, in bytes: a runaway answer must not fill the disk."""

_PIECE = 1 << 20


async def deliver(ledger: Ledger, client: ProviderClient, job: Job, target: Target, clock: Clock = SYSTEM_CLOCK) -> Job:
    """Make sure that the job's verified file is at the target, and return the job with its delivery.

    A job that is delivered already is not downloaded again while its file still has the same digest. Where the
    provider made several files, the further ones stand beside the first as `…-2.mp4` and so on.

    Raises:
        ResultInvalid: the file does not verify; it is in quarantine beside the target. Retryable.
        JobExpired: the provider no longer has the file.
        ProviderError: the download failed; retryable.
    """
    name = target.name or f"{job.kind or job.provider}-{job.provider_job_id or job.key}.mp4"
    if job.delivery is not None and await _still_there(job.delivery, target.storage):
        return job
    failure: GenMediaError
    try:
        names = [name, *(f"{name[:-4]}-{index + 1}.mp4" for index in range(1, job.outputs))]
        files = [await _download(client, job, target.storage, each, index) for index, each in enumerate(names)]
    except (ResultInvalid, JobExpired) as error:
        failure = error.about(job.key, job.provider_job_id)
    except GenMediaError as error:
        raise error.about(job.key, job.provider_job_id) from None
    else:
        return await _delivered(ledger, job, files[0].model_copy(update={"others": tuple(files[1:])}))
    await ledger.move(
        job,
        JobState.UNDELIVERABLE,
        error_kind=failure.kind,
        error_message=failure.message,
        error_code=failure.code,
    )
    raise failure


async def _still_there(delivery: Delivery, storage: Storage) -> bool:
    for file in (delivery, *delivery.others):
        if await to_thread.run_sync(storage.digest, file.uri) != file.sha256:
            return False
    return True


async def _delivered(ledger: Ledger, job: Job, delivery: Delivery) -> Job:
    facts = {"delivery": delivery, "error_kind": None, "error_message": None, "error_code": None}
    while True:
        moved = await ledger.move(job, JobState.DELIVERED, **facts)
        if moved is not None:
            return moved
        # Another process delivered, or failed to, in the meantime; our file verifies, so it is delivered now.
        job = await ledger.get(job.key) or job


async def _download(client: ProviderClient, job: Job, storage: Storage, name: str, index: int) -> Delivery:
    async with _staged(storage) as staged:
        async with client.open_result(job.provider_job_id or "", index) as stream:
            digest, size = await _save(stream, staged)
        try:
            facts = await to_thread.run_sync(_verify, staged, job)
        except ResultInvalid:
            await to_thread.run_sync(storage.publish, staged, f"{QUARANTINE}/{name}")
            raise
        delivery = Delivery(
            uri="",
            sha256=digest,
            bytes=size,
            seconds=facts.seconds,
            width=facts.width,
            height=facts.height,
            codec=facts.codec,
            has_audio=facts.has_audio,
            job_key=job.key,
            provider_job_id=job.provider_job_id or "",
        )
        return await to_thread.run_sync(_publish, storage, staged, name, job, delivery, facts)


@asynccontextmanager
async def _staged(storage: Storage) -> AsyncIterator[Path]:
    place = storage.staging()
    path = await to_thread.run_sync(place.__enter__)
    try:
        yield path
    finally:
        await to_thread.run_sync(place.__exit__, None, None, None)


async def _save(stream: ResultStream, path: Path) -> tuple[str, int]:
    """Write the stream to `path`; returns its digest and size."""
    digest, size = hashlib.sha256(), 0
    with path.open("xb") as file:
        buffer = bytearray()
        async for chunk in stream.chunks():
            buffer += chunk
            size += len(chunk)
            if size > MAX_BYTES:
                raise ResultInvalid(f"The file is larger than {MAX_BYTES} bytes.", retryable=False)
            if len(buffer) >= _PIECE:
                await to_thread.run_sync(_write, file, digest, buffer)
                buffer = bytearray()
        await to_thread.run_sync(_write, file, digest, buffer)
    if stream.content_length is not None and size != stream.content_length:
        raise ProviderError(f"The download ended after {size} of {stream.content_length} bytes.")
    if size == 0:
        raise ProviderError("The download is empty.")
    if "html" in stream.content_type or "json" in stream.content_type:
        raise ProviderError(f"The download is {stream.content_type}, not a video.")
    return digest.hexdigest(), size


def _write(file: Any, digest: Any, piece: bytearray) -> None:
    digest.update(piece)
    file.write(piece)


def _verify(path: Path, job: Job) -> MediaFacts:
    facts = examine_video(path)
    problems = mismatches(facts, job.expectation)
    if problems:
        raise ResultInvalid("The file is not what was asked for: " + "; ".join(problems) + ".", retryable=False)
    return facts


def _publish(storage: Storage, staged: Path, name: str, job: Job, delivery: Delivery, facts: MediaFacts) -> Delivery:
    """Poster and sidecar first, the video last: whoever waits for the video finds the others there."""
    stem = name.rsplit(".", 1)[0]
    poster_uri = _publish_bytes(storage, facts.poster, f"{stem}.jpg")
    sidecar = json.dumps(sidecar_of(job, delivery, name), ensure_ascii=False, indent=2).encode()
    sidecar_uri = _publish_bytes(storage, sidecar, f"{stem}.json")
    uri = storage.publish(staged, name)
    return delivery.model_copy(update={"uri": uri, "poster_uri": poster_uri, "sidecar_uri": sidecar_uri})


def _publish_bytes(storage: Storage, content: bytes, name: str) -> str:
    with storage.staging() as path:
        path.write_bytes(content)
        return storage.publish(path, name)


def sidecar_of(job: Job, delivery: Delivery, name: str) -> dict[str, Any]:
    """Where a file is from and what is in it: no secret, no signed URL."""
    return {
        "file": name,
        "made_by": f"prefect-genmedia {version('prefect-genmedia')}",
        "provider": job.provider,
        "model": job.model,
        "kind": job.kind,
        "job_key": job.key,
        "provider_job_id": job.provider_job_id,
        "request": job.request,
        "media": delivery.model_dump(
            exclude={"uri", "poster_uri", "sidecar_uri", "job_key", "provider_job_id", "others"}
        ),
        "submitted_at": job.submitted_at,
        "succeeded_at": job.succeeded_at,
    }
