"""The command line as a person meets it: at 80 columns, in a pipe, and when what it needs is not there."""

from __future__ import annotations

import ast
import asyncio
import csv
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.settings import get_current_settings
from rich.console import Console
from servers import PATIENCE, until

from prefect_genmedia import TokenOpsCredentials
from prefect_genmedia._core import Job, JobState, Ledger, open_ledger
from prefect_genmedia._core.accounts import resolve_account
from prefect_genmedia._prefect import environment
from prefect_genmedia.batch.rows import check_rows
from prefect_genmedia.batch.table import read_table
from prefect_genmedia.cli.app import main
from prefect_genmedia.cli.deployed import print_changes
from prefect_genmedia.cli.options import in_options, typing
from prefect_genmedia.deploy import Change, Outcome
from prefect_genmedia.deploy.documents import read_secrets
from prefect_genmedia.deploy.files import BLOCK_DOCUMENTS, DocumentsFile, PrefectFile, read_spec
from prefect_genmedia.errors import InvalidRequest
from prefect_genmedia.providers.plugin import kinds
from prefect_genmedia.settings import current_settings
from prefect_genmedia.simulator import RunningSimulator

LEDGER = "PREFECT_INTEGRATIONS_GENMEDIA_LEDGER_URL"
ACCEPTED = (JobState.SENDING, JobState.SUBMITTED)
DELIVERED = (*ACCEPTED, JobState.SUCCEEDED, JobState.DELIVERED)

