"""Preflight of a table: inspects the inputs of all rows, each input once, before anything is submitted."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from prefect.logging import get_run_logger

from prefect_genmedia._core.budgets import length_limit, priced_as
from prefect_genmedia._core.session import Session
from prefect_genmedia._inputs import InspectionResult, inspect_url, inspections_wanted, validate_inputs
from prefect_genmedia._inputs.convert import after_conversion
from prefect_genmedia._inputs.inspect import Wanted
from prefect_genmedia._inputs.presence import Sleep, ask, asked_inputs, confirm_gone
from prefect_genmedia._transport import FetchRules
from prefect_genmedia.batch.chain import UNMADE, publishing_problems, step_field
from prefect_genmedia.batch.rows import BadRow, Row
from prefect_genmedia.errors import FieldProblem, GenMediaError, InvalidRequest
from prefect_genmedia.prices import Price
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


@dataclass(frozen=True)
class AskedStep:
    """A step of a row that will be submitted.

    Args:
        row: the row.
        number: the step, from 1.
        request: its request; that of a later step has no input from the step before yet.
    """

    row: Row
    number: int
    request: GenerationRequest

    def problems(self, found: Sequence[FieldProblem]) -> list[FieldProblem]:
        """Returns problems with the step named, unless it is the first.

        Args:
            found: the problems of its fields.
        """
        if self.number == 1:
            return list(found)
        return [FieldProblem(step_field(self.number, each.field), each.problem) for each in found]


async def inspect_inputs(steps: Sequence[AskedStep], sessions: Mapping[str, Session], preflight: bool) -> Inspected:
    """Check the documented limits for inputs of the steps to submit; nothing is sent to a provider.

    Inputs that cannot be inspected from this machine are logged in one line and do not count as a problem.

    Args:
        steps: the steps to submit, by row.
        sessions: the sessions, by provider.
        preflight: whether documented limits are checked; if False, only that local files exist.
    """
    chained = [(step, _publishing_problems(step, sessions)) for step in steps if step.number > 1]
    if not preflight:
        absent = [(step, step.problems(step.request.absent_inputs())) for step in steps]
        return Inspected(_bad_rows([*absent, *chained]))
    converts = any(session.convert_inputs for session in sessions.values())
    asked = [(step, wanted) for step in steps if (wanted := _wanted(step.request, converts))]
    if not asked:
        return Inspected(_bad_rows(chained))
    inspections = _Inspections()
    for step, wanted in asked:
        inspections.want(wanted, sessions[step.request.provider].client.fetch_rules)
    what = f"{counted(len(inspections), 'input')} of {counted(len({step.row.id for step, _ in asked}), 'row')}"
    get_run_logger().info("Inspecting %s, before anything is submitted", what)
    await inspections.all()
    await inspections.confirm([url for step, _ in asked for url in asked_inputs(step.request)], _sleep_of(sessions))
    inspected, unseen, problems = Inspected(), [], list(chained)
    for step, wanted in asked:
        results = {url: inspections.results[url] for url in wanted}
        warnings: list[str] = []
        request, publication = step.request, sessions[step.request.provider].publication
        will_be = after_conversion(request.inputs(), results) if converts else results
        findings = validate_inputs(request, will_be, publication, True, warnings.append)
        source = request.duration_source()
        if source is not None and source.url in wanted:
            inspected.seconds[source.url] = findings.seconds
        if findings.problems:
            problems.append((step, step.problems(findings.problems)))
            continue
        if step.number == 1:
            inspected.results[step.row.id] = results
        warnings += [each.message for each in results.values() if isinstance(each, GenMediaError)]
        unseen += [f"row {step.row.id}: {warnings[0]}"] if warnings else []
    inspected.bad.extend(_bad_rows(problems))
    if unseen:
        get_run_logger().warning(
            "%d of %s cannot be inspected from here, and %s without it. The first is %s",
            len(unseen),
            counted(len(asked), "row"),
            "goes on" if len(unseen) == 1 else "go on",
            unseen[0],
        )
    return inspected


def _publishing_problems(step: AskedStep, sessions: Mapping[str, Session]) -> list[FieldProblem]:
    return publishing_problems(step.request, step.number, sessions[step.request.provider].publication)


def _bad_rows(found: Sequence[tuple[AskedStep, list[FieldProblem]]]) -> list[BadRow]:
    """Returns each row that has problems, with those of all its steps."""
    by_row: dict[str, tuple[Row, list[FieldProblem]]] = {}
    for step, problems in sorted(found, key=lambda each: each[0].number):
        if problems:
            by_row.setdefault(step.row.id, (step.row, []))[1].extend(problems)
    return [BadRow.of(row.id, row.position, problems) for row, problems in by_row.values()]


def _wanted(request: GenerationRequest, converts: bool) -> dict[str, Wanted]:
    """Returns what to inspect for a request; for http(s) inputs without documented limits, only that they exist."""
    asked = dict.fromkeys(asked_inputs(request), Wanted(max_bytes=0))
    wanted = asked | inspections_wanted(request, preflight=True, convert=converts)
    return {url: each for url, each in wanted.items() if url != UNMADE}


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


def check_prices(rows: Sequence[Row], prices: Mapping[str, Price], limit: str, provider: str = "") -> None:
    """Refuse a cost limit if some steps have no price, because they could not be counted against it.

    Args:
        rows: the rows.
        prices: the prices by `provider/model`.
        limit: the limit's name.
        provider: only steps of this provider; empty for all.

    Raises:
        InvalidRequest: a price is missing.
    """
    requests = (request for row in rows for request in row.requests)
    counted_ones = (request for request in requests if provider in ("", request.provider))
    found = {(priced_as(request), _price_problem(request, prices, limit)) for request in counted_ones}
    problems = [FieldProblem(f"prices.{name}", problem) for name, problem in sorted(found) if problem]
    if problems:
        raise InvalidRequest.of("The batch", problems)


def _price_problem(request: GenerationRequest, prices: Mapping[str, Price], limit: str) -> str:
    price = prices.get(priced_as(request))
    if price is None:
        return f"is needed for {limit}, and no price is known"
    if price.per_second and request.length_is_extra and length_limit(request) is None:
        return f"is per second, and extra_body changes how long the result plays: {limit} needs a price per_job"
    return ""
