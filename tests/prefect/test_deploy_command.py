"""`prefect-genmedia deploy` against real servers: idempotent, silent about secrets, and what it made really runs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from uuid import uuid4

import pytest
import yaml
from servers import Member, ask_api, stop, until

from prefect_genmedia.cli.local_server import LocalServer, local_server
from prefect_genmedia.simulator import RunningSimulator

pytestmark = [pytest.mark.server, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parents[2]
SECRET = "sk-never-to-be-shown-4711"
PASSWORD = "hunter2-of-the-ledger"
PREFIX = "PREFECT_INTEGRATIONS_GENMEDIA_"


@dataclass
class Team:
    """A server, and an empty folder to work in."""

    server: LocalServer
    folder: Path

    def call(self, method: str, path: str, body: Any = None) -> Any:
        return ask_api(self.server.api, method, path, body)

    def deploy(self, *arguments: str, keys: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "prefect_genmedia.cli", "deploy", *arguments]
        env = {**self.server.env, "COLUMNS": "200", "NO_COLOR": "1", **(keys or {})}
        return subprocess.run(command, env=env, cwd=self.folder, capture_output=True, text=True, check=False)

    def reconcile(self, keys: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        env = {**self.server.env, "COLUMNS": "200", "NO_COLOR": "1", **(keys or {})}
        command = [sys.executable, "-m", "prefect_genmedia.cli", "reconcile"]
        return subprocess.run(command, env=env, cwd=self.folder, capture_output=True, text=True, check=False)

    def everything(self) -> dict[str, list[dict[str, Any]]]:
        """All that a deploy touches, as the server has it; without what changes by itself."""
        lists = {
            name: self.call("POST", f"/{name}/filter", {})
            for name in ("deployments", "automations", "v2/concurrency_limits", "work_pools", "variables")
        }
        lists["block_documents"] = self.call("POST", "/block_documents/filter", {"include_secrets": True})
        lists["block_types"] = self.call("POST", "/block_types/filter", {})
        lists["block_schemas"] = self.call("POST", "/block_schemas/filter", {})
        by_itself = {"status", "last_polled", "active_slots"}
        return {
            name: sorted(
                ({key: value for key, value in each.items() if key not in by_itself} for each in found),
                key=lambda each: str(each["id"]),
            )
            for name, found in lists.items()
        }

    def deployment(self, full_name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.call("GET", f"/deployments/name/{full_name}")
        return found

    def start(self, full_name: str, state: str = "SCHEDULED", **parameters: Any) -> str:
        body = {"parameters": parameters, "state": {"type": state}}
        return str(self.call("POST", f"/deployments/{self.deployment(full_name)['id']}/create_flow_run", body)["id"])

    def run(self, run_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.call("GET", f"/flow_runs/{run_id}")
        return found

    def state(self, run_id: str) -> str:
        return str(self.run(run_id)["state"]["type"])

    def set_state(self, run_id: str, kind: str) -> None:
        self.call("POST", f"/flow_runs/{run_id}/set_state", {"state": {"type": kind}, "force": True})

    def events(self, name: str, **about: dict[str, list[str]]) -> list[dict[str, Any]]:
        wanted = {"filter": {"event": {"name": [name]}, **about}}
        found: list[dict[str, Any]] = self.call("POST", "/events/filter", wanted)["events"]
        return found

    def tell(self, event: str, resource: dict[str, str], **more: Any) -> None:
        """Let the server hear of an event that happens now."""
        known = {"id": str(uuid4()), "occurred": datetime.now(timezone.utc).isoformat()}
        self.call("POST", "/events", [{"event": event, "resource": resource, **more, **known}])


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    home = tmp_path_factory.mktemp("deploy")
    prefix = "PREFECT_INTEGRATIONS_GENMEDIA_"
    settings = {
        f"{prefix}LEDGER_URL": f"sqlite:///{home / 'team.db'}",
        f"{prefix}OUTPUT": str(home / "media"),
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        # It notes at its own times which deployments nobody works for, and nothing else may change what is compared.
        "PREFECT_SERVER_SERVICES_FOREMAN_ENABLED": "false",
    }
    with local_server(home / "prefect", settings) as server:
        (home / "empty").mkdir()
        yield Team(server, home / "empty")


@contextmanager
def worker(team: Team, pool: str, ledger: str = "team.db") -> Iterator[Member]:
    """A process worker, whose runs use this ledger."""
    env = {**team.server.env, f"{PREFIX}LEDGER_URL": f"sqlite:///{team.folder.parent / ledger}"}
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool]
    path = team.folder.parent / f"worker-{uuid4().hex[:6]}.log"
    with path.open("wb") as log:
        started = subprocess.Popen(command, env=env, cwd=team.folder, stdout=log, stderr=log)
    try:
        yield Member(started, path)
    finally:
        stop(started)


def keys_for(simulator: RunningSimulator) -> dict[str, str]:
    return {
        "GENMEDIA_TOKENOPS_API_KEY": simulator.key,
        "GENMEDIA_TOKENOPS_BASE_URL": simulator.tokenops_url,
        "GENMEDIA_JENIUS_API_KEY": SECRET,
        "GENMEDIA_JENIUS_BASE_URL": simulator.jenius_url,
        "GENMEDIA_LEDGER_URL": f"postgresql://genmedia:{PASSWORD}@db/ledger",
    }


def own_file(team: Team, name: str, change: Callable[[dict[str, Any]], None]) -> str:
    """A team's own copy of a shipped file."""
    declared = yaml.safe_load((ROOT / "deployments" / name).read_text("utf-8"))
    change(declared)
    path = team.folder.parent / f"own-{uuid4().hex[:6]}-{name}"
    path.write_text(yaml.safe_dump(declared, allow_unicode=True), "utf-8")
    return str(path)


