"""What the tests share: a simulator over real HTTP, a ledger of one's own, Prefect's test server, and no waiting."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
# Neither this machine's profiles, nor results that earlier tests have left; read when Prefect is imported.
os.environ["PREFECT_HOME"] = tempfile.mkdtemp(prefix="genmedia-tests-")

from prefect import Task
from prefect.testing.utilities import prefect_test_harness
from servers import postgres, postgres_tools

from prefect_genmedia import TokenOpsCredentials, tasks
from prefect_genmedia._core import Ledger, open_ledger
from prefect_genmedia.providers.hidream.token import forget_tokens
from prefect_genmedia.providers.tokenops import tasks as subject_tasks
from prefect_genmedia.simulator import RunningSimulator, run_simulator
from prefect_genmedia.simulator.world import Settings

# Where a shell has started this in the background it ignores Ctrl-C, and so would all that is started from here: what
# stays up until Ctrl-C, and Prefect's workers, which end themselves by it.
signal.signal(signal.SIGINT, signal.default_int_handler)

atexit.register(shutil.rmtree, os.environ["PREFECT_HOME"], ignore_errors=True)

# The same examples everywhere and each time, however slow the machine is.
settings.register_profile("steady", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")


@pytest.fixture(scope="session")
def running_simulator() -> Iterator[RunningSimulator]:
    with run_simulator() as simulator:
        yield simulator


@pytest.fixture
def simulator(running_simulator: RunningSimulator) -> RunningSimulator:
    """A simulator that remembers nothing, and whose jobs take a third of a second."""
    running_simulator.world.reset()
    running_simulator.world.settings.__dict__.update(vars(Settings(queue_seconds=0.1, run_seconds=0.2)))
    return running_simulator


@pytest.fixture(autouse=True)
def own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has its own ledger and media folder, looks at jobs often, and has none of another test's tokens."""
    forget_tokens()
    prefix = "PREFECT_INTEGRATIONS_GENMEDIA_"
    monkeypatch.setenv(f"{prefix}LEDGER_URL", f"sqlite:///{tmp_path / 'ledger.db'}")
    monkeypatch.setenv(f"{prefix}OUTPUT", str(tmp_path / "media"))
    monkeypatch.setenv(f"{prefix}POLL_SHORTEST_SECONDS", "0.05")
    for each in (*vars(tasks).values(), *vars(subject_tasks).values()):
        if isinstance(each, Task):
            monkeypatch.setattr(each, "retry_delay_seconds", 0.02)


@pytest.fixture
def ledger_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'ledger.db'}"


@pytest.fixture
async def ledger(ledger_url: str) -> AsyncIterator[Ledger]:
    async with open_ledger(ledger_url) as opened:
        yield opened


@pytest.fixture(params=["sqlite", "postgresql"])
def shared_ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a ledger that several processes may use at once, on each kind of database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'shared.db'}"
    elif postgres_tools() is None:
        pytest.skip("no PostgreSQL on this machine (Debian: apt-get install postgresql)")
    else:
        with postgres() as url:
            yield url


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """Prefect's own test server, started once."""
    with prefect_test_harness(server_startup_timeout=300):
        yield


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    """The address of an S3 server."""
    from moto.server import ThreadedMotoServer  # takes a second, which few tests need

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def credentials(simulator: RunningSimulator) -> TokenOpsCredentials:
    return TokenOpsCredentials(api_key=simulator.key, base_url=simulator.tokenops_url)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what tests have measured (seeds, counts), whichever process they ran in."""
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            for name, value in report.user_properties:
                terminalreporter.write_line(f"{report.nodeid.split('::')[0]}: {name}: {value}")


BESIDE = frozenset({"test_first_hour.py", "test_run_forms.py", "test_ui.py", "test_ui_injection.py"})


@cache
def starts_servers(file: Path) -> bool:
    return "mark.server" in file.read_text("utf-8")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long files first, so that no process is left with one of them at the end."""
    sizes = Counter(item.path for item in items)
    items.sort(key=lambda item: (not starts_servers(item.path), -sizes[item.path], item.path))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Files that start servers, and kill them, go to one process: no two of them run at once.

    Those in `BESIDE` only wait for browsers and installations, and go with the others to the other process.
    """
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Dealer(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file: str = super()._split_scope(nodeid)
            alone = starts_servers(config.rootpath / file) and Path(file).name not in BESIDE
            return "servers" if alone else file

    config.option.loadscopereorder = False  # the order is made above
    return Dealer(config, log)
