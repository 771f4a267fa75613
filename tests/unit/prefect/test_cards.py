"""What a person reads on a run's page: what was made, what was paid, what to do; without a server."""

from __future__ import annotations

from typing import Any

import pytest

from prefect_genmedia import errors
from prefect_genmedia._core.model import Delivery, Job, JobState
from prefect_genmedia._prefect import cards as card_module
from prefect_genmedia._prefect.cards import LONGEST_CELL, publish_failure_card, result_card

JOB = Job(
    key="3f2a",
    identity="",
    scope="run:1",
    provider="tokenops",
    kind="omnihuman",
    model="OmniHuman_1.5",
    label="portrait.jpg",
    state=JobState.SUBMITTED,
    provider_job_id="4711",
    sent_at=0.0,
    estimated_cost=8.6,
    currency="CNY",
)


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The markdown of each card that was published."""
    published: list[str] = []

    async def publish(key: str, markdown: str, description: str) -> None:
        published.append(markdown)

    monkeypatch.setattr(card_module, "acreate_markdown_artifact", publish)
    return published


async def test_an_unknown_submission_says_how_to_decide_it_in_the_ui(cards: list[str]) -> None:
    error = errors.SubmissionUnknown("No certain answer.").about("3f2a", None)
    await publish_failure_card(error, JOB.model_copy(update={"state": JobState.UNKNOWN}))
    (card,) = cards
    assert "run `decide-job/decide` with job `3f2a`" in card
    assert "`prefect-genmedia jobs adopt 3f2a PROVIDER_ID`" in card
    assert "Estimated cost: 8.60 CNY by the price table; an estimate, not a bill." in card
    assert "1970-01-01 00:00:00 UTC" in card


async def test_a_job_that_may_be_paid_says_that_a_new_run_is_paid_again(cards: list[str]) -> None:
    await publish_failure_card(errors.JobTimeout("Too long.").about("3f2a", "4711"), JOB)
    assert "A **new run** with the same inputs is a new request, and is paid again." in cards[0]


async def test_a_job_with_a_key_says_that_a_new_run_joins_it(cards: list[str]) -> None:
    keyed = JOB.model_copy(update={"scope": "key:mine"})
    await publish_failure_card(errors.JobTimeout("Too long.").about("3f2a", "4711"), keyed)
    assert "joins this job" in cards[0]
    assert "paid again" not in cards[0]


async def test_a_job_that_was_not_billed_shows_no_cost(cards: list[str]) -> None:
    failed = JOB.model_copy(update={"state": JobState.FAILED})
    await publish_failure_card(errors.OutputRefused("Refused.").about("3f2a", "4711"), failed)
    assert "8.60" not in cards[0]


@pytest.mark.parametrize(("deployed", "words"), [("a-deployment", "*Retry* this run."), (None, "flow-run retry")])
async def test_retrying_is_reported_as_the_run_can_be_retried(
    deployed: str | None, words: str, cards: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Runtime:
        id = deployed

    monkeypatch.setattr(card_module, "deployment", Runtime)
    await publish_failure_card(errors.QuotaError("No balance."))
    assert words in cards[0]


@pytest.mark.parametrize("kind", [each for each in vars(errors).values() if isinstance(each, type)])
async def test_every_error_says_what_was_paid_and_what_to_do(kind: type[Any], cards: list[str]) -> None:
    if not issubclass(kind, errors.GenMediaError) or kind is errors.GenMediaError:
        return
    await publish_failure_card(kind("It happened."))
    (card,) = cards
    assert card.startswith(f"# {kind.__name__}\n\nIt happened.\n\n## What was paid\n\n")
    assert "- Here in the UI: " in card
    assert "{" not in card, "a placeholder is left"


DELIVERY = Delivery(uri="/m/a.mp4", sha256="00", bytes=1, seconds=1, width=16, height=9, codec="h264", has_audio=True)


def test_the_card_of_a_file_tells_how_long_each_step_took() -> None:
    moments = {"submitted_at": 100.0, "running_at": 100.8, "succeeded_at": 104.0, "delivered_at": 104.5}
    card = result_card(JOB.model_copy(update=moments), DELIVERY, None)
    assert "| Time | 0.8 s queued, 3.2 s generating, 0.5 s until downloaded and verified |" in card
    unseen = result_card(JOB.model_copy(update=moments | {"running_at": None}), DELIVERY, None)
    assert "| Time | 4.0 s at the provider, 0.5 s until downloaded and verified |" in unseen


def test_a_cost_that_nobody_knows_is_reported_with_what_would_tell_it() -> None:
    unpriced = JOB.model_copy(update={"estimated_cost": None, "provider": "jenius", "model": "poster"})
    card = result_card(unpriced, DELIVERY, None)
    assert "| Estimated cost | not known: give a price of `jenius/poster` in the setting `prices` |" in card


def test_what_is_too_long_for_a_table_stands_below_it_where_it_wraps() -> None:
    prompt = "自然说话,面带微笑," * 20
    card = result_card(JOB.model_copy(update={"request": {"prompt": prompt, "seed": 7}}), DELIVERY, None)
    assert f"\n**prompt**: {prompt}" in card
    assert "| seed | 7 |" in card
    assert all(len(line) < 2 * LONGEST_CELL for line in card.splitlines() if line.startswith("|"))
