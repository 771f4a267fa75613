"""Reading JSON that other people wrote: ids, states, reasons, URLs and codes, wherever gateways put them.

Gateways wrap a provider's answer, rename its fields, write numbers as text and text as numbers, and fill what is unset
with Go's zero values. What an answer means is decided in `responses` and `statuses`; here it is only found.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urljoin, urlsplit

import httpx

from prefect_genmedia._transport import Redactor
from prefect_genmedia.providers.refusals import snake
from prefect_genmedia.text import CODE_CHARACTERS, WORDS_CHARACTERS, clean_text, clean_word

MAX_DEPTH = 100
"""The deepest nesting of JSON that is read; no documented answer has more than five levels."""

JOB_IDS = ("id", "task_id", "video_id", "job_id")
"""Fields that hold a job's id in OpenAI-compatible answers."""

STATUSES = ("status", "state", "task_status")
"""Fields that hold a job's state."""

_WRAPPERS = ("data", "result", "output", "task", "video", "job", "response")
_WRAPPED = 3
"""So many objects may stand around a task."""

_NO_JOBS = frozenset(
    "account accounts api_key app application channel channels client customer group groups input inputs key log "
    "member model models org organization owner parameters params payload plan project provider quota request "
    "response_metadata server session subscription team tenant token trace usage user workspace".split()
)
"""Objects that gateways send along with a refusal: their `id` is no job's."""

_JOB_ID = re.compile(r"(?:task|job|video|generation|prediction|operation|render)_?(?:uu)?id")
"""A field that holds a job's id in whatever object it stands."""

_CODES = ("code", "error_code", "err_code", "errcode", "errno", "type")
_REASONS = (
    *("error", "errors", "fail_reason", "failure_reason", "failed_reason", "reason", "error_msg", "error_message"),
    *("err_msg", "detail", "details", "task_status_msg", "status_msg", "message", "msg", "description"),
)
_NO_REASON = frozenset({"", "success", "succeed", "ok", "none", "null", "nil", "0", "请求成功", "成功"})
_URLS = (
    *("video_url", "video_urls", "download_url", "file_url", "result_url", "output_url", "play_url", "content_url"),
    *("url", "urls", "video", "videos", "file", "files", "output", "outputs", "result", "results"),
    *("data", "task", "content", "creations", "works", "task_result", "video_result"),
)
_EVIDENCE = ("request_id", "req_id", "trace_id", "log_id", "created_at", "created", "sub_task_ids")
_EVIDENCE_HEADER = re.compile(r"(?:.*-)?(?:request|req|trace|log|correlation)-?id|cf-ray")
_MOST_EVIDENCE = 16
_NO_URL = re.compile(r"[<>{}\[\]\"|\\^`]")
"""Characters that stand in no path: such a text is JSON or markup."""


def parsed(text: str | bytes) -> Any:
    """The JSON value; None where it is none, or nested deeper than `MAX_DEPTH`.

    Args:
        text: what may be JSON.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    # Writing the value anew recurses as well, and from deeper in the stack than reading it.
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return value
    return None


def id_in(value: Any) -> str | None:
    """A provider's id of a job, unaltered: text that is not blank, or a whole number; None for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return name_in(value)


def name_in(value: Any) -> str | None:
    """A URL or a token, unaltered: text that is not blank; None for anything else."""
    return value if isinstance(value, str) and value.strip() else None


