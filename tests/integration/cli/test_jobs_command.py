"""`prefect-genmedia jobs`: what needs a person is seen first, and words are shown as they are."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from prefect_genmedia._core import Job, JobState, Ledger
from prefect_genmedia.cli.app import app

HOUR = 3600.0


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")


async def job_in(ledger: Ledger, identity: str, *path: JobState, **facts: Any) -> Job:
    """A job that has gone this way."""
    job = await ledger.reserve(Job(key="", identity=identity, provider="tokenops", label=identity))
    for state in path:
        job = await ledger.move(job, state) or job
    return await ledger.note(job, **facts) or job


async def reported(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What the command prints; its status must be 0."""
    status = await asyncio.to_thread(app, ["jobs", *words], result_action="return_int_as_exit_code_else_zero")
    assert status == 0
    return capsys.readouterr().out


ACCEPTED = (JobState.SENDING, JobState.SUBMITTED)
DELIVERED = (*ACCEPTED, JobState.SUCCEEDED, JobState.DELIVERED)


async def test_the_list_begins_with_what_needs_a_person_and_then_with_what_expires_first(
    ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    await job_in(ledger, "unknown", JobState.SENDING, JobState.UNKNOWN)
    await job_in(ledger, "expires later", *ACCEPTED, expires_at=2 * HOUR)
    await job_in(ledger, "expires first", *ACCEPTED, expires_at=HOUR)
    await job_in(ledger, "delivered before", *DELIVERED, expires_at=HOUR / 2)
    await job_in(ledger, "delivered last", *DELIVERED, expires_at=3 * HOUR)

    labels = [job["label"] for job in json.loads(await reported(capsys, "list", "--json"))]
    assert labels == ["unknown", "expires first", "expires later", "delivered last", "delivered before"]
    assert len(json.loads(await reported(capsys, "list", "--json", "--limit", "2"))) == 2
    chosen = json.loads(await reported(capsys, "list", "--json", "--state", "delivered", "--state", "unknown"))
    assert [job["label"] for job in chosen] == ["unknown", "delivered last", "delivered before"]


async def test_a_long_ledger_hides_neither_what_needs_a_person_nor_what_is_new(
    ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    await job_in(ledger, "in doubt", JobState.SENDING, JobState.UNKNOWN)
    for number in range(60):
        await job_in(ledger, f"old {number}", *DELIVERED, expires_at=HOUR)
    await job_in(ledger, "fresh", *DELIVERED)
    listed = json.loads(await reported(capsys, "list", "--json"))
    assert len(listed) == 50
    assert [job["label"] for job in listed[:3]] == ["in doubt", "fresh", "old 59"]


@pytest.mark.parametrize("label", ["a [redacted] word", "one [/x] bracket", "ends in a backslash \\", "[bold]loud[/]"])
async def test_square_brackets_are_shown_as_they_are(
    ledger: Ledger, capsys: pytest.CaptureFixture[str], label: str
) -> None:
    job = await job_in(ledger, label, JobState.SENDING, JobState.UNKNOWN, error_message=f"of {label}")
    listed, shown = await reported(capsys, "list"), await reported(capsys, "show", job.key)
    assert label in listed
    assert f"of {label}" in listed
    assert label in shown


async def test_a_message_with_brackets_ends_the_command_in_its_own_words(
    ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="1"):
        await reported(capsys, "show", "no [/such] job")
    assert "The ledger has no job 'no [/such] job'." in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--provider", "nobody"], ["--state", "lost"]], ids=" ".join)
def test_a_provider_or_state_that_nobody_knows_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        app(["jobs", "list", *words])
    said = capsys.readouterr()
    assert "choose from" in (said.out + said.err).lower()


@pytest.mark.parametrize("command", ["simulator", "callbacks", "demo", "deploy", "jobs list", "jobs show"])
def test_help_offers_each_option_once_and_no_opposites(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    app([*command.split(), "--help"], result_action="return_value")
    reported = capsys.readouterr().out
    for noise in ("--empty-", "--no-", "default: ()", "default: False"):
        assert noise not in reported


@pytest.mark.parametrize(
    "command",
    ["simulator", "callbacks", "demo", "deploy", "jobs"]
    + [f"jobs {name}" for name in ("list", "show", "adopt", "resubmit", "abandon", "export")],
)
def test_help_shows_an_example_that_can_be_typed(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    app([*command.split(), "--help"], result_action="return_value")
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    examples = [
        words[1:] for words in lines if words[: 1 + len(command.split())] == f"prefect-genmedia {command}".split()
    ]
    assert examples
    for words in examples:
        app.parse_args(words, print_error=False, exit_on_error=False)


def test_the_help_of_deploy_says_which_server_it_is_and_that_it_can_be_repeated(
    capsys: pytest.CaptureFixture[str],
) -> None:
    app(["deploy", "--help"], result_action="return_value")
    reported = " ".join(capsys.readouterr().out.split())
    assert "the server in PREFECT_API_URL" in reported
    assert "as often as you like" in reported