def test_deploying_twice_creates_everything_once_and_then_changes_nothing(
    team: Team, simulator: RunningSimulator
) -> None:
    first = team.deploy(keys=keys_for(simulator))
    assert first.returncode == 0, first.stderr
    before = team.everything()
    assert len(before["deployments"]) == len(
        yaml.safe_load((ROOT / "deployments/prefect.yaml").read_text())["deployments"]
    )
    assert "media-job" in {each["slug"] for each in before["block_types"]}
    second = team.deploy(keys=keys_for(simulator))
    assert second.returncode == 0, second.stderr
    assert team.everything() == before
    assert not [word for word in ("created", "updated") if word in second.stdout]


def test_no_secret_is_shown_or_stored_in_plain_text(team: Team, simulator: RunningSimulator) -> None:
    answers = [team.deploy(*arguments, keys=keys_for(simulator)) for arguments in ((), ("--check",))]
    shown = "".join(answer.stdout + answer.stderr for answer in answers)
    assert "jenius-credentials/default" in shown
    stored = b"".join(path.read_bytes() for path in (team.folder.parent / "prefect").rglob("*") if path.is_file())
    assert b"jenius-credentials" in stored
    for secret in (SECRET, PASSWORD):
        assert secret not in shown
        assert secret.encode() not in stored
    document = team.call(
        "GET", "/block_types/slug/jenius-credentials/block_documents/name/default?include_secrets=true"
    )
    assert document["data"]["api_key"] == SECRET


def test_a_key_that_cannot_be_right_is_named_without_being_shown(team: Team) -> None:
    answer = team.deploy(keys={"GENMEDIA_HIDREAM_API_KEY": f"{SECRET} with a space"})
    assert answer.returncode == 1
    assert "GENMEDIA_HIDREAM_API_KEY: must not be empty" in answer.stdout
    assert SECRET not in answer.stdout + answer.stderr


def test_a_check_changes_nothing_and_tells_what_is_missing_and_which_keys_are_refused(
    team: Team, simulator: RunningSimulator, tmp_path: Path
) -> None:
    team.deploy(keys=keys_for(simulator))
    before = team.everything()
    secrets = tmp_path / "keys.toml"
    secrets.write_text(
        f'GENMEDIA_TOKENOPS_BASE_URL = "http://127.0.0.1:9/v1"\nGENMEDIA_TOKENOPS_API_KEY = "{SECRET}"\n'
    )
    simulator.world.requests.clear()
    answer = team.deploy("--check", keys=keys_for(simulator))
    lines = {line[37:].partition(" · ")[0].strip(): line for line in answer.stdout.splitlines() if line[36:37] == " "}
    assert answer.returncode == 1
    assert "accepted" in lines[f"tokenops at {simulator.tokenops_url}"]
    assert "refused" in lines[f"jenius at {simulator.jenius_url}"]
    assert "missing" in lines["hidream-credentials/default"]
    assert "GENMEDIA_HIDREAM_API_KEY" in lines["hidream-credentials/default"]
    assert simulator.accepted == 0
    for row in ("clock (tokenops", "proxy", "ledger", "output"):
        assert row in answer.stdout
    nowhere = team.deploy("--check", "--provider", "tokenops", "--secrets", str(secrets))
    assert "not reached" in nowhere.stdout
    assert "would be updated" in nowhere.stdout
    assert SECRET not in nowhere.stdout + nowhere.stderr
    assert team.everything() == before


