"""How a command ends: whatever goes wrong outside of this package becomes one sentence on standard error."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import httpx
from pydantic import ValidationError

from prefect_genmedia._transport import unsigned_text
from prefect_genmedia.cli.console import stop
from prefect_genmedia.errors import GenMediaError
from prefect_genmedia.text import BULLET, clean_text

TRACEBACK_VARIABLE = "GENMEDIA_TRACEBACK"
"""Set to anything, it shows the traceback of an error that has no sentence of its own."""

_NEW_BULLET = f"\n{BULLET}"

_PIPE_CLOSED = 141
"""What a shell shows of a program that SIGPIPE has ended."""

_UNREACHABLE = "Failed to reach API"  # how Prefect's RuntimeError begins
_NO_SERVER = "No Prefect API URL"  # how Prefect's ValueError begins
_SERVER_STEP = (
    "start it (`prefect server start`), or correct PREFECT_API_URL; `prefect-genmedia doctor` finds out more."
)


@contextmanager
def ending_in_sentences() -> Iterator[None]:
    """Turn an error into a sentence on standard error, and status 1; a reader that has left ends it quietly."""
    try:
        for stream in (sys.stdout, sys.stderr):
            with suppress(AttributeError, ValueError):  # a test's stream, or a closed one
                stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        _leave_pipe()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:
        sentence = sentence_of(error)
        if os.environ.get(TRACEBACK_VARIABLE):
            raise
        stop(sentence or _unforeseen(error))


def sentence_of(error: BaseException) -> str | None:
    """What went wrong, and what to do, for whoever typed the command; None if nobody has foreseen it.

    Args:
        error: what a command has raised.
    """
    if isinstance(error, GenMediaError):
        step = error.next_step_for()
        apart = "\n" if BULLET in error.message else " "
        return f"{error.message.replace(BULLET, _NEW_BULLET)}{f'{apart}Next: {step}' if step else ''}"
    if isinstance(error, httpx.HTTPStatusError):  # the answer only: the request may have held a secret
        asked = f"HTTP {error.response.status_code} for {error.request.url.path}"
        return f"The Prefect server refused: {asked}. Next: {_SERVER_STEP}"
    if isinstance(error, httpx.HTTPError) or (isinstance(error, RuntimeError) and str(error).startswith(_UNREACHABLE)):
        return f"The Prefect server does not answer: {type(error.__cause__ or error).__name__}. Next: {_SERVER_STEP}"
    if isinstance(error, ValidationError):
        return _setting(error)
    if isinstance(error, ValueError) and str(error).startswith(_NO_SERVER):
        return f"This needs a Prefect server, and none is set. Next: {_SERVER_STEP}"
    if isinstance(error, OSError) and (error.strerror or error.filename):
        where = f"{error.filename}: " if error.filename is not None else ""
        return unsigned_text(f"{where}{error.strerror or type(error).__name__}.")
    return None


def _setting(error: ValidationError) -> str:
    """Which settings cannot be right; their values are not shown."""
    problems = (
        f"{'.'.join(map(str, each['loc'])) or 'it'}: {each['msg'].removeprefix('Value error, ')}"
        for each in error.errors(include_url=False, include_context=False, include_input=False)
    )
    return f"{error.title} cannot be right: {'; '.join(problems)}. Next: correct the environment variable or file."


def _unforeseen(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""  # noqa: PTH119 - a name
    said = clean_text(unsigned_text(str(error)), 300)
    return (
        f"Something went wrong that the command does not know: {type(error).__name__}{where}: {said} "
        f"Next: {TRACEBACK_VARIABLE}=1 shows the traceback, for a report."
    )


def _leave_pipe() -> None:
    """End as a program does whose reader has left; what is still buffered goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            os.dup2(nowhere, stream.fileno())
    raise SystemExit(_PIPE_CLOSED) from None