def number_in(value: Any) -> float | None:
    """A finite number, given as one or as text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if abs(number) < float("inf") else None


def percent_in(value: Any) -> float | None:
    """A percentage from 0 to 100, given as a number or as text such as `40%`; None for anything else."""
    number = number_in(value.strip().removesuffix("%") if isinstance(value, str) else value)
    return number if number is not None and 0 <= number <= 100 else None


def is_blank(value: Any) -> bool:
    """Whether a field says nothing: null, or empty text, list or object, or one that holds nothing else."""
    if isinstance(value, str):
        return value.strip().lower() in _NO_REASON
    if isinstance(value, Mapping):
        return all(map(is_blank, value.values()))
    if isinstance(value, list):
        return all(map(is_blank, value))
    return value is None or value is False or value == 0


def layers(payload: Any) -> Iterator[dict[str, Any]]:
    """An answer's object, and the objects that it wraps (`data`, `result`, …), from the outermost on.

    Args:
        payload: the answer's JSON.
    """
    level = [payload]
    for _ in range(_WRAPPED + 1):
        objects = [_plain(each) for each in map(_single, level) if isinstance(each, dict)]
        yield from objects
        level = [each[name] for each in objects for name in _WRAPPERS if name in each]


def job_id_in(payload: Any, names: Sequence[str] = JOB_IDS) -> str | None:
    """The provider's id of a job, as text, wherever it stands in an answer; None where there is none.

    Zero is what some gateways write for none. Where a number and a text are given, the number is a row of somebody's
    database.

    Args:
        payload: the answer's JSON.
        names: the fields that may hold it.
    """
    for layer in layers(payload):
        found = [layer[name] for name in names if id_in(layer.get(name)) is not None and layer[name] != 0]
        for value in (*(each for each in found if isinstance(each, str)), *found):
            return id_in(value)
    bare = payload.get("data") if isinstance(payload, dict) else None
    text = id_in(bare)
    # A word such as "accepted" is no id; each one that is known has a digit.
    return text if text and bare != 0 and re.fullmatch(r"\S*\d\S*", text) else None


def job_id_beside_error(payload: Any, names: Sequence[str] = JOB_IDS, depth: int = 4) -> str | None:
    """The id of a job that an answer with an error names all the same, in whatever object; None where there is none.

    Args:
        payload: the answer's JSON.
        names: the fields that may hold it.
        depth: how many levels are searched.
    """
    return job_id_in(payload, names) or next(_named_jobs(payload, names, depth, is_job=True), None)


def _named_jobs(value: Any, names: Sequence[str], depth: int, is_job: bool) -> Iterator[str]:
    """The ids of jobs in a value. Where the object may not be a job, only a field that says so holds its id."""
    if isinstance(value, str) and value.lstrip().startswith(("{", "[")):
        value = parsed(value)  # an upstream's answer, passed on as text
    if isinstance(value, list):
        value = dict(enumerate(value))
        fields = ((is_job, each) for each in value.values())
    elif isinstance(value, dict):
        value = _plain(value)
        for name, each in value.items():
            if _JOB_ID.fullmatch(name) or (is_job and name in names):
                found = id_in(each)
                yield from [found] if found and each != 0 else []
        fields = ((name not in _NO_JOBS and name not in _REASONS, each) for name, each in value.items())
    else:
        return
    for inner_is_job, each in fields if depth else ():
        yield from _named_jobs(each, names, depth - 1, inner_is_job)


def task_in(payload: dict[str, Any], names: Sequence[str] = STATUSES) -> dict[str, Any] | None:
    """The object that tells a job's state; None where there is none.

    An envelope may have a `status` of its own: the object that also has an id is meant, or else the innermost one.

    Args:
        payload: the answer's JSON.
        names: the fields that may hold the state.
    """
    found = [layer for layer in layers(payload) if any(name in layer for name in names)]
    with_id = (layer for layer in found if any(id_in(layer.get(name)) for name in (*JOB_IDS, "uuid")))
    return next(with_id, found[-1] if found else None)


def status_in(task: Mapping[str, Any], names: Sequence[str] = STATUSES) -> Any:
    """The state of a job, as it is written there; None where the object has none.

    Args:
        task: the object that tells it.
        names: the fields that may hold it.
    """
    return next((task[name] for name in names if name in task and task[name] is not None), None)


class Reason(NamedTuple):
    """Why something failed: the provider's code and words, clean and cut; empty where it gave none."""

    code: str
    words: str


def reason_in(payload: Any, limit: int | None = WORDS_CHARACTERS) -> Reason:
    """Why something failed, as text, object or list, in any of the usual fields.

    Args:
        payload: the answer's JSON, or the job in it.
        limit: characters of the words, at most; None where a secret must be found in them before they are cut.
    """
    words = next((found for layer in layers(payload) if (found := _words(layer))), "")
    return Reason(next(iter(codes_in(payload, types=False)), ""), clean_text(words, limit))


def codes_in(payload: Any, types: bool = True) -> tuple[str, ...]:
    """Every code in an answer's code fields: of the error first, then of the answer, then of what they hold.

    Args:
        payload: the answer's JSON.
        types: whether fields named `type` count, too: a family of errors, not one of them.
    """
    found = [clean_word(value, CODE_CHARACTERS) for value in _codes(payload, types, 0)]
    return tuple(dict.fromkeys(code for code in found if code and code != "0" and code.lower() not in _NO_REASON))


def url_in(value: Any, names: Sequence[str] = ()) -> str | None:
    """The first URL of a file: of `names`, or else of the usual fields, however it is nested.

    Args:
        value: the answer's JSON, or the field that holds it.
        names: the provider's own fields, which come first.
    """
    return next(iter(urls_in(value, names)), None)


def urls_in(value: Any, names: Sequence[str] = (), depth: int = 6) -> list[str]:
    """The URLs of the files that one field names: several where it is a list.

    Args:
        value: the answer's JSON, or the field that holds it.
        names: the provider's own fields, which come first.
        depth: how deeply it may be nested.
    """
    if isinstance(value, str) and value.lstrip().startswith(("{", "[")):
        value = parsed(value)  # an upstream's answer, passed on as text
    if isinstance(value, str):
        return [value.strip()] if is_url(value.strip()) else []
    if depth == 0:
        return []
    if isinstance(value, list):
        return [url for each in value for url in urls_in(each, names, depth - 1)]
    if isinstance(value, dict):
        value = _plain(value)
        for name in dict.fromkeys((*names, *_URLS, *_WRAPPERS)):
            found = urls_in(value[name], names, depth - 1) if name in value else []
            if found:
                return found
    return []


