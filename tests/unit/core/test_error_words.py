"""What goes wrong in Python, pydantic or the operating system is said in words that no programmer is needed for."""

from __future__ import annotations

import errno

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from prefect_genmedia.errors import InvalidRequest
from prefect_genmedia.text import error_words


class Wanted(BaseModel):
    model_config = ConfigDict(extra="forbid")
    prompt: str
    seconds: int


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file", "/m/a.csv"), "there is no such file or folder: /m/a.csv"),
        (FileNotFoundError("bucket/a.csv"), "there is no such file or folder: bucket/a.csv"),
        (FileNotFoundError(errno.ENOENT, "No such file", "known"), "there is no such file or folder"),
        (IsADirectoryError(errno.EISDIR, "Is a directory"), "it is a folder"),
        (OSError(errno.ENOSPC, "No space left on device", "/m"), "no space left on device: /m"),
        (OSError("all is lost"), "OSError: all is lost"),
        (ValueError("no table"), "ValueError: no table"),
    ],
)
def test_an_error_of_the_system_is_said_without_numbers(error: Exception, words: str) -> None:
    assert error_words(error, "known") == words


def test_what_pydantic_finds_is_said_as_of_a_form() -> None:
    with pytest.raises(ValidationError) as raised:
        Wanted.model_validate({"seconds": "ten", "promt": "a lake"})
    problems = InvalidRequest.from_validation("The request", raised.value).problems
    assert {each.field: each.problem for each in problems} == {
        "prompt": "is missing",
        "seconds": "must be a whole number",
        "promt": "is not known here",
    }
