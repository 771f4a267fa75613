"""The condition of a job's delivered files: intact, lost, damaged, or edited by the user."""

from __future__ import annotations

import json
import logging
from typing import Any

from prefect_genmedia._core.model import Delivery, Job
from prefect_genmedia._media.failures import storing
from prefect_genmedia._media.folder import Storage
from prefect_genmedia._media.storage import Target
from prefect_genmedia._media.verify import examine_video
from prefect_genmedia.errors import ResultInvalid, StorageError
from prefect_genmedia.providers.protocol import MediaExpectation

Logger = logging.Logger | logging.LoggerAdapter[Any]

EDITED = MediaExpectation(seconds=1800.0)
"""The longest edited file that is decoded as a whole, in seconds; at most twice this duration."""


def still_there(delivery: Delivery, storage: Storage, reverify: bool) -> bool:
    """Whether a job's files are unchanged since verification. Blocks; run it in a thread.

    A file that still has its size and modification time from publication is not read.

    Args:
        delivery: the job's delivery.
        storage: where its files are.
        reverify: whether to read every file anyway.

    Raises:
        StorageError: this cannot be determined now.
    """
    return all(_is_same(file, storage, reverify) for file in (delivery, *delivery.others))


def _is_same(file: Delivery, storage: Storage, reverify: bool) -> bool:
    if file.stamp and not reverify and storage.stamp(file.uri) == file.stamp:
        return True
    return storage.digest(file.uri) == file.sha256


def kept_files(job: Job, target: Target, log: Logger) -> dict[int, Delivery]:
    """Returns the delivered files of a job that need no download: unchanged files and edited files.

    A changed file that decodes from beginning to end counts as edited by the user. A changed file that does not decode
    is damaged. Blocks; run it in a thread.

    Args:
        job: the job.
        target: where its files go; with `overwrite`, edited files are not kept.
        log: the logger for files that were edited or damaged.

    Returns:
        The kept files, by their index.

    Raises:
        StorageError: a file cannot be read or decoded now.
    """
    if job.delivery is None:
        return {}
    files = enumerate((job.delivery, *job.delivery.others))
    return {index: file for index, file in files if _is_kept(job, file, target, log)}


def _is_kept(job: Job, file: Delivery, target: Target, log: Logger) -> bool:
    digest = _digest(file, target)
    if digest is None or digest == file.sha256:
        return digest is not None
    if _is_of_another_job(job, file, target.storage):
        return False  # `free_name` decides whether the file may be replaced
    if target.overwrite:
        log.warning("%s was changed since it was delivered, and is overwritten", file.uri)
        return False
    if not _plays(file, target.storage):
        log.warning("%s was changed since it was delivered, and does not decode: it is fetched again", file.uri)
        return False
    log.warning(
        "%s was changed since it was delivered: it is taken as your own edit and kept; overwrite=True fetches the "
        "provider's file again",
        file.uri,
    )
    return True


def _digest(file: Delivery, target: Target) -> str | None:
    try:
        return target.storage.digest(file.uri)
    except StorageError as error:
        if target.overwrite and not error.retryable:
            return None
        raise


def _is_of_another_job(job: Job, file: Delivery, storage: Storage) -> bool:
    """Whether the sidecar shows that another job was later delivered under the same name."""
    try:
        sidecar = json.loads(storage.read(file.sidecar_uri or ""))
    except Exception:  # storages raise errors of their own; without a readable sidecar the file counts as the job's
        return False
    return isinstance(sidecar, dict) and sidecar.get("job_key") not in (None, job.key)


def _plays(file: Delivery, storage: Storage) -> bool:
    with storing(), storage.local_copy(file.uri) as path:
        try:
            examine_video(path, EDITED)
        except ResultInvalid:
            return False
    return True
