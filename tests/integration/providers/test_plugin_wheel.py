"""A provider in a wheel of its own does all that the shipped ones do, with nothing changed in this package.

`tests/support/plugin_provider` is built and installed beside this package. Everything then runs in own processes:
a Prefect server, a worker, the simulator, the callback receiver, and the command line.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from servers import HTTP, PATIENCE, ask_api, member, until
from wheels import installed_wheel, run_tests

from prefect_genmedia.cli.local_server import LocalServer, free_port, local_server

pytestmark = [pytest.mark.server, pytest.mark.timeout(1200)]

PACKAGE = Path(__file__).parents[2] / "support" / "plugin_provider"
EXAMPLE = Path(__file__).parents[3] / "examples" / "openai_videos"
PREFIX = "PREFECT_INTEGRATIONS_GENMEDIA_"
KEY = "sk-simulator"
DOCUMENTS = """
documents:
  - block: acme-credentials
    name: default
    fields: {api_key: ACME_API_KEY, base_url: ACME_BASE_URL}
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the plug-in's wheel was installed."""
    return installed_wheel(PACKAGE, tmp_path_factory.mktemp("wheel"))


def command(env: Mapping[str, str], *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """`prefect-genmedia …`, in a terminal of 250 columns."""
    done = subprocess.run(
        [sys.executable, "-m", "prefect_genmedia.cli", *words],
        env={**env, "COLUMNS": "250", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


@dataclass
class Team:
    """A server, which does not have the plug-in, and what runs beside it. `env` has the plug-in, `bare` has not."""

    server: LocalServer
    simulator: str
    folder: Path
    env: Mapping[str, str]

    @property
    def bare(self) -> Mapping[str, str]:
        return self.server.env

    def run(self, deployment: str, **parameters: Any) -> dict[str, Any]:
        """Let the worker run a deployment; returns the flow run when it is over."""
        found = ask_api(self.server.api, "GET", f"/deployments/name/{deployment}")
        body = {"parameters": parameters}
        run_id = ask_api(self.server.api, "POST", f"/deployments/{found['id']}/create_flow_run", body)["id"]

        def state() -> str:
            return str(ask_api(self.server.api, "GET", f"/flow_runs/{run_id}")["state"]["type"])

        until(lambda: state() in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"), lambda: f"{deployment}: {state()}")
        over: dict[str, Any] = ask_api(self.server.api, "GET", f"/flow_runs/{run_id}")
        return over

    def jobs(self, env: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = json.loads(command(env or self.env, "jobs", "list", "--json").stdout)
        return listed

    def control(self, what: str, **body: Any) -> None:
        HTTP.post(f"{self.simulator}/control/{what}", json=body).raise_for_status()

    def logs(self, run: Mapping[str, Any]) -> str:
        wanted = {"logs": {"flow_run_id": {"any_": [run["id"]]}}}
        return "\n".join(each["message"] for each in ask_api(self.server.api, "POST", "/logs/filter", wanted))


@pytest.fixture(scope="module")
def team(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    home = tmp_path_factory.mktemp("team")
    ports = {"simulator": free_port(), "callbacks": free_port()}
    simulator = f"http://127.0.0.1:{ports['simulator']}"
    settings = {
        f"{PREFIX}LEDGER_URL": f"sqlite:///{home / 'ledger.db'}",
        f"{PREFIX}OUTPUT": str(home / "media"),
        f"{PREFIX}POLL_SHORTEST_SECONDS": "0.1",
        f"{PREFIX}CALLBACK_URL": f"http://127.0.0.1:{ports['callbacks']}",
        f"{PREFIX}CALLBACK_SECRET": "a long random text",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "ACME_API_KEY": KEY,
        "ACME_BASE_URL": f"{simulator}/acme/v1",
    }
    cli = [sys.executable, "-m", "prefect_genmedia.cli"]
    (home / "documents.yaml").write_text(DOCUMENTS)
    with local_server(home / "prefect", settings) as server, ExitStack() as running:
        env = {**server.env, "PYTHONPATH": str(site)}
        waits = ["--queue-seconds", "0.1", "--run-seconds", "0.5"]
        for name, more in (("simulator", waits), ("callbacks", [])):
            words = [*cli, name, "--port", str(ports[name]), *more]
            running.enter_context(member(name, words, env, home))
        team = Team(server, simulator, home, env)
        applied = command(env, "deploy", "--documents-file", str(home / "documents.yaml"))
        (home / "deploy.txt").write_text(applied.stdout)
        for pool in ("genmedia", "genmedia-reconcile"):
            worker = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", "process"]
            running.enter_context(member(f"worker-{pool}", worker, env, home))
        until(lambda: HTTP.get(f"{simulator}/control/report").is_success, "the simulator is up")
        until(lambda: HTTP.get(f"http://127.0.0.1:{ports['callbacks']}/health").is_success, "the receiver is up")
        yield team


@pytest.fixture(autouse=True)
def fresh(request: pytest.FixtureRequest) -> None:
    if "team" in request.fixturenames:
        request.getfixturevalue("team").control("reset")


def test_deploy_registers_its_block_type_and_its_document(team: Team) -> None:
    lines = [line.split() for line in (team.folder / "deploy.txt").read_text().splitlines()]
    named = {" ".join(words) for words in lines if "acme-credentials" in words or "acme-credentials/default" in words}
    assert any("created" in line and "Block type" in line for line in named), named
    assert any("created" in line and "ACME_API_KEY" in line for line in named), named
    slug = ask_api(team.server.api, "GET", "/block_types/slug/acme-credentials")
    assert slug["name"] == "Acme Credentials"
    assert KEY not in (team.folder / "deploy.txt").read_text()


def test_a_worker_makes_a_clip_with_its_presenter_price_and_callback(team: Team) -> None:
    fields = {"picture": f"{team.simulator}/assets/portrait.jpg", "presenter": "Kim"}
    run = team.run("generate-media/any", kind="clip", fields=fields, idempotency_key="one")
    assert run["state"]["type"] == "COMPLETED", team.logs(run)
    (job,) = (job for job in team.jobs() if job["scope"] == "key:one")
    assert (job["provider"], job["kind"], job["model"], job["state"]) == ("acme", "clip", "acme-1", "delivered")
    assert job["estimated_cost"] == pytest.approx(1.0 + 0.5 * 5.0)
    report = HTTP.get(f"{team.simulator}/control/report").json()
    assert report["jobs"][0]["body"]["presenter_id"] == "presenter-4"
    assert report["accepted"] == {"acme": 1}

    def notified() -> Any:
        return json.loads(command(team.env, "jobs", "show", job["key"], "--json").stdout)["notified_at"]

    until(notified, "the callback is recorded")
    assert "acme-1" in command(team.env, "jobs", "show", job["key"]).stdout


def test_a_batch_of_its_kind_pays_each_row_once(team: Team) -> None:
    picture = f"{team.simulator}/assets/portrait.jpg"
    rows = [{"id": name, "picture": picture, "mood": mood} for name, mood in (("a", "calm"), ("b", "wild"))]
    for _ in range(2):
        run = team.run("generate-batch/batch", table=rows, kind="clip", batch_id="clips")
        assert run["state"]["type"] == "COMPLETED", team.logs(run)
    assert HTTP.get(f"{team.simulator}/control/report").json()["accepted"] == {"acme": 2}


def test_reconcile_delivers_what_its_run_left_behind(team: Team) -> None:
    team.control("settings", run_seconds=3.0)
    fields = {"picture": f"{team.simulator}/assets/portrait.jpg"}
    run = team.run("generate-media/any", kind="clip", fields=fields, idempotency_key="left", timeout_seconds=0.2)
    team.control("settings", run_seconds=0.5)
    assert "JobTimeout" in run["state"]["message"], team.logs(run)
    reported: list[str] = []

    def collected() -> bool:
        reported.append(
            team.logs(team.run("reconcile-jobs/reconcile"))
        )  # it does nothing while the scheduled one is at it
        (job,) = (job for job in team.jobs() if job["scope"] == "key:left")
        assert job["state"] in ("delivered", "submitted"), reported
        return job["state"] == "delivered" and any("Acme has no notices" in log for log in reported)

    until(collected, lambda: f"the job is delivered, and the plug-in's part is logged: {reported}")
    assert HTTP.get(f"{team.simulator}/control/report").json()["accepted"] == {"acme": 1}


def test_rows_of_an_uninstalled_plugin_stay_listed_and_shown(team: Team) -> None:
    fields = {"picture": f"{team.simulator}/assets/portrait.jpg", "mood": "wild"}
    team.run("generate-media/any", kind="clip", fields=fields, idempotency_key="uninstalled")
    (job,) = (job for job in team.jobs(team.bare) if job["scope"] == "key:uninstalled")
    assert job["provider"] == "acme"
    assert "clip" in command(team.bare, "jobs", "list").stdout
    assert "acme" in command(team.bare, "jobs", "show", job["key"]).stdout
    assert "acme" not in command(team.bare, "deploy", "--help").stdout


def test_it_passes_the_conformance_suite(site: Path) -> None:
    run_tests(PACKAGE / "conformance_acme.py", site)


def test_the_example_provider_passes_its_tests_and_is_short(tmp_path: Path) -> None:
    pytest.importorskip("openai")
    written = [path for path in EXAMPLE.rglob("*") if path.suffix in (".py", ".md", ".toml")]
    assert sum(len(path.read_text("utf-8").splitlines()) for path in written) <= 600
    run_tests(EXAMPLE / "tests", installed_wheel(EXAMPLE, tmp_path))


BROKEN = {
    "raises": "raise RuntimeError('half installed')",
    "is_none": "PLUGIN = 4711",
    "takes_a_kind": """
from prefect_genmedia.providers import GenerationRequest, ProviderPlugin
class Poster(GenerationRequest):
    provider = "thief"
    kind = "poster"
PLUGIN = ProviderPlugin(name="thief", title="Thief", requests=(Poster,), credentials="no:Where")
""",
    "has_no_block": """
from prefect_genmedia.providers import ProviderPlugin
none = "no_such_module:Name"
PLUGIN = ProviderPlugin(name="hollow", title="Hollow", requests=(), credentials=none, simulator=none)
""",
}


@pytest.mark.parametrize("how", list(BROKEN))
def test_a_plugin_that_cannot_be_loaded_is_named_in_one_warning_and_skipped(how: str, tmp_path: Path) -> None:
    info = tmp_path / "broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[prefect_genmedia.providers]\nbroken = broken_plugin:PLUGIN\n")
    (tmp_path / "broken_plugin.py").write_text(BROKEN[how])
    code = """
from prefect_genmedia._prefect.session import credentials_types
from prefect_genmedia.providers.plugin import find_plugin, kinds
from prefect_genmedia.simulator.app import installed_dialects
for _ in range(2):
    types = credentials_types()
    assert {"poster", "omnihuman"} <= set(kinds())
    assert kinds()["poster"].provider == "jenius"
    assert len(installed_dialects()) == len(types) == 3
"""
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "PREFECT_HOME": str(tmp_path / "prefect")}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    parts = ("credentials", "simulator") if how == "has_no_block" else ("",)
    warned = [line for line in done.stderr.splitlines() if "cannot be loaded and is skipped" in line]
    assert len(warned) == len(parts), done.stderr
    assert all("broken" in line or "hollow" in line for line in warned)