def test_schedules_and_automations_stay_as_a_person_switched_them(team: Team) -> None:
    team.deploy()
    posters = team.deployment("live-poster/posters")
    (morning,) = [each for each in posters["schedules"] if each["slug"] == "morning"]
    assert morning["active"] is False
    team.call("PATCH", f"/deployments/{posters['id']}/schedules/{morning['id']}", {"active": True})
    batch_stopped = next(each for each in team.everything()["automations"] if "batch" in each["name"])
    team.call("PATCH", f"/automations/{batch_stopped['id']}", {"enabled": False})

    def other_cron(declared: dict[str, Any]) -> None:
        for deployment in declared["deployments"]:
            for schedule in deployment.get("schedules", []):
                schedule["cron"] = "1 2 3 4 *"

    answer = team.deploy("--prefect-file", own_file(team, "prefect.yaml", other_cron))
    assert "morning on (1 2 3 4 *), evening off" in answer.stdout
    after = {each["slug"]: each for each in team.deployment("live-poster/posters")["schedules"]}
    assert {slug: each["active"] for slug, each in after.items()} == {"morning": True, "evening": False}
    assert after["morning"]["schedule"]["cron"] == "1 2 3 4 *"
    assert team.call("GET", f"/automations/{batch_stopped['id']}")["enabled"] is False
    team.call("PATCH", f"/deployments/{posters['id']}/schedules/{after['morning']['id']}", {"active": False})


def test_a_pool_of_containers_is_refused_without_a_ledger_and_an_output_that_they_share(team: Team) -> None:
    docker = ("--pool", "containers", "--pool-type", "docker", "--image", "example/genmedia:1")
    refused = team.deploy(*docker)
    assert refused.returncode == 1
    assert "--output" in refused.stderr
    assert not [each for each in team.everything()["work_pools"] if each["name"] == "containers"]
    ledger = {"GENMEDIA_LEDGER_URL": f"postgresql://genmedia:{PASSWORD}@db/ledger"}
    accepted = team.deploy(*docker, "--output", "s3://bucket/media", keys=ledger)
    assert accepted.returncode == 0, accepted.stderr
    variables = team.deployment("stylize-video/stylize")["job_variables"]
    assert variables["image"] == "example/genmedia:1"
    # References, which are looked up when a run starts: the password is not in the deployment.
    assert set(variables["env"].values()) == {
        "{{ prefect.blocks.secret.genmedia-ledger-url }}",
        "{{ prefect.variables.genmedia_output }}",
    }
    team.deploy()


def test_a_misspelt_word_in_an_automation_is_an_error(team: Team) -> None:
    def misspelt(declared: dict[str, Any]) -> None:
        declared["automations"][0]["witin"] = 3

    answer = team.deploy("--automations-file", own_file(team, "automations.yaml", misspelt))
    assert answer.returncode == 1
    assert "knows no witin" in answer.stderr


def test_without_a_server_it_says_so(team: Team) -> None:
    answer = team.deploy(keys={"PREFECT_API_URL": "http://127.0.0.1:9/api"})
    assert answer.returncode == 1
    assert "does not answer" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_scheduled_run_fires_on_a_process_worker_in_an_empty_directory(team: Team) -> None:
    def often(declared: dict[str, Any]) -> None:
        declared["deployments"] = [each for each in declared["deployments"] if each["name"] == "reconcile"]
        declared["deployments"][0]["name"] = "reconcile-often"
        schedule = declared["deployments"][0]["schedules"][0]
        del schedule["cron"]
        schedule |= {"interval": 3, "active": True}
        declared["deployments"][0]["work_pool"] = {"name": "genmedia"}

    answer = team.deploy("--pool", "scheduled", "--prefect-file", own_file(team, "prefect.yaml", often))
    assert answer.returncode == 0, answer.stderr
    mine = {
        "deployments": {"name": {"any_": ["reconcile-often"]}},
        "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},
    }
    try:
        # A ledger of its own: a round that is stopped with its worker would hold the lease of the other tests' rounds.
        with worker(team, "scheduled", ledger="scheduled.db"):
            until(lambda: team.call("POST", "/flow_runs/filter", mine), "a scheduled run completed")
        run = team.call("POST", "/flow_runs/filter", mine)[0]
    finally:  # its runs would keep the server busy
        team.call("DELETE", f"/deployments/{team.deployment('reconcile-jobs/reconcile-often')['id']}")
    assert run["auto_scheduled"] is True
    assert run["parameters"] == {"credentials": ["default"]}
    assert "genmedia" in run["tags"]


