"""The options of a command that takes a request: one for each field of the request model, whoever wrote it."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from inspect import Parameter as SignatureParameter
from typing import Annotated, Any, Literal, Optional, Union, get_args, get_origin

from cyclopts import Group, Parameter

from prefect_genmedia.batch.cells import EMPTY, cell_value
from prefect_genmedia.errors import FieldProblem, InvalidRequest
from prefect_genmedia.providers.protocol import GenerationRequest

_PLAIN = (bool, int, float)


def request_options(model: type[GenerationRequest], taken: frozenset[str]) -> Iterator[SignatureParameter]:
    """An option for each field of a request model; None stands for one that was not given.

    Args:
        model: the request model.
        taken: names of the command's own options; a field of such a name is given with `--request-NAME`.
    """
    group = Group("Request", sort_key=0)
    fields = sorted(model.model_fields.items(), key=lambda each: each[0] == "extra_body")  # the escape hatch comes last
    for name, field in fields:
        kind, several = _option_type(field.annotation)
        option = Parameter(
            name=f"--request-{_dashed(name)}" if name in taken else None,
            help=f"{field.description or ''}{' Required.' if field.is_required() else ''}".strip(),
            show_default=False,
            consume_multiple=several,
            negative="" if several else None,
            group=group,
        )
        annotation: Any = Annotated[Optional[kind], option]  # noqa: UP045 - of a value
        key = _key(name, taken)
        yield SignatureParameter(key, SignatureParameter.KEYWORD_ONLY, default=None, annotation=annotation)


def request_fields(model: type[GenerationRequest], taken: frozenset[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that were given, as the request model wants them.

    Args:
        model: the request model.
        taken: see `request_options`.
        given: the command's options, by name.

    Raises:
        InvalidRequest: with every option that cannot be meant as it is written.
    """
    found: dict[str, Any] = {}
    problems: list[FieldProblem] = []
    for name in model.model_fields:
        try:
            value = _value(model, name, given.get(_key(name, taken)))
        except ValueError as error:
            problems.append(FieldProblem(name, str(error)))
            continue
        if value is not None and value is not EMPTY:
            found[name] = value
    if problems:
        raise InvalidRequest.of(f"{model.__name__} request", problems)
    return found


def _key(name: str, taken: frozenset[str]) -> str:
    return f"request_{name}" if name in taken else name


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def _value(model: type[GenerationRequest], name: str, value: Any) -> Any:
    """Text in a field of another type is read as in a cell of a table: as JSON, where it is."""
    if isinstance(value, tuple) and len(value) == 1 and value[0].lstrip().startswith("["):
        return cell_value(model, name, value[0])
    return cell_value(model, name, value) if isinstance(value, str) else value


def _option_type(annotation: Any) -> tuple[Any, bool]:
    """The type of a field's option, and whether it takes several values; text stands for what no option can say."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _option_type(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        inner = [each for each in get_args(annotation) if each is not types.NoneType]
        return _option_type(inner[0]) if len(inner) == 1 else (str, False)
    if origin in (tuple, list):
        return tuple[str, ...], True
    if origin is Literal or annotation in _PLAIN:
        return annotation, False
    return str, False
