"""Asking the person at the terminal before a command pays."""

from __future__ import annotations

import getpass
import sys

from anyio import to_thread

from prefect_genmedia._core.confirmations import Question, ask, decide, needed, question_id
from prefect_genmedia._core.pipeline import due_costs, prepare_request
from prefect_genmedia._core.session import JobSpec, Session
from prefect_genmedia.cli.console import command_console
from prefect_genmedia.prices import limit_in_micros


async def confirm_in_terminal(session: Session, spec: JobSpec, yes: bool) -> None:
    """Return if a job may be sent: it is below the spec's `confirm_above`, or the person says yes.

    Args:
        session: the account that pays.
        spec: the job.
        yes: whether the person has said so already.

    Raises:
        NotConfirmed: the answer is no, or nobody can be asked. Nothing was sent.
    """
    root = session.run.root_run_id
    if spec.confirm_above is None or root is None:
        return
    above = limit_in_micros(spec.confirm_above)
    due = await due_costs(session, spec, await prepare_request(session, spec, is_final=True))
    total = await session.ledger.transact(lambda connection: needed(connection, root, due, above))
    if total is None:
        return
    now = session.ledger.now()
    question = Question(
        id=question_id((root,), total, above, None),
        root_run_id=root,
        flow_run_id=None,
        title=" · ".join(filter(None, (spec.request.kind, spec.label))),
        due=due,
        limit=total,
        above_micros=above,
        asked_at=now,
        expires_at=now,
    )
    await ask(session.ledger, question)
    is_approved = yes or await to_thread.run_sync(_is_yes, question)
    decided = await decide(session.ledger, question, "approved" if is_approved else "rejected", getpass.getuser())
    if decided.answer != "approved":
        raise decided.refusal()


def _is_yes(question: Question) -> bool:
    """What the person types; no where nobody is at a terminal."""
    console = command_console(stderr=True)
    console.print(question.reason, markup=False, highlight=False, soft_wrap=True)
    if not sys.stdin.isatty():
        console.print("Nobody can be asked here, so the answer is no; --yes answers.", markup=False, highlight=False)
        return False
    return console.input("Send it? [y/N] ", markup=False).strip().lower() in ("y", "yes")