def test_a_run_that_ended_stays_as_it_ended_when_its_heartbeat_is_evaluated_late(team: Team) -> None:
    """Prefect 3.8 can evaluate the end of a scheduled run long after the heartbeat before it."""
    automations = own_file(team, "automations.yaml", soon)
    team.deploy("--pool", "nobody-works-here", "--automations-file", automations)
    run = team.start("decide-job/decide", job="x", decision="abandon")
    team.set_state(run, "RUNNING")
    team.set_state(run, "COMPLETED")
    resource = {"prefect.resource.id": f"prefect.flow-run.{run}"}
    tag = {"prefect.resource.id": "prefect.tag.genmedia", "prefect.resource.role": "tag"}
    team.tell("prefect.flow-run.heartbeat", resource, related=[tag])
    about = {"id": [f"prefect.flow-run.{run}"]}
    until(
        lambda: team.events("prefect.automation.action.failed", related=about), "the automation fired, and was refused"
    )
    assert team.state(run) == "COMPLETED"


def test_a_crashed_run_goes_on_once_as_the_same_run(team: Team) -> None:
    team.deploy("--pool", "nobody-works-here")
    run = team.start("decide-job/decide", job="x", decision="abandon")
    team.set_state(run, "RUNNING")
    team.set_state(run, "CRASHED")
    until(lambda: team.state(run) == "SCHEDULED", "started again")
    team.set_state(run, "RUNNING")
    assert team.run(run)["run_count"] == 2
    team.set_state(run, "CRASHED")
    # Nothing is to happen: an event that is told later and has been dealt with shows that this one was, too.
    witness = team.start("decide-job/decide", job="x", decision="abandon")
    team.set_state(witness, "RUNNING")
    team.set_state(witness, "CRASHED")
    until(lambda: team.state(witness) == "SCHEDULED", "the witness started again")
    assert team.state(run) == "CRASHED"


def test_a_run_that_crashed_while_it_waited_for_its_own_retry_is_found(team: Team) -> None:
    team.deploy("--pool", "nobody-works-here", "--automations-file", own_file(team, "automations.yaml", soon))
    run = team.start("decide-job/decide", job="x", decision="abandon")
    team.set_state(run, "RUNNING")
    tag = {"prefect.resource.id": "prefect.tag.genmedia", "prefect.resource.role": "tag"}
    team.tell("prefect.flow-run.heartbeat", {"prefect.resource.id": f"prefect.flow-run.{run}"}, related=[tag])
    waiting = {"type": "SCHEDULED", "name": "AwaitingRetry"}
    team.call("POST", f"/flow_runs/{run}/set_state", {"state": waiting, "force": True})
    crashed = {
        "filter": {"event": {"name": ["prefect.flow-run.Crashed"]}, "resource": {"id": [f"prefect.flow-run.{run}"]}}
    }
    until(lambda: team.call("POST", "/events/filter", crashed)["total"], "its heartbeat stopped, and it was found")
    team.deploy("--pool", "nobody-works-here")


def test_an_image_that_is_broken_after_a_crash_is_not_started_again_for_ever(team: Team) -> None:
    """Its run count stays 1 when the run crashes before it begins: the automation must not count that."""
    team.deploy("--pool", "nobody-works-here")
    run = team.start("decide-job/decide", job="x", decision="abandon")
    for state in ("PENDING", "RUNNING", "CRASHED"):
        team.set_state(run, state)
    until(lambda: team.state(run) == "SCHEDULED", "started again after its first crash")
    for state in ("PENDING", "CRASHED"):
        team.set_state(run, state)
    assert team.run(run)["run_count"] == 1
    witness = team.start("decide-job/decide", job="x", decision="abandon")
    for state in ("PENDING", "RUNNING", "CRASHED"):
        team.set_state(witness, state)
    until(lambda: team.state(witness) == "SCHEDULED", "the witness started again")
    assert team.state(run) == "CRASHED"


