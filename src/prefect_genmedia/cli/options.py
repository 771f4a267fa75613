"""Sentences for whoever typed a command: they name its options, where other callers read names of parameters."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Annotated, get_args, get_origin

from cyclopts import Parameter

from prefect_genmedia.text import BULLET

_TYPED: ContextVar[tuple[str, ...]] = ContextVar("genmedia_typed", default=())


@contextmanager
def typing(words: Sequence[str]) -> Iterator[None]:
    """Remember what was typed.

    Args:
        words: the words after the program's name.
    """
    token = _TYPED.set(tuple(words))
    try:
        yield
    finally:
        _TYPED.reset(token)


def in_options(text: str) -> str:
    """Returns a sentence with the names of the typed command's parameters as its options: `--max-cost` for `max_cost`.

    A name of one word is an option only before `=` and where a problem begins: elsewhere it may be an ordinary word.

    Args:
        text: the sentence.
    """
    for name, option in _options().items():
        free = r"(?<![\w.'\"`/-])"
        text = re.sub(rf"{free}{name}=True\b", option, text)
        text = re.sub(rf"{free}{name}=", f"{option} ", text)
        start = free if "_" in name else rf"(?:(?<=^)|(?<={BULLET})|(?<=, ))"
        text = re.sub(rf"{start}{name}(?![\w=(]|\.\w){'' if '_' in name else '(?=: )'}", option, text)
    return text


def _options() -> Mapping[str, str]:
    """Returns the options of the typed command, by the names of their parameters."""
    from prefect_genmedia.cli.app import app

    found: dict[str, str] = {}
    with suppress(Exception, SystemExit):  # words that name no command have no options
        command, _, _ = app.parse_args(_TYPED.get(), print_error=False, exit_on_error=False)
        for each in inspect.signature(command, eval_str=True).parameters.values():
            if each.kind is inspect.Parameter.KEYWORD_ONLY:
                found[each.name] = _option(each)
    return found


def _option(parameter: inspect.Parameter) -> str:
    details = get_args(parameter.annotation) if get_origin(parameter.annotation) is Annotated else ()
    names = (name for each in details if isinstance(each, Parameter) for name in each.name or ())
    return next(names, f"--{parameter.name.replace('_', '-')}")
