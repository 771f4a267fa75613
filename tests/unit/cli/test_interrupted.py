"""What a command says when Ctrl-C ends it: no job that may be paid is left out."""

from __future__ import annotations

import pytest

from prefect_genmedia._core import Job, JobState
from prefect_genmedia.cli.interrupted import _sentence


def jobs(*states: JobState) -> list[Job]:
    one = Job(key="", identity="", provider="tokenops", account="a", estimated_cost=1.4)
    return [one.model_copy(update={"state": state}) for state in states]


@pytest.mark.parametrize("states", [(), (JobState.RESERVED,), (JobState.REJECTED, JobState.RESERVED)])
def test_nothing_is_paid_where_nothing_was_accepted(states: tuple[JobState, ...]) -> None:
    assert "nothing is paid" in _sentence(jobs(*states))


@pytest.mark.parametrize("state", sorted(set(JobState) - {JobState.RESERVED, JobState.REJECTED}))
def test_a_job_that_may_have_cost_something_never_counts_as_nothing(state: JobState) -> None:
    assert "nothing is paid" not in _sentence(jobs(state, JobState.RESERVED))


def test_each_job_stands_in_its_group() -> None:
    said = _sentence(jobs(JobState.DELIVERED, JobState.SUBMITTED, JobState.UNDELIVERABLE, JobState.FAILED))
    assert "Paid: 3 jobs (1 delivered, 1 at the provider, 1 without a usable file), about 4.20 CNY (estimate)." in said
    assert "Failed at the provider: 1 job, see `prefect-genmedia jobs list --state failed`." in said
