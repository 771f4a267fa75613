"""Checks that a job's output is writable, before anything is paid and once per destination of a session."""

from __future__ import annotations

import anyio
from anyio import to_thread

from prefect_genmedia._core.session import Session
from prefect_genmedia._media.failures import unwritable
from prefect_genmedia.errors import GenMediaError, StorageError

PROBE_SECONDS = 60.0
"""Timeout for writing and removing a small file on a storage, in seconds."""


async def check_destination(session: Session, output: str | None) -> None:
    """Write and remove a small file where a job's file will go. A destination that passed is not checked again.

    Args:
        session: the account; its `writable` holds the destinations that passed.
        output: a folder, a file name ending in .mp4, or a storage URL of either; None for the session's default.

    Raises:
        InvalidRequest: the output cannot be written to without a change, such as a missing bucket or permission.
        StorageError: the output cannot be written to now; nothing was sent.
    """
    target = await session.target_of(output or session.default_output)
    folder = target.storage.uri_of("")
    if folder in session.writable:
        return
    failure: GenMediaError
    try:
        with anyio.fail_after(PROBE_SECONDS):
            # If the storage hangs, its thread is abandoned.
            await to_thread.run_sync(target.storage.probe, target.name, abandon_on_cancel=True)
    except TimeoutError:
        failure = StorageError(
            f"The output took longer than {PROBE_SECONDS:.0f} s to take a small file.",
            paid="nothing",
            next_step="make the storage take files, then run again: nothing was sent.",
            outcome="unsent",
        )
    except Exception as error:
        failure = unwritable(error)
    else:
        session.writable.add(folder)
        return
    raise failure
