"""`prefect-genmedia confirm …`: the runs that ask a person before they pay, and the answers."""

from __future__ import annotations

import getpass
import time
from decimal import Decimal
from typing import Annotated, Literal

from cyclopts import App, Parameter
from cyclopts.validators import Number

from prefect_genmedia._core.confirmations import Question, questions
from prefect_genmedia._core.ledger import Ledger
from prefect_genmedia.cli.console import Switch, command_console, print_facts, stop
from prefect_genmedia.cli.ledger import print_ledger_url, run_on_ledger, span
from prefect_genmedia.cli.server import require_server
from prefect_genmedia.prices import amount_of
from prefect_genmedia.text import iso_time, json_text

app = App(name="confirm")

_ALL = 10_000


@app.command(name="list")
def list_all(
    *,
    every: Annotated[Switch, Parameter(name="--all")] = False,
    as_json: Annotated[Switch, Parameter(name="--json")] = False,
) -> None:
    """List the runs that wait for a confirmation, the newest first.

    For example:
    ```
    prefect-genmedia confirm list
    ```
    Next: `prefect-genmedia confirm approve QUESTION`.

    Parameters
    ----------
    every
        List the answered and expired ones, too.
    as_json
        Print JSON, one array.
    """
    found = run_on_ledger(lambda ledger: questions(ledger, unanswered=not every, limit=_ALL))
    now = time.time()
    if as_json:
        print(json_text([_plain(each, now) for each in found], indent=2))  # noqa: T201 - for programs
    elif not found:
        command_console().print("No run waits for a confirmation." if not every else "Nobody was ever asked.")
    else:
        for each in found:
            print_facts(command_console(), _facts(each, now))
            command_console().print()
    print_ledger_url()


@app.command
def approve(question: str, /, *, up_to: Annotated[float | None, Parameter(validator=Number(gte=0))] = None) -> None:
    """Approve what a run asks for: it is sent, and paid.

    For example:
    ```
    prefect-genmedia confirm approve 5d41402a
    prefect-genmedia confirm approve 5d41402a --up-to 500
    ```
    Next: the run goes on by itself.

    Parameters
    ----------
    question
        The question's id, its run's id, or the beginning of one of them.
    up_to
        CNY that this run may commit in all, estimated, so that it does not ask again before; the estimate by default.
    """
    _decide(question, "approve", None if up_to is None else amount_of("up_to", up_to))


@app.command
def reject(question: str, /) -> None:
    """Reject what a run asks for: nothing is sent for it, and the run ends with `NotConfirmed`.

    For example:
    ```
    prefect-genmedia confirm reject 5d41402a
    ```
    Next: start the run again to be asked again.

    Parameters
    ----------
    question
        The question's id, its run's id, or the beginning of one of them.
    """
    _decide(question, "reject", None)


def _decide(name: str, decision: Literal["approve", "reject"], up_to: Decimal | None) -> None:
    require_server()
    from prefect_genmedia._prefect.confirm import answer  # Prefect takes a second to import

    async def decide(ledger: Ledger) -> Question:
        question = await _named(ledger, name)
        if up_to is not None and up_to * 1_000_000 < question.limit.micros:
            stop(f"--up-to is less than what is asked for. {question.reason}")
        await answer(ledger, question, decision, getpass.getuser(), up_to)
        return question

    question = run_on_ledger(decide)
    word = "Approved" if decision == "approve" else "Rejected"
    command_console().print(f"{word}: {question.title}, {question.due}.", markup=False, highlight=False, soft_wrap=True)


async def _named(ledger: Ledger, name: str) -> Question:
    """The one question that a person means: one that waits, or else an answered one."""
    found: list[Question] = []
    name = name.strip().lower()
    for unanswered in (True, False):
        every = await questions(ledger, unanswered=unanswered, limit=_ALL)
        found = [each for each in every if name and _has_name(each, name)]
        if len(found) > 1:
            stop(f"{len(found)} questions may be meant by {name!r}: give more of the id.")
        if found:
            break
    if not found:
        stop(f"No run asks question {name!r}: see `prefect-genmedia confirm list`.")
    return found[0]


def _has_name(question: Question, name: str) -> bool:
    return any(each.startswith(name) for each in (question.id, question.flow_run_id or "", question.root_run_id))


def _facts(question: Question, now: float) -> dict[str, str]:
    state = question.answer or ("no answer in time: no" if question.has_expired(now) else "")
    waits = f"for {span(question.expires_at - now)} more, then the answer is no"
    return {
        "Question": question.id[:8],
        "About": question.title,
        "Why": question.reason,
        "Run": question.flow_run_id or question.root_run_id,
        "Waits": "" if state else waits,
        "Answer": f"{state} by {question.decided_by}" if state and question.decided_by else state,
    }


def _plain(question: Question, now: float) -> dict[str, object]:
    return {
        "question": question.id,
        "title": question.title,
        "flow_run_id": question.flow_run_id,
        "root_run_id": question.root_run_id,
        "jobs": question.due.jobs,
        "estimated_micros": question.due.micros,
        "without_price": question.due.unpriced,
        "limit_micros": question.limit.micros,
        "asked_at": iso_time(question.asked_at),
        "expires_at": iso_time(question.expires_at),
        "answer": question.answer or ("timeout" if question.has_expired(now) else None),
        "decided_by": question.decided_by,
    }