def test_reconcile_starts_a_run_again_once_that_crashed_before_it_began_and_reports_to_the_server(team: Team) -> None:
    team.deploy("--pool", "nobody-works-here")
    run = team.start("decide-job/decide", job="x", decision="abandon")
    for state in ("PENDING", "CRASHED"):
        team.set_state(run, state)
    begun = team.start("decide-job/decide", job="x", decision="abandon")
    team.call("POST", f"/flow_runs/{begun}/set_state", {"state": {"type": "CRASHED"}, "force": True})
    queued = [team.start("decide-job/decide", job="x", decision="abandon") for _ in range(250)]  # no worker is free

    first = team.reconcile()
    assert first.returncode == 0, first.stderr
    assert len(first.stdout.splitlines()) == 1
    assert "2 runs started again" in first.stdout
    assert [team.state(each) for each in (run, begun)] == ["SCHEDULED", "SCHEDULED"]
    for state in ("PENDING", "CRASHED"):
        team.set_state(run, state)
    second = team.reconcile()
    assert second.returncode == 0, second.stderr
    assert "started again" not in second.stdout, "a broken image is left to a person"
    assert team.state(run) == "CRASHED"
    assert {team.state(each) for each in queued} == {"SCHEDULED"}

    until(lambda: len(team.events("genmedia.reconcile.succeeded")) >= 2, "the events of both rounds")
    tables = team.call("POST", "/artifacts/filter", {"artifacts": {"key": {"any_": ["genmedia-reconcile"]}}})
    assert tables


def test_deploy_tells_whether_reconcile_works_and_an_automation_can_alert(team: Team) -> None:
    team.reconcile()
    assert "working" in line_of(team.deploy("--check").stdout, "reconcile")
    lost = {
        f"{PREFIX}LEDGER_URL": f"sqlite:///{team.folder.parent / 'other.db'}",
        "PREFECT_API_URL": f"{team.server.api}",
    }
    (stopped,) = [each for each in team.everything()["automations"] if each["name"].endswith("reconcile has stopped")]
    assert stopped["trigger"]["within"] == 1200.0
    assert stopped["enabled"] is False, "there is no Block that it could alert with"
    team.call("PATCH", f"/automations/{stopped['id']}", {"enabled": True})

    def soon_too(declared: dict[str, Any]) -> None:
        (own,) = [each for each in declared["automations"] if each["name"].endswith("reconcile has stopped")]
        own["trigger"]["within"] = 11

    team.deploy("--automations-file", own_file(team, "automations.yaml", soon_too))
    team.reconcile(keys=lost)  # the last round of this ledger
    until(
        lambda: [
            each
            for each in team.events("prefect.automation.triggered")
            if each["resource"]["prefect.resource.name"].endswith("reconcile has stopped")
        ],
        "the automation fired when no round came",
    )
    team.deploy()


def line_of(table: str, kind: str) -> str:
    return next(line for line in table.splitlines() if line[18:].startswith(kind))


def test_an_unknown_submission_is_reported_through_the_notification_block(team: Team) -> None:
    reported: list[str] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            reported.append(self.rfile.read(int(self.headers["content-length"])).decode())
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    receiver = HTTPServer(("127.0.0.1", 0), Receiver)
    Thread(target=receiver.serve_forever, daemon=True).start()
    block = (
        "import sys; from prefect.blocks.notifications import CustomWebhookNotificationBlock as Hook; "
        "Hook(name='test', url=sys.argv[1], json_data={'subject': '{{subject}}', 'body': '{{body}}'}, "
        "allow_private_urls=True).save('team')"
    )
    url = f"http://127.0.0.1:{receiver.server_port}/"
    subprocess.run([sys.executable, "-c", block, url], env=dict(team.server.env), check=True)
    answer = team.deploy("--alerts", "custom-webhook/team")
    assert "notifies nobody" not in answer.stdout
    assert all(each["enabled"] for each in team.everything()["automations"]), "they have somebody to tell now"
    assert "notifies nobody" not in team.deploy().stdout  # nor is it forgotten by the next one
    job = {"prefect.resource.id": "genmedia.job.3f2a", "prefect.resource.name": "portrait.jpg"}
    reason_of = {"state": "unknown", "message": "POST /videos gave no answer."}
    team.tell("genmedia.job.unknown", job, payload=reason_of)
    until(lambda: reported, "the notification")
    receiver.shutdown()
    receiver.server_close()
    for automation in team.everything()["automations"]:  # nobody listens any more; the next deploy makes them anew
        team.call("DELETE", f"/automations/{automation['id']}")
    said = json.loads(reported[0])
    assert said["subject"] == "portrait.jpg: was it paid?"
    assert "POST /videos gave no answer." in said["body"]
    assert "abandon 3f2a" in said["body"]


