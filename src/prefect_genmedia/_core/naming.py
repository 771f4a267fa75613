"""File names of a job's outputs, and the rules for replacing existing files: files of others are never overwritten."""

from __future__ import annotations

import hashlib
import json
import logging
import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

from prefect_genmedia._core.model import Job
from prefect_genmedia._media.folder import Storage
from prefect_genmedia._media.local import LONGEST_ADDITION, MAX_NAME_BYTES, QUARANTINE
from prefect_genmedia._media.storage import Target
from prefect_genmedia.errors import StorageError

MAKER = "prefect-genmedia"
"""The prefix of the author entry in a sidecar."""

logger = logging.getLogger(__name__)


MAX_STEM_BYTES = MAX_NAME_BYTES - len(f".mp4~999{LONGEST_ADDITION}")
"""The longest stem, in bytes, for which the names of sidecar, further files and quarantined file are not too long."""


def file_stem(name: str) -> str:
    """Returns a name in a form valid for file names: unchanged if possible, else an adapted form with a digest."""
    likeness = re.sub(r"[^\w.\-]+", "_", name).strip("._") or "row"
    if likeness == name and len(likeness) <= 80 and len(likeness.encode()) <= MAX_STEM_BYTES:
        return name
    return f"{likeness[:40]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def poster_name(name: str) -> str:
    """Returns the name of a file's poster frame. It contains the whole file name, to avoid a clash with `anna.jpg`."""
    return f"{name}.jpg"


def sidecar_name(name: str) -> str:
    """Returns the name of a file's sidecar. It contains the whole file name, to avoid a clash with `anna.json`."""
    return f"{name}.json"


def wanted_name(job: Job, target: Target, index: int = 0) -> str:
    """Returns the name of one of a job's files, if no other file has that name.

    Args:
        job: the file's job.
        target: where it goes.
        index: which of the job's files, from 0. No `file_stem` contains `~`, so a further file never has another row's
            name.
    """
    name = target.name or f"{file_stem(f'{job.kind or job.provider}-{job.provider_job_id or job.key}')}.mp4"
    return name if index == 0 else _marked(name, f"~{index + 1}")


def own_target(job: Job, target: Target) -> Target:
    """Returns the target of a job whose name belongs to a later attempt: the job's key is added to the name.

    Args:
        job: the job.
        target: where it goes.
    """
    return replace(target, name=_marked(wanted_name(job, target), f"-{job.key}"))


def quarantine_name(job: Job, target: Target, index: int = 0) -> str:
    """Returns the quarantine name of one of a job's files that does not verify. No other job uses this name.

    Args:
        job: the file's job.
        target: where it goes.
        index: which of the job's files, from 0.
    """
    return f"{QUARANTINE}/{_marked(wanted_name(job, target, index), f'-{job.key}')}"


def free_name(job: Job, target: Target, index: int = 0) -> str:
    """Returns the name under which to publish one of a job's files. Blocks; run it in a thread.

    That is its requested name; if another file has it, the job's key is added. Only the job's own file may be replaced,
    or, if the user gave the name, a file that this package made; never an input of the job. The names of its sidecar
    and poster frame must be available by the same rules.

    Args:
        job: the file's job.
        target: where it goes.
        index: which of the job's files, from 0.

    Raises:
        StorageError: both names are taken by other files.
    """
    wanted = wanted_name(job, target, index)
    if _may_take(job, target, wanted):
        return wanted
    own = _marked(wanted, f"-{job.key}")
    if _may_take(job, target, own):
        logger.warning("%s is another file, and stays: job %s gets %s", target.storage.uri_of(wanted), job.key, own)
        return own
    raise StorageError(f"{wanted} and {own} stand in {target.storage.uri_of('')} already, and are other files.")


def _may_take(job: Job, target: Target, name: str) -> bool:
    """Whether the names for a file, its sidecar and its poster frame may all be used.

    A sidecar of this package proves the origin of all three. A poster frame that it does not describe is a user's file.
    """
    storage = target.storage
    stored = _read_sidecar(storage, name)
    is_own = stored.get("job_key") == job.key
    is_ours = str(stored.get("made_by")).startswith(MAKER)
    may_replace = is_own or (is_ours and target.name is not None and not _is_input(job, storage.uri_of(name)))
    if storage.is_folder(name):
        return False
    standing = storage.size(name)
    if standing is not None and not (
        may_replace and (is_own or target.overwrite or _matches_sidecar(storage, name, stored))
    ):
        return False
    if storage.size(sidecar_name(name)) is not None and not may_replace:
        return False
    if storage.size(poster_name(name)) is None:
        return True
    poster = stored.get("poster")
    known = poster.get("sha256") if isinstance(poster, dict) else None
    if may_replace and target.overwrite and known is not None:
        return True
    return may_replace and known is not None and storage.digest(storage.uri_of(poster_name(name))) == known


def _read_sidecar(storage: Storage, name: str) -> Mapping[str, Any]:
    """Returns the content of a file's sidecar; empty if there is none of this package."""
    try:
        stored = json.loads(storage.read(storage.uri_of(sidecar_name(name))))
    except Exception:  # storages raise errors of their own; a file without a readable sidecar is not replaced
        return {}
    return stored if isinstance(stored, dict) and isinstance(stored.get("media"), dict) else {}


def _matches_sidecar(storage: Storage, name: str, stored: Mapping[str, Any]) -> bool:
    """Whether a file still has the content that its sidecar describes; if not, it was edited."""
    media = stored["media"]
    if media.get("bytes") != storage.size(name):
        return False
    return media.get("sha256") in (None, storage.digest(storage.uri_of(name)))


def _is_input(job: Job, uri: str) -> bool:
    """Whether the file or its poster frame may be an input of the job, judging by names."""
    if job.pruned_at is not None:
        return True  # the input names were pruned, and an input must never be replaced
    texts = list(_texts(job.request))
    return any(_may_be_same(text, each) for each in (uri, poster_name(uri)) for text in texts)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _texts(inner)


def _may_be_same(location: str, other: str) -> bool:
    """Whether one path is a suffix of the other: a path may be relative, and a URL may refer to the same file."""
    paths = [_parts(location), _parts(other)]
    shared = min(map(len, paths))
    return shared > 0 and paths[0][-shared:] == paths[1][-shared:]


def _parts(location: str) -> list[str]:
    is_url = "://" in location
    path = unquote(re.sub(r"^[\w+.-]+://[^/]*", "", location).partition("?")[0]) if is_url else location
    parts = posixpath.normpath(path.replace("\\", "/")).casefold().split("/")
    return [part for part in parts if part not in ("", ".", "..", "~")]


def _marked(name: str, mark: str) -> str:
    stem, dot, ending = name.rpartition(".")
    return f"{stem}{mark}{dot}{ending}"