Typed = Callable[..., tuple[int, str, str]]


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str]) -> Typed:
    """Types a command; gives its status, what it says, and what it says on standard error."""

    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code: object = 0
        try:
            main(words)
        except SystemExit as ended:
            code = ended.code
        said = capsys.readouterr()
        return code if isinstance(code, int) else 0, said.out, said.err

    return run


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of 80 columns without colours."""
    for name, value in {"COLUMNS": "80", "TTY_COMPATIBLE": "1", "NO_COLOR": "1", "TERM": "dumb"}.items():
        monkeypatch.setenv(name, value)


async def job_in(ledger: Ledger, identity: str, *path: JobState, scope: str = "", **facts: Any) -> Job:
    reserved = Job(key="", identity=identity, provider="tokenops", kind="jimeng", label=identity, scope=scope)
    job = await ledger.reserve(reserved)
    for state in path:
        job = await ledger.move(job, state) or job
    return await ledger.note(job, **facts) or job


async def in_thread(typed: Typed, *words: str) -> tuple[int, str, str]:
    return await asyncio.to_thread(typed, *words)


# --- jobs list ---


@pytest.mark.usefixtures("terminal")
async def test_a_terminal_of_80_columns_gets_one_line_a_job_with_key_and_state_whole(
    ledger: Ledger, typed: Typed
) -> None:
    jobs = [
        await job_in(ledger, "a label that is much longer than any column of the table can be", *DELIVERED),
        await job_in(ledger, "unknown", JobState.SENDING, JobState.UNKNOWN, error_message="no answer came " * 20),
        await job_in(ledger, "running", *ACCEPTED, expires_at=time.time() + 7300),
    ]
    status, out, err = await in_thread(typed, "jobs", "list")
    head, *lines = out.splitlines()
    assert status == 0
    assert head.split()[:2] == ["key", "state"]
    assert len(lines) == len(jobs)
    assert max(map(len, lines)) <= 80
    for job in jobs:
        assert any(line.startswith(f"{job.key} {job.state.value} ") for line in lines)
    assert "expires in 2 h" in out
    assert "Ledger: sqlite:///" in err


async def test_a_pipe_gets_whole_values(ledger: Ledger, typed: Typed) -> None:
    await job_in(ledger, "unknown", JobState.SENDING, JobState.UNKNOWN, error_message="no answer came " * 20 + "END")
    _, out, _ = await in_thread(typed, "jobs", "list")
    (line,) = out.splitlines()
    assert line.endswith("END")


async def test_a_list_that_is_limited_says_of_how_many_and_how_to_see_more(ledger: Ledger, typed: Typed) -> None:
    for number in range(3):
        await job_in(ledger, str(number))
    _, out, err = await in_thread(typed, "jobs", "list", "--limit", "2")
    assert len(out.splitlines()) == 2
    assert "2 of 3 jobs; see more with --limit 3." in err


@pytest.mark.parametrize("limit", ["0", "-1", "x"])
def test_an_impossible_limit_is_refused(limit: str, typed: Typed) -> None:
    status, _, err = typed("jobs", "list", "--limit", limit)
    assert status != 0
    assert "Traceback" not in err


async def test_jobs_are_found_by_time_batch_run_and_label(ledger: Ledger, typed: Typed) -> None:
    await job_in(ledger, "Lake at dawn", flow_run_id="1111-aaaa", sent_at=time.time() - 7200)
    await job_in(ledger, "row-1", scope="key:batch:spring:row-1", root_run_id="2222-bbbb", sent_at=time.time())

    async def labels(*words: str) -> list[str]:
        _, out, _ = await in_thread(typed, "jobs", "list", "--json", *words)
        return sorted(job["label"] for job in json.loads(out))

    assert await labels() == ["Lake at dawn", "row-1"]
    assert await labels("--since", "1h") == ["row-1"]
    assert await labels("--batch", "spring") == ["row-1"]
    assert await labels("--batch", "sprin") == []
    assert await labels("--run", "1111") == ["Lake at dawn"]
    assert await labels("--run", "2222-bbbb") == ["row-1"]
    assert await labels("--label", "lake") == ["Lake at dawn"]
    status, _, err = await in_thread(typed, "jobs", "list", "--since", "yesterday")
    assert (status, "--since takes" in err) == (1, True)


# --- jobs show ---


async def test_a_job_is_shown_by_its_row_its_run_or_the_beginning_of_any_of_its_names(
    ledger: Ledger, typed: Typed
) -> None:
    job = await job_in(ledger, "row-17", *ACCEPTED, scope="key:batch:spring:row-17", root_run_id="4242-ffff")
    job = await ledger.note(job, provider_job_id="provider-4711") or job
    for name in ("row-17", "4242-ffff", "4242", "provider-4711", "provider-", job.key, job.key[:3]):
        status, out, _ = await in_thread(typed, "jobs", "show", name, "--json")
        assert status == 0, name
        assert json.loads(out)["key"] == job.key


async def test_a_beginning_that_several_jobs_have_is_refused_and_a_run_lists_its_jobs(
    ledger: Ledger, typed: Typed
) -> None:
    for number in range(2):
        await job_in(ledger, f"row-{number}", scope=f"key:batch:b:row-{number}", root_run_id="77-run")
    status, _, err = await in_thread(typed, "jobs", "show", "row-")
    assert status == 1
    assert "2 jobs may be meant by 'row-'" in err
    status, out, _ = await in_thread(typed, "jobs", "show", "77-run", "--json")
    assert status == 0
    assert sorted(job["label"] for job in json.loads(out)) == ["row-0", "row-1"]


async def test_of_the_attempts_at_a_row_the_newest_is_shown(ledger: Ledger, typed: Typed) -> None:
    first = await job_in(ledger, "row", JobState.SENDING, JobState.REJECTED, scope="key:batch:b:row")
    second = await ledger.reserve(first.model_copy(update={"key": "", "attempt": 2, "state": JobState.RESERVED}))
    _, out, _ = await in_thread(typed, "jobs", "show", "row", "--json")
    assert json.loads(out)["key"] == second.key


# --- jobs export ---


async def test_an_export_has_times_in_iso_and_the_format_that_its_name_ends_in(
    ledger: Ledger, typed: Typed, tmp_path: Path
) -> None:
    await job_in(ledger, "one", *DELIVERED)
    assert (await in_thread(typed, "jobs", "export", "--output", str(tmp_path / "all.jsonl")))[0] == 0
    (row,) = map(json.loads, (tmp_path / "all.jsonl").read_text("utf-8").splitlines())
    _, out, _ = await in_thread(typed, "jobs", "export")
    (cells,) = csv.DictReader(io.StringIO(out))
    for time_of in (row["created_at"], cells["delivered_at"]):
        assert time_of[4] == "-"
        assert time_of.endswith("Z")
    assert row["not_before"] is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--output", "no-such-folder/all.csv"], "its folder does not exist"),
        (["--output", "all.parquet"], "choose with --format"),
        (["--output", "all.csv", "--format", "jsonl"], "is named as csv"),
        (["--output", "."], "choose with --format"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_export_that_cannot_be_written_is_refused(
    words: list[str], said: str, typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, err = typed("jobs", "export", *words)
    assert status == 1
    assert said in err
    assert "Traceback" not in err


# --- no traceback ---


@pytest.mark.parametrize(
    "url",
    ["mysql://me:hunter2@db/x", "ledger.db", "postgresql+nothing://me:hunter2@db/x", "postgresql://me:hunter2@db:x/y"],
)
def test_a_wrong_ledger_url_is_one_sentence_without_its_password(
    url: str, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LEDGER, url)
    for words in (["jobs", "list"], ["jobs", "show", "x"], ["accounts", "list"]):
        status, out, err = typed(*words)
        assert status == 1
        assert err.startswith("The ledger's URL")
        assert "sqlite:///PATH" in err
        assert "hunter2" not in out + err


def test_a_reader_that_leaves_early_ends_the_command_quietly(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "prefect_genmedia.cli", "jobs", "export"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read().decode() == ""
    assert process.wait(120) != 0


@pytest.mark.parametrize("command", ["simulator", "callbacks"])
def test_a_busy_port_is_one_sentence(command: str, typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_INTEGRATIONS_GENMEDIA_CALLBACK_SECRET", "a-secret-of-some-length-4711")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        status, _, err = typed(command, "--port", str(taken.getsockname()[1]))
    assert status == 1
    assert "another program listens there" in err
    assert "--port" in err


@pytest.mark.parametrize("words", [["deploy"], ["batch", "rows.csv"]], ids=" ".join)
@pytest.mark.parametrize(
    ("api", "said"),
    [(None, "none is started for this"), ("http://127.0.0.1:9/api", "does not answer"), ("here", "must begin with")],
    ids=["not set", "nobody", "no URL"],
)
def test_without_a_server_nothing_is_started_and_one_sentence_says_so(
    words: list[str], api: str | None, said: str
) -> None:
    env = {"PREFECT_API_URL": api} if api else {}
    answer = run_alone(words, env)
    assert answer.returncode == 1
    assert said in answer.stderr
    assert len(answer.stderr.splitlines()) == 1
    assert "temporary server" not in answer.stdout + answer.stderr


def run_alone(words: list[str], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    own = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    command = [sys.executable, "-m", "prefect_genmedia.cli", *words]
    return subprocess.run(command, env={**own, **env}, capture_output=True, text=True, check=False)


# --- make ---


@pytest.fixture
def keys(simulator: RunningSimulator, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tokenops", "jenius", "hidream"):
        monkeypatch.setenv(f"GENMEDIA_{name.upper()}_API_KEY", simulator.key)
        monkeypatch.setenv(f"GENMEDIA_{name.upper()}_BASE_URL", simulator.base_url(name))
    monkeypatch.setattr("prefect_genmedia.cli.credentials.server_answers", _no_server)


async def _no_server() -> bool:
    return False


@pytest.mark.usefixtures("keys")
def test_the_same_command_makes_one_result_and_pays_once(
    simulator: RunningSimulator, typed: Typed, tmp_path: Path
) -> None:
    words = ["make", "jimeng", "--prompt", "a lake at dawn", "--output", str(tmp_path / "lake.mp4")]
    status, out, err = typed(*words)
    assert status == 0, err
    assert str(tmp_path / "lake.mp4") in out
    assert (tmp_path / "lake.mp4").stat().st_size
    status, out, err = typed(*words, "--json")
    assert status == 0
    assert json.loads(out)["uri"] == str(tmp_path / "lake.mp4")
    assert simulator.accepted == 1
    assert "nothing was paid for it now" in typed(*words)[2]
    assert typed(*words[:-1], str(tmp_path / "other.mp4"), "--variant", "1")[0] == 0
    assert simulator.accepted == 2


@pytest.mark.usefixtures("keys")
def test_make_tells_every_problem_at_once_and_sends_nothing(simulator: RunningSimulator, typed: Typed) -> None:
    status, _, err = typed("make", "poster", "--image-url", "no-such.jpg")
    assert status == 1
    assert "--scene: is missing" in err
    assert "--image-url: must be" in err
    assert simulator.accepted == 0


@pytest.mark.parametrize("kind", sorted(kinds()))
def test_make_has_an_option_for_each_field_of_a_kind(kind: str, typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    _, out, _ = typed("make", kind, "--help")
    for name in kinds()[kind].model_fields:
        assert f"--{name.replace('_', '-')}" in out
    assert "--output" in out


def test_make_without_a_key_says_what_to_set(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prefect_genmedia.cli.credentials.server_answers", _no_server)
    monkeypatch.delenv("GENMEDIA_TOKENOPS_API_KEY", raising=False)
    status, _, err = typed("make", "jimeng", "--prompt", "x")
    assert status == 1
    assert "set GENMEDIA_TOKENOPS_API_KEY" in err


# --- init ---


def test_init_writes_a_project_that_is_right_and_replaces_nothing(typed: Typed, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    status, out, _ = typed("init", str(folder))
    assert status == 0
    assert "python flow.py" in out
    ast.parse((folder / "flow.py").read_text("utf-8"))
    declared = yaml.safe_load((folder / "prefect.yaml").read_text("utf-8"))
    assert PrefectFile.model_validate(declared).deployments[0].entrypoint == "flow.py:my_video"
    rows, bad = check_rows(read_table(str(folder / "rows.csv")), "jimeng")
    assert (len(rows), bad) == (2, [])
    assert "sk-simulator" in (folder / ".env.example").read_text("utf-8")
    (folder / "flow.py").write_text("# mine\n")
    status, _, err = typed("init", str(folder))
    assert status == 1
    assert "nothing was written" in err
    assert (folder / "flow.py").read_text() == "# mine\n"


# --- deploy ---


def test_nothing_that_deploy_says_is_cut_at_80_columns() -> None:
    name, detail = "automation-with-a-very-long-name-" * 4, "set GENMEDIA_TOKENOPS_API_KEY or something else " * 4
    for is_terminal in (True, False):
        console = Console(file=io.StringIO(), width=80, force_terminal=is_terminal, no_color=True, color_system=None)
        print_changes(console, [Change("Block document", name, Outcome.CREATED, detail)], check=True)
        assert isinstance(console.file, io.StringIO)
        said = "".join(console.file.getvalue().split())
        assert "".join(name.split()) in said.replace("\x1b", "")
        assert "".join(detail.split())[-20:] in said
        assert "…" not in said


def test_an_unknown_name_among_the_secrets_is_refused_with_a_suggestion(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text('GENMEDIA_TOKENOP_API_KEY = "sk-very-secret"\n')
    documents = read_spec(DocumentsFile, BLOCK_DOCUMENTS, "documents.yaml").documents
    with pytest.raises(InvalidRequest, match=r"did you mean GENMEDIA_TOKENOPS_API_KEY\?") as refused:
        read_secrets(path, documents)
    assert "sk-very-secret" not in str(refused.value)


# --- warnings ---


async def test_the_warning_about_a_ledger_in_a_container_is_given_once_a_ledger(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv(LEDGER)
    monkeypatch.setattr(environment, "_container", lambda: "in a container")
    monkeypatch.setattr(environment, "_is_on_volume", lambda folder: False)
    file = Path(current_settings().ledger.removeprefix("sqlite:///"))
    file.parent.mkdir(parents=True, exist_ok=True)
    marker = file.with_name(f"{file.name}{environment.WARNED}")
    marker.unlink(missing_ok=True)
    for _ in range(3):
        await environment.warn_of_ephemeral_ledger(current_settings())
    assert caplog.text.count("The job ledger is a SQLite file") == 1
    marker.unlink()
    monkeypatch.setattr(environment, "_is_on_volume", lambda folder: True)
    await environment.warn_of_ephemeral_ledger(current_settings())
    assert caplog.text.count("The job ledger is a SQLite file") == 1, "a volume stays"


async def test_pausing_an_account_without_a_server_starts_none(ledger: Ledger) -> None:
    async with TokenOpsCredentials(api_key="sk-of-nobody-4711").client() as client:
        await resolve_account(ledger, client.account, "mine")
    answer = await asyncio.to_thread(run_alone, ["accounts", "pause", "mine", "--reason", "a test"], {})
    assert answer.returncode == 0, answer.stderr
    assert "is paused" in answer.stdout
    assert answer.stderr == ""


INTERRUPTED = {
    "make": ["make", "jimeng", "--prompt", "a lake"],
    "batch": ["batch", "lakes.csv", "--kind", "jimeng"],
}


@pytest.mark.usefixtures("keys", "prefect_server")
@pytest.mark.parametrize("command", INTERRUPTED)
def test_a_command_that_ctrl_c_ends_says_what_is_paid_and_how_to_go_on(
    command: str, simulator: RunningSimulator, tmp_path: Path, credentials: TokenOpsCredentials
) -> None:
    simulator.world.settings.run_seconds = 3600.0
    credentials.save("default", overwrite=True)
    (tmp_path / "lakes.csv").write_text("id,prompt\nlake,a lake\n")
    words = [sys.executable, "-m", "prefect_genmedia.cli", *INTERRUPTED[command]]
    env = {**os.environ, "PREFECT_API_URL": str(get_current_settings().api.url)}
    pipe = subprocess.PIPE
    with subprocess.Popen(words, env=env, cwd=tmp_path, stdout=pipe, stderr=pipe, text=True) as process:
        until(lambda: simulator.accepted == 1, "the job is accepted")
        until(lambda: "submitted" in str(asyncio.run(states_of_ledger())), "and written down")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)
    said = " ".join(err.split())
    assert process.returncode == 130
    assert "Stopped. Paid: 1 job (1 at the provider), about 5.00 CNY (estimate). The same command again" in said


async def states_of_ledger() -> list[str]:
    async with open_ledger(current_settings().ledger) as ledger:
        return [job.state.value for job in await ledger.jobs()]


@pytest.mark.parametrize(
    ("command", "sentence", "shown"),
    [
        (
            "batch t.csv",
            "raise max_cost, or leave them out with skip_invalid.",
            "raise --max-cost, or leave them out with --skip-invalid.",
        ),
        ("batch t.csv", "give kind='jimeng', or a column `kind`", "give --kind 'jimeng', or a column `kind`"),
        (
            "batch t.csv",
            "row a.image_url: is missing in 's3://b/max_cost.csv'",
            "row a.image_url: is missing in 's3://b/max_cost.csv'",
        ),
        (
            "make poster",
            "convert_inputs=True converts it • scene: is missing",
            "--convert-inputs converts it • --scene: is missing",
        ),
        ("nonsense", "raise max_cost", "raise max_cost"),
    ],
)
def test_an_error_names_the_options_of_the_command_that_was_typed(command: str, sentence: str, shown: str) -> None:
    with typing(command.split()):
        assert in_options(sentence) == shown


@pytest.mark.parametrize("command", [["jobs", "prune"], ["make", "jimeng"], ["accounts", "pause"], ["batch"]])
def test_help_shows_no_default_where_it_means_not_given(command: list[str], typed: Typed) -> None:
    _, out, _ = typed(*command, "--help")
    assert 'default: ""' not in out
    assert "default: None" not in out
    assert "default: ]" not in out
