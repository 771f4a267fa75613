"""Delivery: download, verify, publish. Delivered means: the file under its final name is intact and as requested."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from contextlib import closing
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from anyio import CancelScope, to_thread

from prefect_genmedia._core.clock import SYSTEM_CLOCK, Clock
from prefect_genmedia._core.ledger import Ledger
from prefect_genmedia._core.model import TAKEN, Delivery, Job, JobState
from prefect_genmedia._core.naming import MAKER, free_name, own_target, poster_name, quarantine_name, sidecar_name
from prefect_genmedia._core.polling import client_of
from prefect_genmedia._core.regenerate import is_replaced
from prefect_genmedia._core.standing import Logger, kept_files
from prefect_genmedia._media.failures import storing
from prefect_genmedia._media.folder import Storage
from prefect_genmedia._media.staged import StagedDownload
from prefect_genmedia._media.storage import Target
from prefect_genmedia._media.verify import MediaFacts, byte_limit, examine_video, mismatches
from prefect_genmedia.errors import FieldProblem, GenMediaError, InvalidRequest, JobExpired, ResultInvalid
from prefect_genmedia.providers.protocol import ProviderClient
from prefect_genmedia.text import BULLET, iso_time

_logger = logging.getLogger(__name__)

MADE_BY = f"{MAKER} {version('prefect-genmedia')}"
"""The author entry of sidecars; computed once, because it parses the installation's metadata."""


async def deliver(
    ledger: Ledger,
    client: ProviderClient,
    job: Job,
    target: Target,
    clock: Clock = SYSTEM_CLOCK,
    log: Logger = _logger,
) -> Job:
    """Deliver a job and return it with its delivery; see `deliver_once`.

    Args:
        ledger: where the job is recorded.
        client: the client of the job's account.
        job: a job that is succeeded, delivered or undeliverable.
        target: where the file goes.
        clock: the time source, also used to sleep.
        log: the logger for files that were edited or damaged.
    """
    return (await deliver_once(ledger, client, job, target, clock, log))[0]


async def deliver_once(
    ledger: Ledger,
    client: ProviderClient,
    job: Job,
    target: Target,
    clock: Clock = SYSTEM_CLOCK,
    log: Logger = _logger,
) -> tuple[Job, bool]:
    """Make sure that the job's verified file is at the target.

    A delivered job is not downloaded again while its file still has the same digest. If the user has edited the file
    and it still plays, it is kept, unless the target says `overwrite`. If the provider made several files, the further
    ones are stored beside the first as `…~2.mp4` and so on. An existing file that may not be replaced stays (see
    `free_name`), and the delivery holds the actual names. If a later attempt follows, or the row was regenerated, the
    requested name belongs to the later job: this job's file then gets the job's key in its name (see `own_target`).

    A "not found" from the provider is final only after the job's lifetime: a proxy in between may answer the same, and
    a job that counts as lost may be paid for again.

    Args:
        ledger: where the job is recorded.
        client: the client of the job's account.
        job: a job that is succeeded, delivered or undeliverable.
        target: where the file goes.
        clock: the time source, also used to sleep.
        log: the logger for files that were edited or damaged.

    Returns:
        The job with its delivery, and whether this process delivered it. Of two processes that wait for the same job,
        one delivers.

    Raises:
        InvalidRequest: the job has no file yet; wait for it first.
        GenMediaError: the job has failed; the error holds the provider's reason.
        ResultInvalid: the file does not verify; it is in quarantine beside the target. Retryable.
        JobExpired: the provider does not have the file, or no longer has it.
        ProviderError: the download failed; retryable.
        StorageError: the file cannot be written; retryable.
    """
    _check_has_file(job)
    failure: GenMediaError
    try:
        kept = {} if job.delivery is None else await to_thread.run_sync(kept_files, job, target, log)
        if job.delivery is not None and len(kept) == 1 + len(job.delivery.others):
            done = job.state is JobState.DELIVERED
            return (job, False) if done else await _delivered(ledger, job, job.delivery)
        is_followed = await ledger.successor(job) is not None or await is_replaced(ledger, job)
        named = own_target(job, target) if is_followed else target
        return await _delivered(ledger, job, await _fetched(client, job, named, kept))
    except (ResultInvalid, JobExpired) as error:
        failure = _explained(error, job, clock.now()) if isinstance(error, JobExpired) else error
        if isinstance(error, ResultInvalid) or job.is_over(clock.now()):
            facts = {"error_kind": error.kind, "error_message": error.message, "error_code": error.code}
            await ledger.move(job, JobState.UNDELIVERABLE, **facts)
    except GenMediaError as error:
        failure = error
    raise job.describe_in(failure)


async def _fetched(client: ProviderClient, job: Job, target: Target, kept: Mapping[int, Delivery]) -> Delivery:
    """Downloads and verifies every file of the job, except those that are kept."""
    first, *others = [
        kept[index] if index in kept else await _download(client, job, target, index) for index in range(job.outputs)
    ]
    return first.model_copy(update={"others": tuple(others)})


def _check_has_file(job: Job) -> None:
    if job.state is JobState.FAILED:
        raise job.failure()
    if job.state not in TAKEN - {JobState.SUBMITTED}:
        problem = f"{job.key} is {job.state.value}: it has no file yet, wait for it first"
        raise InvalidRequest.of("The download", [FieldProblem("job", problem)])