def test_a_killed_worker_costs_nothing_the_run_is_found_started_again_and_paid_once(
    team: Team, simulator: RunningSimulator
) -> None:
    """The automations as they are, but for ten minutes of silence, which are eleven seconds here, once it is silent."""

    def deploy(*more: str) -> None:
        answer = team.deploy("--pool", "killed", *more, keys=keys_for(simulator))
        assert answer.returncode == 0, answer.stderr

    simulator.world.settings.run_seconds = 3600.0
    deploy()
    with worker(team, "killed") as first:
        run = team.start("omnihuman-video/omnihuman", image_url=simulator.portrait_url, audio_url=simulator.speech_url)
        mine = {"id": [f"prefect.flow-run.{run}"]}
        until(lambda: simulator.world.requests["tokenops.poll"], "submitted and waited for")
        until(lambda: team.events("prefect.flow-run.heartbeat", resource=mine), "a heartbeat")
        first.kill()
    assert team.state(run) == "RUNNING"
    deploy("--automations-file", own_file(team, "automations.yaml", soon))
    last = team.events("prefect.flow-run.heartbeat", resource=mine)[0]
    team.tell(last["event"], last["resource"], related=last["related"], payload=last["payload"])
    until(lambda: team.state(run) == "SCHEDULED", "found, and started again")
    deploy()
    simulator.world.settings.run_seconds = 0.1
    with worker(team, "killed"):
        until(lambda: team.state(run) in ("COMPLETED", "FAILED", "CRASHED"), "finished")
    assert team.state(run) == "COMPLETED"
    assert team.run(run)["run_count"] == 2
    assert simulator.accepted == 1


def test_a_batch_whose_worker_is_killed_with_its_shards_goes_on_by_itself(
    team: Team, simulator: RunningSimulator
) -> None:
    """Nobody but the automations and another worker does anything. The shards' silence is noticed after 90 seconds."""

    def deploy(*more: str) -> None:
        answer = team.deploy("--pool", "batches", *more, keys=keys_for(simulator))
        assert answer.returncode == 0, answer.stderr

    simulator.world.settings.run_seconds = 3600.0
    deploy()
    rows = [
        {"id": f"row-{number}", "model": "jimeng-video-3.0-720P", "prompt": f"lake {number}"} for number in range(8)
    ]
    options = {"kind": "jimeng", "batch_id": "killed", "shards": 2, "results": str(team.folder / "killed.jsonl")}
    with worker(team, "batches") as first:
        run = team.start("generate-batch/batch", table=rows, **options)
        until(lambda: simulator.accepted == len(rows), "every row is submitted, by two shards")
        mine = {"id": [f"prefect.flow-run.{run}"]}
        until(lambda: team.events("prefect.flow-run.heartbeat", resource=mine), "a heartbeat of the batch")
        first.kill()
    deploy("--automations-file", own_file(team, "automations.yaml", soon))
    last = team.events("prefect.flow-run.heartbeat", resource=mine)[0]
    team.tell(last["event"], last["resource"], related=last["related"], payload=last["payload"])
    until(lambda: team.state(run) == "SCHEDULED", "found, and started again")
    deploy()
    simulator.world.settings.run_seconds = 0.1
    with worker(team, "batches"):
        until(lambda: team.state(run) in ("COMPLETED", "FAILED", "CRASHED"), "finished")
    assert team.state(run) == "COMPLETED"
    assert simulator.accepted == len(rows)
    results = [json.loads(line) for line in (team.folder / "killed.jsonl").read_text("utf-8").splitlines()]
    assert [row["state"] for row in results] == ["delivered"] * len(rows)


def soon(declared: dict[str, Any]) -> None:
    """Eleven seconds of silence are enough."""
    declared["automations"][0]["trigger"]["within"] = 11
