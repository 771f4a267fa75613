"""The quality checks of a job's files: made before they are published, stored with the delivery, made once."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from anyio import to_thread

from prefect_genmedia._core.ledger import Ledger
from prefect_genmedia._core.model import Delivery, Job
from prefect_genmedia._core.session import Session
from prefect_genmedia._core.standing import Logger
from prefect_genmedia._media.decoding import Decoding
from prefect_genmedia._media.failures import storing
from prefect_genmedia._media.folder import Storage
from prefect_genmedia._media.quality import QualityCheck, QualityFinding, QualityReport, check_quality
from prefect_genmedia._media.storage import Target
from prefect_genmedia.errors import GenMediaError, QualityError


def checked(path: Path, job: Job, target: Target, decoding: Decoding, log: Logger) -> QualityReport | None:
    """Check a verified file as the target says. Blocks; run it in a thread.

    A file that cannot be measured is delivered all the same: it is paid for and verified.

    Args:
        path: the file.
        job: its job.
        target: says what is checked.
        decoding: lets another thread end it.
        log: the logger for files that cannot be measured.

    Returns:
        What was found; None if nothing was checked.
    """
    checks = target.quality.checks_of(job.expectation)
    if not checks:
        return None
    try:
        return check_quality(path, job.expectation, checks, decoding=decoding)
    except GenMediaError as error:
        if decoding.is_stopped:
            raise
        log.warning("Job %s: %s It is delivered without quality checks", job.shown_id, error.message)
        return None


async def check_kept(ledger: Ledger, job: Job, target: Target, log: Logger) -> Job:
    """Make the checks of delivered files that were not made before, and store what they find.

    Args:
        ledger: where the job is recorded.
        job: a delivered job whose files are in place.
        target: says what is checked.
        log: the logger for files that cannot be measured.
    """
    delivery, checks = job.delivery, target.quality.checks_of(job.expectation)
    if delivery is None or is_checked(delivery, checks):
        return job
    found = await to_thread.run_sync(_with_quality, job, delivery, target, log)
    return job if found == delivery else await ledger.note(job, delivery=found) or job


def is_checked(delivery: Delivery, checks: Collection[QualityCheck]) -> bool:
    """Whether each of these checks was made of each file.

    Args:
        delivery: the files.
        checks: the checks.
    """
    files = (delivery, *delivery.others)
    return not checks or all(file.quality is not None and file.quality.covers(checks) for file in files)


def findings_of(delivery: Delivery, checks: Collection[QualityCheck] | None = None) -> list[QualityFinding]:
    """Returns what is wrong with a job's files.

    Args:
        delivery: the files.
        checks: the checks to report; None for all that were made.
    """
    reports = [file.quality for file in (delivery, *delivery.others) if file.quality is not None]
    return [finding for report in reports for finding in report.of(report.checks if checks is None else checks)]


def quality_words(delivery: Delivery) -> str:
    """Returns the findings of a job's files in one line; empty if there are none.

    Args:
        delivery: the files.
    """
    return "; ".join(dict.fromkeys(map(str, findings_of(delivery))))


def report_quality(session: Session, before: Job, done: Job) -> None:
    """Log what is wrong with a job's files; emit an event if it was found just now.

    Args:
        session: the account.
        before: the job before its delivery.
        done: the delivered job.
    """
    assert done.delivery is not None  # a delivered job has one
    findings = findings_of(done.delivery)
    if not findings:
        return
    session.log.warning("Job %s: %s", done.shown_id, quality_words(done.delivery))
    if before.delivery is None or findings != findings_of(before.delivery):
        session.hooks.event("flagged", done, findings=[finding.model_dump() for finding in findings])


def require_quality(session: Session, job: Job) -> Job:
    """Returns a delivered job, unless the run asks to fail for what is wrong with its files.

    Args:
        session: the account.
        job: the job.

    Raises:
        QualityError: the files are delivered, and a check found something.
    """
    policy, delivery = session.quality, job.delivery
    if policy is None or policy.mode != "fail" or delivery is None:
        return job
    findings = findings_of(delivery, policy.checks_of(job.expectation))
    if not findings:
        return job
    raise quality_error(job, findings)


def quality_error(job: Job, findings: Collection[QualityFinding]) -> QualityError:
    """Returns the error of a job whose files do not pass.

    Args:
        job: the job.
        findings: what is wrong.
    """
    assert job.delivery is not None  # its files were checked
    words = "; ".join(dict.fromkeys(map(str, findings)))
    error = QualityError(f"The file does not pass the quality checks: {words}. It is delivered: {job.delivery.uri}.")
    error.findings = tuple(dict.fromkeys(finding.check for finding in findings))
    return error.about(job.key, job.provider_job_id)


def _with_quality(job: Job, delivery: Delivery, target: Target, log: Logger) -> Delivery:
    others = tuple(_file_with_quality(job, file, target, log) for file in delivery.others)
    return _file_with_quality(job, delivery, target, log).model_copy(update={"others": others})


def _file_with_quality(job: Job, file: Delivery, target: Target, log: Logger) -> Delivery:
    if file.quality is not None and file.quality.covers(target.quality.checks_of(job.expectation)):
        return file
    try:
        with storing(), target.storage.local_copy(file.uri) as path:
            report = checked(path, job, target, Decoding(), log)
    except GenMediaError as error:
        log.warning("%s cannot be checked now: %s", file.uri, error.message)
        return file
    if report is None:
        return file
    try:
        _note_in_sidecar(target.storage, file, report)
    except GenMediaError as error:  # the ledger has what was found
        log.warning("The sidecar of %s does not get what was found: %s", file.uri, error.message)
    return file.model_copy(update={"quality": report})


def _note_in_sidecar(storage: Storage, file: Delivery, report: QualityReport) -> None:
    """Write what was found into the file's sidecar, if it is in the target's folder."""
    uri, folder = file.sidecar_uri or "", storage.uri_of("")
    name = uri.removeprefix(folder).lstrip("/")
    if not uri.startswith(folder) or not name:
        return
    with storing(), storage.staging() as staged:
        content: Any = json.loads(storage.read(uri))
        if not isinstance(content, dict) or content.get("job_key") != file.job_key:
            return
        content["quality"] = report.model_dump(mode="json")
        staged.write_text(json.dumps(content, ensure_ascii=False, indent=2), "utf-8")
        storage.publish(staged, name)
