"""`extra_body`: JSON of the user's own that is sent beside, or in place of, what a request's fields say."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, BeforeValidator, Field

from prefect_genmedia._transport import MASK, shown_url, unsigned_text
from prefect_genmedia.providers.inputs import AS_GIVEN, SentInputs, identity_of_base64, is_public

Expectation = TypeVar("Expectation", bound=BaseModel)

MAX_BYTES = 64 * 1024
"""The largest `extra_body`, as JSON in UTF-8: it is stored with the run, in the ledger and in the sidecar."""

MAX_DEPTH = 32
"""How many objects and arrays may stand inside each other; no API needs more, and recursion ends somewhere."""

_SHOWN_PLACE = 80
"""Characters of a value's place that an error repeats at most."""

_SECRET_NAME = re.compile(
    r"(^|[_-])(authorization|token|secret|password|credentials?|(api|auth|access|secret|private)[_-]?key)$"
)
_CAMEL_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def _checked(value: Any) -> dict[str, Any]:
    """A copy of `value` with JSON's own types only.

    Raises:
        ValueError: it is not a JSON object, or too large; the sentence says where, and repeats no value.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ValueError('must be a JSON object such as {"option": "value"}')  # noqa: TRY004 - pydantic lets it pass
    too_large = f"must not be larger than {MAX_BYTES // 1024} KiB as JSON"
    at_least = 0
    for place, inner in _walk(value):
        # Before it is written: the same list may stand in it a million times.
        at_least += len(inner) + 2 if isinstance(inner, str) else 1
        if at_least > MAX_BYTES:
            raise ValueError(too_large)
        problem = _problem(inner)
        if problem:
            raise ValueError(f"{'.'.join(place)[:_SHOWN_PLACE]}: {problem}".removeprefix(": "))
    try:
        text = json.dumps(value, default=dict, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        size = len(text.encode())
    except ValueError:  # half a surrogate pair, or an integer of thousands of digits
        raise ValueError("must be text and numbers that JSON in UTF-8 can hold") from None
    if size > MAX_BYTES:
        raise ValueError(too_large)
    copy: dict[str, Any] = json.loads(text)
    return copy


ExtraBody = Annotated[dict[str, Any], BeforeValidator(_checked)]
"""A JSON object of bounded size and depth; None is an empty one."""


class ExtensibleRequest(BaseModel):
    """What a request has because of its `extra_body`; the base of `GenerationRequest`."""

    model_key: ClassVar[str] = "model"
    """The key of the JSON that names the provider's model."""
    decides: ClassVar[Mapping[str, frozenset[str]]] = {}
    """What each key of the JSON decides of `expectation()`, by the names of its fields. A key that is not listed may
    decide all of it: an option that is new to this package may change the file's length, size or sound."""

    extra_body: ExtraBody = Field(
        default_factory=dict,
        repr=False,
        description="JSON of your own that is merged into what is sent, key by key; it wins over the other fields.",
    )

    @property
    def default_model(self) -> str:
        """The provider's model without an `extra_body`; the name of the service where the provider has one only.

        Raises:
            NotImplementedError: the provider's request does not say.
        """
        raise NotImplementedError

    @property
    def model_name(self) -> str:
        """The provider's model that is really asked for, as tables and prices name it."""
        named = self.extra_body.get(self.model_key)
        return named if isinstance(named, str) and named else self.default_model

    @property
    def length_is_extra(self) -> bool:
        """Whether `extra_body` says how long the result plays, so that the other fields do not."""
        return any("seconds" in self.decides.get(key, ()) for key in self.extra_body)

    def verifiable(self, expectation: Expectation) -> Expectation:
        """An expectation without what `extra_body` decides, or may decide: that is not known, and so not verified."""
        every = frozenset(type(expectation).model_fields)
        unsure = frozenset[str]().union(*(self.decides.get(key, every) for key in self.extra_body))
        return expectation.model_copy(update=dict.fromkeys(unsure))


def _walk(value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value inside, with its place; without recursion, so that no depth can break it."""
    todo: list[tuple[tuple[str, ...], Any]] = [((), value)]
    while todo:
        place, each = todo.pop()
        if len(place) > MAX_DEPTH:
            raise ValueError(f"must not be nested deeper than {MAX_DEPTH} levels")
        yield place, each
        if isinstance(each, Mapping):
            todo += [((*place, str(name)), inner) for name, inner in each.items()]
        elif isinstance(each, (list, tuple)):
            todo += [((*place, str(number)), inner) for number, inner in enumerate(each)]


def _problem(value: Any) -> str:
    if isinstance(value, Mapping):
        return "" if all(isinstance(name, str) for name in value) else "has a key that is not text"
    if isinstance(value, float) and not math.isfinite(value):
        return "is not a number that JSON has"
    if value is None or isinstance(value, (str, bool, int, float, list, tuple)):
        return ""
    return f"is not JSON, but of Python's type {type(value).__name__}"


def shown_extra(extra_body: Mapping[str, Any]) -> Any:
    """It as it may be stored and shown: URLs without signatures, `data:` URIs cut, values named like secrets masked."""
    return _mapped(extra_body, _shown_text, masked=True)


def identity_of_extra(extra_body: Mapping[str, Any], inputs: SentInputs = AS_GIVEN) -> Any:
    """It as a job's identity has it: URLs without signatures, files by their bytes.

    Args:
        extra_body: what the request holds beside its own fields.
        inputs: tells how a URL counts.
    """
    return _mapped(extra_body, lambda text: _identity_of_text(text, inputs), masked=False)


def _mapped(value: Any, change: Callable[[str], str], masked: bool) -> Any:
    if isinstance(value, Mapping):
        return {
            name: MASK if masked and _is_secret(name, inner) else _mapped(inner, change, masked)
            for name, inner in value.items()
        }
    if isinstance(value, list):
        return [_mapped(inner, change, masked) for inner in value]
    return change(value) if isinstance(value, str) else value


def _is_secret(name: str, value: Any) -> bool:
    words = _CAMEL_HUMP.sub("_", name).lower()
    return isinstance(value, (str, int)) and not isinstance(value, bool) and bool(_SECRET_NAME.search(words))


def _shown_text(text: str) -> str:
    if _is_data(text):
        return shown_url(f"data:{text[5:]}")
    try:
        return shown_url(text) if is_public(text) else unsigned_text(text)
    except ValueError:  # no URL that anybody could read
        return unsigned_text(text)


def _identity_of_text(text: str, inputs: SentInputs) -> str:
    return identity_of_base64(text.partition(",")[2]) if _is_data(text) else inputs.text_identity(text)


def _is_data(text: str) -> bool:
    return text[:5].lower() == "data:"
