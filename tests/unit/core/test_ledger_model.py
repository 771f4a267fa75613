"""The ledger against a model of it: whatever is done to a job in whatever order, only the job life's moves happen."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from prefect_genmedia._core import Job, JobState, Ledger, open_ledger
from prefect_genmedia._core.model import LEGAL_MOVES
from prefect_genmedia.providers.protocol import MediaExpectation

STATES = st.sampled_from(list(JobState))


class LedgerLife(RuleBasedStateMachine):
    """Two processes hold copies of one job, each as old as its last look, and move it as they like."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.opened = open_ledger(f"sqlite:///{Path(self.folder.name) / 'ledger.db'}")
        self.ledger: Ledger = self.do(self.opened.__aenter__())
        self.state = JobState.RESERVED
        self.times_sent = 0
        self.copies: list[Job] = []

    def do(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    @initialize()
    def both_reserve(self) -> None:
        wanted = Job(key="", identity="i" * 64, provider="tokenops")
        self.copies = [self.do(self.ledger.reserve(wanted)), self.do(self.ledger.reserve(wanted))]
        assert self.copies[0] == self.copies[1]

    @rule(who=st.integers(0, 1), wanted=STATES)
    def move(self, who: int, wanted: JobState) -> None:
        copy = self.copies[who]
        if wanted not in LEGAL_MOVES[copy.state]:
            with pytest.raises(ValueError, match="never goes"):
                self.do(self.ledger.move(copy, wanted))
            return
        moved = self.do(self.ledger.move(copy, wanted))
        assert (moved is not None) == (copy.state is self.state)
        if moved is not None:
            self.state = wanted
            self.times_sent += wanted is JobState.SENDING
            self.copies[who] = moved

    @rule(who=st.integers(0, 1))
    def look(self, who: int) -> None:
        self.copies[who] = self.do(self.ledger.get(self.copies[who].key))

    @rule(who=st.integers(0, 1), word=st.text(max_size=10))
    def note(self, who: int, word: str) -> None:
        copy = self.copies[who]
        noted = self.do(self.ledger.note(copy, provider_status=word))
        assert (noted is not None) == (copy.state is self.state)

    @rule()
    def take_over_from_the_same_look(self) -> None:
        observed = self.do(self.ledger.get(self.copies[0].key))
        winners = [self.do(self.ledger.take_over(observed, name)) for name in ("a", "b")]
        assert winners[0] is not None
        assert winners[1] is None

    @invariant()
    def the_row_is_where_the_model_is(self) -> None:
        if self.copies:
            row = self.do(self.ledger.get(self.copies[0].key))
            assert row.state is self.state
            assert len(self.do(self.ledger.jobs())) == 1

    def teardown(self) -> None:
        self.do(self.opened.__aexit__(None, None, None))
        self.loop.close()
        self.folder.cleanup()


TestLedgerLife = LedgerLife.TestCase
TestLedgerLife.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)


def test_a_submission_that_was_accepted_is_never_sent_again_from_any_state() -> None:
    """No way leads from an accepted job back to `sending`, in any number of moves."""
    reachable: set[JobState] = set()
    frontier = {JobState.SUBMITTED}
    while frontier:
        reachable |= frontier
        frontier = {target for state in frontier for target in LEGAL_MOVES[state]} - reachable
    assert JobState.SENDING not in reachable
    assert JobState.RESERVED not in reachable


def test_every_state_has_its_moves_declared() -> None:
    assert set(LEGAL_MOVES) == set(JobState)


async def test_typical_durations_are_learned_from_jobs_of_like_length(ledger: Ledger) -> None:
    for number, (length, took) in enumerate([(5, 60), (5, 70), (5, 80), (5, None), (5, None), (5, None), (50, 600)]):
        wanted = Job(
            key="",
            identity=str(number),
            provider="tokenops",
            model="m",
            expectation=MediaExpectation(seconds=float(length)),
        )
        job = await ledger.reserve(wanted)
        job = await ledger.move(job, JobState.SENDING) or job
        job = await ledger.move(job, JobState.SUBMITTED, submitted_at=1000.0) or job
        # What nobody watched was found done the next morning.
        await ledger.move(job, JobState.SUCCEEDED, succeeded_at=1000.0 + (took or 36000), took_seconds=took)
    assert await ledger.typical_seconds("tokenops", "m", 6.0) == 70
    assert await ledger.typical_seconds("tokenops", "m", 50.0) is None
    assert await ledger.typical_seconds("jenius", "m", 5.0) is None


async def test_a_job_is_found_by_key_by_the_beginning_of_it_and_by_the_providers_id(ledger: Ledger) -> None:
    job = await ledger.reserve(Job(key="abcdef123456", identity="x", provider="tokenops"))
    job = await ledger.move(job, JobState.SENDING) or job
    job = await ledger.move(job, JobState.SUBMITTED, provider_job_id="107") or job
    assert await ledger.find("abcdef123456") == await ledger.find("abcd") == await ledger.find("107") == job
    assert await ledger.find("ab") is None
    assert await ledger.find("a%cd") is None
