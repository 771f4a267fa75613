"""Delivery: download, verify, publish. Delivered means that the file under its final name is whole and right."""

from __future__ import annotations

import json
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

from anyio import to_thread

from prefect_genmedia.errors import GenMediaError, JobExpired, ResultInvalid
from prefect_genmedia.jobs.clock import SYSTEM_CLOCK, Clock
from prefect_genmedia.jobs.landing import Landing
from prefect_genmedia.jobs.ledger import Ledger
from prefect_genmedia.jobs.media import MediaFacts, examine_video, mismatches
from prefect_genmedia.jobs.model import Delivery, Job, JobState
from prefect_genmedia.jobs.storage import QUARANTINE, Storage, Target, storing
from prefect_genmedia.providers.protocol import ProviderClient

MADE_BY = f"prefect-genmedia {version('prefect-genmedia')}"
"""Who wrote a sidecar; found once, since the installation's records are parsed for it."""


async def deliver(ledger: Ledger, client: ProviderClient, job: Job, target: Target, clock: Clock = SYSTEM_CLOCK) -> Job:
    """Make sure that the job's verified file is at the target, and return the job with its delivery.

    A job that is delivered already is not downloaded again while its file still has the same digest. Where the
    provider made several files, the further ones stand beside the first as `…-2.mp4` and so on.

    Parameters:
        ledger: where the job is written down.
        client: the client of the job's account.
        job: a job that succeeded, or was delivered before.
        target: where the file shall be.
        clock: what tells the time and waits.

    Raises:
        ResultInvalid: the file does not verify; it is in quarantine beside the target. Retryable.
        JobExpired: the provider no longer has the file.
        ProviderError: the download failed; retryable.
        StorageError: the file cannot be written; retryable.
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
    landing = Landing(storage)
    try:
        async with client.open_result(job.provider_job_id or "", index) as stream:
            await landing.receive(stream)
        return await to_thread.run_sync(_land, landing, job, storage, name)
    finally:
        if landing.is_open:
            await to_thread.run_sync(landing.close)


def _land(landing: Landing, job: Job, storage: Storage, name: str) -> Delivery:
    """Verify what has arrived, and publish it: one trip to a thread for the whole of a small file's disk work."""
    with closing(landing):
        staged, digest = landing.settle()
        try:
            facts = _verify(staged, job)
        except ResultInvalid as error:
            with storing():
                kept = storage.publish(staged, f"{QUARANTINE}/{name}")
            error.message += f" It is kept as {kept}."
            raise
        delivery = Delivery(
            uri=storage.uri_of(name),
            sha256=digest,
            bytes=landing.size,
            seconds=facts.seconds,
            width=facts.width,
            height=facts.height,
            codec=facts.codec,
            has_audio=facts.has_audio,
            job_key=job.key,
            provider_job_id=job.provider_job_id or "",
        )
        return _publish(storage, staged, name, job, delivery, facts)


def _verify(path: Path, job: Job) -> MediaFacts:
    facts = examine_video(path)
    problems = mismatches(facts, job.expectation)
    if problems:
        raise ResultInvalid("The file is not what was asked for: " + "; ".join(problems) + ".", retryable=False)
    return facts


def _publish(storage: Storage, staged: Path, name: str, job: Job, delivery: Delivery, facts: MediaFacts) -> Delivery:
    stem = name.rsplit(".", 1)[0]
    poster, sidecar = f"{stem}.jpg", f"{stem}.json"
    told = json.dumps(sidecar_of(job, delivery, name), ensure_ascii=False, indent=2).encode()
    with storing():
        storage.publish(staged, name, {poster: facts.poster, sidecar: told})
    return delivery.model_copy(update={"poster_uri": storage.uri_of(poster), "sidecar_uri": storage.uri_of(sidecar)})


def sidecar_of(job: Job, delivery: Delivery, name: str) -> dict[str, Any]:
    """Where a file is from and what is in it: no secret, no signed URL.

    Parameters:
        job: the file's job.
        delivery: the file.
        name: the file's name, in its folder.
    """
    return {
        "file": name,
        "made_by": MADE_BY,
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
