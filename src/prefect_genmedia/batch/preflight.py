"""Preflight of a table: inspects the inputs of all rows, each input once, before anything is submitted."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from prefect.logging import get_run_logger

from prefect_genmedia._core.session import Session
from prefect_genmedia._inputs import InspectionResult, inspect_url, inspections_wanted, validate_inputs
from prefect_genmedia._inputs.convert import after_conversion
from prefect_genmedia._inputs.inspect import Wanted
from prefect_genmedia._inputs.presence import Sleep, ask, asked_inputs, confirm_gone
from prefect_genmedia._transport import FetchRules
from prefect_genmedia.batch.rows import BadRow, Row
from prefect_genmedia.errors import GenMediaError
from prefect_genmedia.providers.protocol import GenerationRequest
from prefect_genmedia.text import counted

INSPECTED_AT_ONCE = 8
"""Number of concurrent inspections: recordings are decoded, and a table may have many of them."""

GIVEN_UP_AFTER = 8
"""After this many consecutive unanswered requests, the other inputs on a host or storage are skipped: each would take a
full timeout."""


@dataclass(frozen=True)
class Inspected:
    """The result of inspecting the inputs of a batch's rows.

    Args:
        bad: the rows with invalid inputs, with all problems of their inputs.
        results: the inspection results, by row id and input URL.
        seconds: durations of recordings in seconds, by URL; None if they cannot be determined from this machine.
        unfit: ids of the rows that are skipped because of their inputs.
    """

    bad: list[BadRow] = field(default_factory=list)
    results: dict[str, Mapping[str, InspectionResult]] = field(default_factory=dict)
    seconds: dict[str, float | None] = field(default_factory=dict)
    unfit: frozenset[str] = frozenset()


async def inspect_inputs(rows: Sequence[Row], sessions: Mapping[str, Session], preflight: bool) -> Inspected:
    """Check the documented limits for inputs of the rows to submit; nothing is sent to a provider.

    Inputs that cannot be inspected from this machine are logged in one line and do not count as a problem.

    Args:
        rows: the rows.
        sessions: the sessions, by provider.
                preflight: whether documented limits are checked; if False, only that local files exist.
    """
    if not preflight:
        return Inspected(
            [BadRow.of(row.id, row.position, gone) for row in rows if (gone := row.request.absent_inputs())]
        )
    converts = any(session.convert_inputs for session in sessions.values())
    by_row = {row.id: wanted for row in rows if (wanted := _wanted(row.request, converts))}
    of_rows = [row for row in rows if row.id in by_row]
    if not of_rows:
        return Inspected()
    inspections = _Inspections()
    for row in of_rows:
        inspections.want(by_row[row.id], sessions[row.provider].client.fetch_rules)
    what = f"{counted(len(inspections), 'input')} of {counted(len(of_rows), 'row')}"
    get_run_logger().info("Inspecting %s, before anything is submitted", what)
    await inspections.all()
    await inspections.confirm([url for row in of_rows for url in asked_inputs(row.request)], _sleep_of(sessions))
    inspected, unseen = Inspected(), []
    for row in of_rows:
        results = {url: inspections.results[url] for url in by_row[row.id]}
        warnings: list[str] = []
        request, publication = row.request, sessions[row.provider].publication
        will_be = after_conversion(request.inputs(), results) if converts else results
        findings = validate_inputs(request, will_be, publication, True, warnings.append)
        source = request.duration_source()
        if source is not None:
            inspected.seconds[source.url] = findings.seconds
        if findings.problems:
            inspected.bad.append(BadRow.of(row.id, row.position, findings.problems))
            continue
        inspected.results[row.id] = results
        warnings += [each.message for each in results.values() if isinstance(each, GenMediaError)]
        unseen += [f"row {row.id}: {warnings[0]}"] if warnings else []
    if unseen:
        get_run_logger().warning(
            "%d of %s cannot be inspected from here, and %s without it. The first is %s",
            len(unseen),
            counted(len(of_rows), "row"),
            "goes on" if len(unseen) == 1 else "go on",
            unseen[0],
        )
    return inspected


def _wanted(request: GenerationRequest, converts: bool) -> dict[str, Wanted]:
    """Returns what to inspect for a request; for http(s) inputs without documented limits, only that they exist."""
    asked = dict.fromkeys(asked_inputs(request), Wanted(max_bytes=0))
    return asked | inspections_wanted(request, preflight=True, convert=converts)


def _sleep_of(sessions: Mapping[str, Session]) -> Sleep:
    return next(iter(sessions.values())).clock.sleep


class _Inspections:
    """Inspects inputs with limited concurrency, each input once for all rows that name it."""

    def __init__(self) -> None:
        self.results: dict[str, InspectionResult] = {}
        self._wanted: dict[str, Wanted] = {}
        self._rules: dict[str, FetchRules] = {}
        self._unanswered: Counter[str] = Counter()
        self._trouble: dict[str, GenMediaError] = {}

    def __len__(self) -> int:
        return len(self._wanted)

    def want(self, wanted: Mapping[str, Wanted], rules: FetchRules) -> None:
        """Add the inspections that one row needs."""
        for url, new in wanted.items():
            self._wanted[url] = self._wanted[url] | new if url in self._wanted else new
            self._rules.setdefault(url, rules)

    async def all(self) -> None:
        """Run all added inspections."""
        todo = iter(self._wanted.items())
        await asyncio.gather(*(self._work(todo) for _ in range(INSPECTED_AT_ONCE)))

    async def confirm(self, urls: Sequence[str], sleep: Sleep) -> None:
        """Request inputs again that were reported not to exist."""
        self.results |= await confirm_gone(urls, self.results, self._rules.__getitem__, sleep)

    async def _work(self, todo: Iterator[tuple[str, Wanted]]) -> None:
        for url, wanted in todo:
            host = _host_of(url)
            if host and self._unanswered[host] >= GIVEN_UP_AFTER:
                self.results[url] = self._trouble[host]
                continue
            is_read = wanted.max_bytes > 0
            result = await (inspect_url(url, wanted, self._rules[url]) if is_read else ask(url, self._rules[url]))
            self.results[url] = result
            if isinstance(result, GenMediaError) and result.http_status is None:
                self._unanswered[host] += 1
                self._trouble[host] = result
            else:
                self._unanswered[host] = 0


def _host_of(url: str) -> str:
    """Returns the host or storage of an input; empty for local files and for data within the request."""
    return "" if url.startswith("data:") else urlsplit(url).netloc