def is_url(text: str) -> bool:
    """Whether a text may be the URL of a file, absolute or relative to the answer that holds it."""
    if not text or any(character.isspace() for character in text):
        return False
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") or (not parts.scheme and "/" in text and not _NO_URL.search(text))


def evidence_in(response: httpx.Response, payload: Any, redactor: Redactor) -> dict[str, Any]:
    """What proves to the provider that it took a job or refused one: request ids, sub-task ids, its own times.

    Args:
        response: the answer.
        payload: its JSON.
        redactor: takes secrets out of it.
    """
    found: dict[str, Any] = {}
    for layer in layers(payload):
        for name in _EVIDENCE:
            values = layer.get(name)
            words = [
                redactor.clean(word)
                for each in (values if isinstance(values, list) else [values])[:_MOST_EVIDENCE]
                if (word := clean_word(each))
            ]
            if words:
                found.setdefault(name, words if isinstance(values, list) else words[0])
    for name in list(filter(_EVIDENCE_HEADER.fullmatch, response.headers))[:_MOST_EVIDENCE]:
        word = redactor.clean(clean_word(response.headers[name]))
        if word and word not in found.values():
            found[name] = word
    return found


def is_page(response: httpx.Response) -> bool:
    """Whether a web page answered, and not an API."""
    media_type = response.headers.get("content-type", "").lower()
    beginning = response.content.lstrip(b"\xef\xbb\xbf \t\r\n")[:200].lower()
    return "html" in media_type or beginning.startswith((b"<!doctype html", b"<html"))


def is_same_path(asked: str, location: str) -> bool:
    """Whether a 302 or 303 leads to what was asked on https, or with a slash at its end.

    Args:
        asked: the URL that was asked.
        location: where the redirect leads.
    """
    try:
        old, new = urlsplit(asked), urlsplit(urljoin(asked, location))
    except ValueError:
        return False
    if not location or new.query or old.hostname != new.hostname:
        return False
    secured = (old.scheme, new.scheme) == ("http", "https") and old.path.rstrip("/") == new.path.rstrip("/")
    return secured or (new.path == f"{old.path}/" and (old.scheme, old.netloc) == (new.scheme, new.netloc))


def words_of_page(text: str) -> str:
    """What a person would read on a web page; other text as it is."""
    if not re.search(r"(?i)<(!doctype|html|head|body|h1|title)\b", text[:2000]):
        return text
    without = re.sub(r"(?is)<(script|style)\b.*?(</\1\s*>|$)", " ", text[:100_000])
    return re.sub(r"<[^>]*>", " ", without)


def _plain(fields: dict[str, Any]) -> dict[str, Any]:
    """An object with its fields in snake case: `taskId` and `TaskId` are `task_id`."""
    if all(name.islower() and "-" not in name for name in fields):
        return fields
    return {snake(name): value for name, value in fields.items()} | {
        name: value for name, value in fields.items() if snake(name) == name
    }


def _single(value: Any) -> Any:
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _words(payload: Any, depth: int = 4) -> str:
    """The provider's sentence: a text, the first of an object's reasons, or all of a list."""
    if isinstance(payload, str):
        inner = parsed(payload) if payload.lstrip().startswith(("{", "[")) else None
        found = _words(inner, depth - 1) if isinstance(inner, dict | list) and depth else ""
        return found or ("" if is_blank(payload) else payload)
    if depth == 0:
        return ""
    if isinstance(payload, list):
        return "; ".join(dict.fromkeys(found for each in payload if (found := _words(each, depth - 1))))
    if isinstance(payload, dict):
        fields = _plain(payload)
        return next((found for name in _REASONS if (found := _words(fields.get(name), depth - 1))), "")
    return ""


def _codes(value: Any, types: bool, depth: int) -> Iterator[Any]:
    if isinstance(value, str) and value.lstrip().startswith(("{", "[")):
        value = parsed(value)  # an upstream's answer, passed on as text
    if depth > _WRAPPED + 1:
        return
    if isinstance(value, list):
        for each in value:
            yield from _codes(each, types, depth + 1)
    if isinstance(value, dict):
        value = _plain(value)
        yield from _codes(value.get("error"), types, depth + 1)
        yield from (value.get(name) for name in _CODES if types or name != "type")
        for name in (*_REASONS, *_WRAPPERS):
            if name != "error":
                yield from _codes(value.get(name), types, depth + 1)
