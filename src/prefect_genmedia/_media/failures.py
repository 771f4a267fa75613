"""What a storage's failure means: each storage has errors of its own, and some of them no retry can help."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from prefect_genmedia._transport import excerpt, unsigned_text
from prefect_genmedia.errors import FieldProblem, GenMediaError, InvalidRequest, StorageError

_SHOWN_CHARACTERS = 300

_LASTING: tuple[type[Exception], ...] = (
    PermissionError,
    FileNotFoundError,
    NotADirectoryError,
    IsADirectoryError,
    FileExistsError,
    ValueError,
    TypeError,
    ImportError,
    NotImplementedError,
)

_LASTING_NUMBERS = frozenset(
    {errno.ENAMETOOLONG, errno.EROFS, errno.EINVAL, errno.ELOOP, errno.EPERM, errno.EACCES, errno.ENOTSUP}
)

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Error numbers of a disk or quota that is full."""

_LASTING_NAMES = frozenset({"ParamValidationError", "NoCredentialsError", "PartialCredentialsError", "NoSuchBucket"})
"""Errors of botocore and of storages that are not installed everywhere, by the names of their classes."""

_LASTING_CODES = frozenset(
    {
        *("AccessDenied", "AllAccessDisabled", "AccountProblem", "AuthorizationHeaderMalformed", "Forbidden", "403"),
        *("NoSuchBucket", "InvalidBucketName", "InvalidAccessKeyId", "SignatureDoesNotMatch", "PermanentRedirect"),
        *("MethodNotAllowed", "KeyTooLongError", "InvalidArgument"),
    }
)
"""Error codes of S3 that the same call gets again."""


def is_lasting(error: BaseException) -> bool:
    """Whether the same call fails again: no permission, no such bucket, or an argument that cannot be right.

    Args:
        error: what a storage raised.
    """
    return any(_is_lasting(each) for each in _chain(error))


def is_full(error: BaseException) -> bool:
    """Whether a disk or a quota is full.

    Args:
        error: what a storage raised.
    """
    return any(isinstance(each, OSError) and each.errno in FULL for each in _chain(error))


def reason_of(error: BaseException) -> str:
    """An error of a storage in words: without signatures, which a storage's words may quote, and cut.

    Args:
        error: what a storage raised.
    """
    return f"{type(error).__name__}: {excerpt(unsigned_text(str(error)), _SHOWN_CHARACTERS)}".rstrip(": ")


@contextlib.contextmanager
def storing(paid: str | None = None) -> Iterator[None]:
    """Turn a storage's failure into an error of ours.

    Args:
        paid: what this cost, in words, where no job is paid yet.

    Raises:
        StorageError: the block failed in another way than with an error of ours; retryable unless `is_lasting`.
    """
    try:
        yield
    except GenMediaError:
        raise
    except Exception as error:
        message = f"The storage failed: {reason_of(error).rstrip('.')}."
        failure = StorageError(message, paid=paid, retryable=not is_lasting(error))
    else:
        return
    raise failure


def unwritable(error: Exception, what: str = "output") -> GenMediaError:
    """The error of an output that was probed before anything was sent.

    Args:
        error: what the storage raised.
        what: the parameter that names the output.

    Returns:
        InvalidRequest if the output cannot work as it is; StorageError if it may work later.
    """
    if isinstance(error, GenMediaError):
        return error
    words = reason_of(error).rstrip(".")
    if is_lasting(error):
        return InvalidRequest.of("The output", [FieldProblem(what, f"cannot be written to: {words}")])
    return StorageError(
        f"The output cannot be written to: {words}.",
        paid="nothing",
        next_step="make the storage take files, then run again: nothing was sent.",
        retryable=not is_full(error),
        outcome="unsent",
    )


def _is_lasting(error: BaseException) -> bool:
    if isinstance(error, _LASTING) or type(error).__name__ in _LASTING_NAMES:
        return True
    if isinstance(error, OSError) and error.errno in _LASTING_NUMBERS:
        return True
    response = getattr(error, "response", None)  # botocore's ClientError
    code = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
    return str(code) in _LASTING_CODES


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it was made from, such as the ClientError behind boto3's S3UploadFailedError."""
    visited: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in visited:
        visited.add(id(at))
        yield at
        at = at.__cause__ or (None if at.__suppress_context__ else at.__context__)