def _explained(error: JobExpired, job: Job, now: float) -> JobExpired:
    """Add to an error what can be done about a missing file."""
    if not job.is_over(now) and not job.may_follow(now):
        error.next_step = (
            "see whether something between here and the provider refuses the download, then retry: by its documents "
            "the provider still has the file. Nothing is paid again."
        )
    elif job.delivery is not None:
        error.message += f" It was delivered to {job.delivery.uri}, and is not there any more, or not the same."
        error.next_step = (
            "put the file back. A new one is paid again, and made only where you ask for another result: "
            "a new run, another idempotency key, or another id of the row."
        )
    return error


async def _delivered(ledger: Ledger, job: Job, delivery: Delivery) -> tuple[Job, bool]:
    facts = {"delivery": delivery, "error_kind": None, "error_message": None, "error_code": None}
    while True:
        moved = await ledger.move(job, JobState.DELIVERED, **facts)
        if moved is not None:
            return moved, True
        job = await ledger.get(job.key) or job
        if job.state is JobState.DELIVERED and delivery.is_same(job.delivery):
            return job, False  # another process has delivered the same file to the same name
        # The other process failed, or used another name. Our file verifies, so it is delivered now.


async def _download(client: ProviderClient, job: Job, target: Target, index: int) -> Delivery:
    download = StagedDownload(target.storage, byte_limit(job.expectation))
    try:
        async with client_of(client, job).open_result(job.provider_job_id or "", index) as stream:
            await download.receive(stream)
        return await _settled(download, job, target, index)
    finally:
        if download.is_open:
            await to_thread.run_sync(download.close)


async def _settled(download: StagedDownload, job: Job, target: Target, index: int) -> Delivery:
    """Verify and publish in a thread; if the run is cancelled, the decoder is stopped instead of awaited."""
    settled = asyncio.ensure_future(to_thread.run_sync(_settle, download, job, target, index))
    try:
        return await asyncio.shield(settled)
    except asyncio.CancelledError:
        download.decoding.stop()
        with CancelScope(shield=True):
            await asyncio.wait([settled])
        settled.cancelled() or settled.exception()  # retrieved: asyncio reports it otherwise
        raise


def _settle(download: StagedDownload, job: Job, target: Target, index: int) -> Delivery:
    """Verify and publish a download: all disk work of a small file in one call in a thread."""
    storage = target.storage
    with closing(download):
        staged, digest = download.settle()
        try:
            facts = _verify(staged, job, download, target)
        except ResultInvalid as error:
            if download.decoding.is_stopped:
                raise
            error.message += _quarantined(staged, digest, download.size, quarantine_name(job, target, index), target)
            raise
        with storing():
            name = free_name(job, target, index)
        delivery = Delivery(
            uri=storage.uri_of(name),
            sha256=digest,
            bytes=download.size,
            seconds=facts.seconds,
            width=facts.width,
            height=facts.height,
            codec=facts.codec,
            has_audio=facts.has_audio,
            verified=facts.verified,
            job_key=job.key,
            provider_job_id=job.provider_job_id or "",
        )
        return _publish(storage, staged, name, job, delivery, facts)


def _quarantined(staged: Path, digest: str, size: int, name: str, target: Target) -> str:
    """Move a file that does not verify to quarantine, if there is room; returns one sentence on what happened to it."""
    with storing():
        taken = target.storage.quarantined() or 0
        replaced = target.storage.size(name) if taken else None  # a retry replaces the file of its earlier try
        if taken - (replaced or 0) + size <= target.quarantine_bytes:
            return f" It is kept as {target.storage.publish(staged, name)}."
    return (
        f" It is not kept, since quarantine may hold {target.quarantine_bytes} bytes and holds {taken}: "
        f"it had {size} bytes, SHA-256 {digest}."
    )


def _verify(path: Path, job: Job, download: StagedDownload, target: Target) -> MediaFacts:
    # Fragments that are missing at the end cannot be detected from the file's structure.
    level = "full" if target.verify == "structure" and not download.is_proven else target.verify
    facts = examine_video(path, job.expectation, download.decoding, level)
    problems = mismatches(facts, job.expectation)
    if problems:
        found = f" {problems[0]}" if len(problems) == 1 else f"{BULLET}{BULLET.join(problems)}"
        raise ResultInvalid(f"The file is not what was asked for:{found}.", retryable=False)
    return facts


def _publish(storage: Storage, staged: Path, name: str, job: Job, delivery: Delivery, facts: MediaFacts) -> Delivery:
    poster, sidecar = poster_name(name), sidecar_name(name)
    content = sidecar_of(job, delivery, name) | {"poster": {"file": poster, "sha256": sha256(facts.poster).hexdigest()}}
    encoded = json.dumps(content, ensure_ascii=False, indent=2).encode()
    with storing():
        # The sidecar first: it marks the other files as ours if the process ends before all of them are written.
        storage.publish(staged, name, {sidecar: encoded, poster: facts.poster})
    where = {"poster_uri": storage.uri_of(poster), "sidecar_uri": storage.uri_of(sidecar)}
    return delivery.model_copy(update={**where, "stamp": storage.stamp(delivery.uri) or ""})


def sidecar_of(job: Job, delivery: Delivery, name: str) -> dict[str, Any]:
    """Returns a file's origin and properties, without secrets and signed URLs.

    Args:
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
            exclude={"uri", "poster_uri", "sidecar_uri", "job_key", "provider_job_id", "stamp", "others"}
        ),
        "submitted_at": iso_time(job.submitted_at),
        "succeeded_at": iso_time(job.succeeded_at),
    }
