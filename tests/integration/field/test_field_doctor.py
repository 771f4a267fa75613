"""`prefect-genmedia doctor`: each problem of a machine is one row that says what to do, and no secret is shown."""

from __future__ import annotations

import asyncio
import os
import re
import time
from datetime import timedelta
from pathlib import Path

import pytest
from field_network import API, Box, ForwardProxy, Front, TestCA

from prefect_genmedia import TokenOpsCredentials
from prefect_genmedia.cli.app import app
from prefect_genmedia.simulator import RunningSimulator

pytestmark = pytest.mark.usefixtures("prefect_server")

PREFIX = "PREFECT_INTEGRATIONS_GENMEDIA_"
BLOCK = "tokenops-credentials/field"
PUBLIC = "93.184.216.34"


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")


async def doctor(capsys: pytest.CaptureFixture[str], block: TokenOpsCredentials | None) -> tuple[int, str]:
    """Its status, and its table with each row on one line."""
    if block is not None:
        await block.save("field", overwrite=True)
    words = ["doctor", *([BLOCK] if block else [])]

    def command() -> int:
        try:
            return int(app(words, result_action="return_int_as_exit_code_else_zero"))
        except SystemExit as ended:
            return int(str(ended.code))

    status = await asyncio.to_thread(command)
    shown = capsys.readouterr().out
    for line in shown.splitlines():
        assert len(line) <= 80 or " " not in line.strip()  # an address is never broken
    return status, "\n".join(rows_of(shown))


def rows_of(shown: str) -> list[str]:
    """The findings, each on one line: a paragraph goes on in the lines below, and begins with its verdict."""
    paragraphs: list[str] = []
    for line in shown.splitlines():
        if line.startswith(("ok ", "wrong ")):
            paragraphs.append(line)
        else:
            paragraphs[-1] += f" {line.strip()}"
    found = (re.fullmatch(r"(ok|wrong) +(.*?): (.*?)(?: Next: (.*))?", each) for each in paragraphs)
    return [f"{each[2]} | {each[1]} | {each[3]} | {each[4] or ''}" for each in found if each]


async def test_a_machine_without_a_problem_has_every_row_and_status_0(
    account: TokenOpsCredentials, proxy: ForwardProxy, capsys: pytest.CaptureFixture[str]
) -> None:
    status, table = await doctor(capsys, account)
    assert status == 0, table
    for check in ("proxy", "CA", "fake-IP", "base URL", "key", "clock", "ledger", "output", "storage"):
        assert check in table
    assert "wrong" not in table
    assert f"http://127.0.0.1:{proxy.port}" in table


async def test_a_key_that_is_refused_and_a_clock_that_is_off_are_problems(
    account: TokenOpsCredentials, provider: Front, proxy: ForwardProxy, capsys: pytest.CaptureFixture[str]
) -> None:
    provider.skew = timedelta(minutes=-20)
    wrong = account.model_copy(update={"api_key": type(account.api_key)("sk-hunter2-refused")})
    status, table = await doctor(capsys, wrong)
    assert status == 1
    assert "refused" in table
    assert "ahead of the provider" in table
    assert "NTP" in table
    assert "hunter2" not in table


async def test_a_web_page_in_place_of_the_api_is_a_problem_of_base_url(
    account: TokenOpsCredentials, provider: Front, proxy: ForwardProxy, capsys: pytest.CaptureFixture[str]
) -> None:
    provider.html = True
    status, table = await doctor(capsys, account)
    assert status == 1
    assert "web page" in table


async def test_proxies_certificates_and_storages_that_cannot_be_used_are_named_without_their_passwords(
    account: TokenOpsCredentials,
    box: Box,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("HTTPS_PROXY", "http://me:hunter2-proxy@127.0.0.1:9")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/there/is/no/such.pem")
    monkeypatch.setenv(f"{PREFIX}LEDGER_URL", "postgresql://me:hunter2-ledger@127.0.0.1:9/ledger")
    monkeypatch.setenv(f"{PREFIX}OUTPUT", str(tmp_path / "file" / "media"))
    status, table = await doctor(capsys, account)
    assert status == 1
    assert table.count("wrong") >= 4
    assert "HTTPS_PROXY" in table
    assert "REQUESTS_CA_BUNDLE" in table
    assert "hunter2" not in table


@pytest.mark.parametrize("value", ["ftp://me:hunter2-proxy@127.0.0.1:9", "http://", "socks4://127.0.0.1:9"])
async def test_what_is_no_proxy_is_named_by_its_variable(
    account: TokenOpsCredentials,
    box: Box,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    value: str,
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", value)
    status, table = await doctor(capsys, None)
    assert status == 1
    assert "HTTPS_PROXY is not a URL" in table
    assert "hunter2" not in table


async def test_a_fake_ip_is_reported_and_is_no_problem(
    account: TokenOpsCredentials,
    provider: Front,
    box: Box,
    test_ca: TestCA,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", os.fspath(test_ca.ca))
    box.names[API], box.machines["198.18.0.5"] = ["198.18.0.5"], provider
    status, table = await doctor(capsys, account)
    assert status == 0, table
    assert "198.18.0.5" in table
    assert "fake IP" in table


async def test_paid_jobs_that_were_left_are_a_problem_of_reconcile(
    account: TokenOpsCredentials,
    simulator: RunningSimulator,
    proxy: ForwardProxy,
    ledger_url: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from prefect_genmedia._core import Job, JobState, open_ledger
    from prefect_genmedia._core.clock import Clock

    class Yesterday(Clock):
        def now(self) -> float:
            return time.time() - 86400.0

    async with open_ledger(ledger_url, Yesterday()) as ledger:
        job = await ledger.reserve(Job(key="", identity="left", provider="tokenops"))
        for state in (JobState.SENDING, JobState.SUBMITTED):
            job = await ledger.move(job, state) or job
    status, table = await doctor(capsys, account)
    assert status == 1
    assert "1 paid job left alone" in table
    assert "reconcile-jobs" in table
