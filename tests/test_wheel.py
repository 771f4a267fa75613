"""The built wheel in an empty environment: what a user gets from a plain `pip install`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import venv
import zipfile
from pathlib import Path

import httpx
import pytest

from prefect_genmedia.cli.local_server import free_port

ROOT = Path(__file__).parent.parent

SERVE = """
from prefect_genmedia.flows.reconcile import reconcile_jobs
if __name__ == "__main__":
    reconcile_jobs.serve(name="soon", interval=5, pause_on_shutdown=False)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    shutil.rmtree(ROOT / "build" / "lib", ignore_errors=True)  # what an earlier build left would be packed again
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, ROOT], check=True)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_has_the_flows_the_simulators_media_and_nothing_from_the_tests(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "prefect_genmedia/flows/omnihuman.py",
        "prefect_genmedia/py.typed",
        "prefect_genmedia/simulator/assets/portrait.jpg",
        "prefect_genmedia/jobs/migrations/versions/0001_jobs.py",
    } <= names
    assert not [name for name in names if not name.startswith("prefect_genmedia")]


@pytest.mark.server
@pytest.mark.timeout(400)
def test_a_plain_install_gives_a_server_that_starts_and_fires_schedules(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", wheel], check=True)
    port = free_port()
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "PYTHONPATH"))}
    env |= {
        "PREFECT_HOME": str(tmp_path / "home"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    (tmp_path / "serve.py").write_text(SERVE)
    server = [python, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    quiet = {"env": env, "cwd": tmp_path, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    processes = [subprocess.Popen(server, **quiet)]
    try:
        until(lambda: httpx.get(f"{env['PREFECT_API_URL']}/health").is_success, 90)
        subprocess.run([python, "-m", "prefect", "block", "register", "-m", "prefect_genmedia"], check=True, **quiet)
        processes.append(subprocess.Popen([python, "serve.py"], **quiet))
        until(lambda: finished_runs(env["PREFECT_API_URL"]) > 0, 90)
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(30)


def finished_runs(api: str) -> int:
    """Runs that the schedule started and that came to an end (there are no credentials, so they fail)."""
    only_final = {"flow_runs": {"state": {"type": {"any_": ["COMPLETED", "FAILED"]}}}}
    runs = httpx.post(f"{api}/flow_runs/filter", json=only_final).json()
    return sum(1 for run in runs if run["auto_scheduled"])


def until(condition: object, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if condition():  # type: ignore[operator]
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.3)
    raise AssertionError(f"not within {seconds} s")
