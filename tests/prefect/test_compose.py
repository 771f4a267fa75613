"""The compose file and the image: names that exist, and the same commands and settings on PostgreSQL and Redis."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import prefect.settings
import pytest
import yaml
from servers import HTTP, PATIENCE, ask_api, postgres, postgres_tools, redis, stop, until

from prefect_genmedia.cli.local_server import free_port
from prefect_genmedia.settings import GenMediaSettings

FOLDER = Path(__file__).parents[2] / "deployments"
COMPOSE = yaml.safe_load((FOLDER / "compose.yaml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OUR_PREFIX = "PREFECT_INTEGRATIONS_GENMEDIA_"
NOT_SETTINGS = {"PREFECT_SERVER_ENCRYPTION_KEY"}  # Prefect reads this one from the environment alone


def variables() -> Iterator[tuple[str, str]]:
    for service in SERVICES.values():
        yield from service.get("environment", {}).items()


def test_every_setting_in_the_compose_file_exists() -> None:
    for name, _ in variables():
        if name.startswith(OUR_PREFIX):
            assert name.removeprefix(OUR_PREFIX).lower() in GenMediaSettings.model_fields
        elif name.startswith("PREFECT_REDIS_MESSAGING_"):
            pytest.importorskip("prefect_redis")
            from prefect_redis.client import RedisMessagingSettings

            assert name.removeprefix("PREFECT_REDIS_MESSAGING_").lower() in RedisMessagingSettings.model_fields
        elif name.startswith("PREFECT_") and name not in NOT_SETTINGS:
            assert hasattr(prefect.settings, name)


def test_every_value_that_is_filled_in_is_explained_in_the_example() -> None:
    wanted = set(re.findall(r"\$\{(\w+)", (FOLDER / "compose.yaml").read_text("utf-8")))
    explained = set(re.findall(r"^(\w+)=", (FOLDER / "compose.env.example").read_text("utf-8"), re.MULTILINE))
    assert wanted - explained <= {"PREFECT_UI_API_URL"}
    assert explained <= wanted


def test_no_password_has_a_default() -> None:
    for name, value in variables():
        if re.search("PASSWORD|SECRET|ENCRYPTION_KEY|CONNECTION_URL|LEDGER_URL", name):
            assert value.endswith(":-}") or ":?}" in value


def test_every_value_that_a_block_takes_reaches_the_service_that_deploys() -> None:
    documents = yaml.safe_load((FOLDER.parent / "blocks" / "documents.yaml").read_text("utf-8"))["documents"]
    wanted = {variable for each in documents if not each.get("optional") for variable in each["fields"].values()}
    assert wanted <= SERVICES["deploy"]["environment"].keys()


def test_what_is_left_empty_means_not_set_to_the_storages_library(monkeypatch: pytest.MonkeyPatch) -> None:
    session = pytest.importorskip("botocore.session")
    for name, value in SERVICES["worker"]["environment"].items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, re.sub(r"\$\{\w+:-(.*)\}", r"\1", value))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        assert os.environ[name] == ""
    unsigned = pytest.importorskip("botocore.config").Config(signature_version=pytest.importorskip("botocore").UNSIGNED)
    client = session.get_session().create_client("s3", config=unsigned)
    assert client.meta.endpoint_url == "https://s3.amazonaws.com"


def test_services_wait_for_what_exists() -> None:
    for service in SERVICES.values():
        for other, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[other]
        for volume in service.get("volumes", []):
            assert volume.split(":")[0] in COMPOSE["volumes"]
    assert SERVICES["worker"]["deploy"]["replicas"] == 2


def test_reconcile_is_a_process_of_its_own_with_the_workers_ledger_and_storage() -> None:
    reconcile = SERVICES["reconcile"]
    assert reconcile["command"] == ["prefect-genmedia", "reconcile", "--every", "10m"]
    assert reconcile["restart"] == "unless-stopped"
    assert reconcile["environment"] == SERVICES["worker"]["environment"]
    assert reconcile["volumes"] == SERVICES["worker"]["volumes"]


def test_the_image_copies_what_exists_and_does_not_run_as_root() -> None:
    lines = (FOLDER / "Dockerfile").read_text("utf-8").splitlines()
    for line in lines:
        if line.startswith("COPY ") and "--from" not in line:
            for source in line.split()[1:-1]:
                assert (FOLDER.parent / source).exists()
    assert [line for line in lines if line.startswith("USER ")] == ["USER genmedia"]


def test_the_image_has_what_its_documents_use() -> None:
    text = (FOLDER / "Dockerfile").read_text("utf-8")
    assert re.search(r"\.whl\)\[s3,parquet\]", text)


def test_neither_a_secret_nor_a_checkouts_rubbish_goes_into_the_build() -> None:
    left_out = (FOLDER.parent / ".dockerignore").read_text("utf-8").splitlines()
    assert {".env", ".git", ".venv*", "**/__pycache__", "build", "dist"} <= set(left_out)


def test_docker_understands_the_compose_file(tmp_path: Path) -> None:
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode != 0:
        pytest.skip("docker compose is not here")
    env = tmp_path / "env"
    env.write_text(
        re.sub(r"^(\w+)=$", r"\1=x", (FOLDER / "compose.env.example").read_text("utf-8"), flags=re.MULTILINE)
    )
    command = ["docker", "compose", "--file", FOLDER / "compose.yaml", "--env-file", env, "config", "--quiet"]
    subprocess.run(command, check=True)


@pytest.mark.server
@pytest.mark.timeout(1200)
@pytest.mark.skipif(
    postgres_tools() is None or not shutil.which("redis-server"), reason="no PostgreSQL or no Redis here"
)
def test_the_parts_run_a_scheduled_flow_together_on_postgresql_and_redis(tmp_path: Path) -> None:
    """The services' own commands and settings, as processes of this machine in place of containers."""
    pytest.importorskip("prefect_redis")
    declared = yaml.safe_load((FOLDER / "prefect.yaml").read_text("utf-8"))
    (reconcile,) = [each for each in declared["deployments"] if each["name"] == "reconcile"]
    del reconcile["schedules"][0]["cron"]
    reconcile["schedules"][0]["active"] = True
    reconcile["work_pool"] = {"name": "genmedia"}
    reconcile["schedules"][0]["interval"] = 5
    (tmp_path / "prefect.yaml").write_text(yaml.safe_dump({**declared, "deployments": [reconcile]}))

    with ExitStack() as stack:
        database = urlsplit(stack.enter_context(postgres()))
        subprocess.run(
            [
                str((postgres_tools() or Path()) / "psql"),
                database.geturl(),
                "-qc",
                "CREATE DATABASE prefect",
                "-c",
                "CREATE DATABASE ledger",
            ],
            check=True,
        )
        messages = stack.enter_context(redis())
        port = free_port()

        def here(value: str) -> str:
            value = value.replace(
                "genmedia:${POSTGRES_PASSWORD:?}@postgres:5432", f"genmedia@127.0.0.1:{database.port}"
            )
            value = value.replace("redis://redis:6379", messages)
            value = value.replace("http://server:4200", f"http://127.0.0.1:{port}").replace("/media-out", str(tmp_path))
            value = value.replace("${PREFECT_SERVER_ENCRYPTION_KEY:?}", "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=")
            value = value.replace("${GENMEDIA_CALLBACK_SECRET:?}", "a long random text")
            value = value.replace("${GENMEDIA_TOKENOPS_API_KEY:-}", "sk-of-nobody")
            return re.sub(r"\$\{\w+:-(.*?)\}", r"\1", value)

        def start(service: str, *more: str) -> subprocess.Popen[bytes]:
            command = [here(word) for word in SERVICES[service]["command"]]
            program = {"prefect": "prefect", "prefect-genmedia": "prefect_genmedia.cli"}[command[0]]
            env = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
            env |= {name: here(value) for name, value in SERVICES[service]["environment"].items()}
            # The place of a run that the killed worker was about to start is free again after a minute, not after five.
            env["PREFECT_SERVER_CONCURRENCY_INITIAL_DEPLOYMENT_LEASE_DURATION"] = "60"
            env["PREFECT_HOME"] = str(tmp_path / f"home-{service}-{free_port()}")
            log = stack.enter_context((tmp_path / f"{service}.log").open("ab"))
            return subprocess.Popen(
                [sys.executable, "-m", program, *command[1:], *more], env=env, cwd=tmp_path, stdout=log, stderr=log
            )

        assert start("migrate").wait(PATIENCE) == 0
        stack.callback(stop, start("server", "--port", str(port)))
        stack.callback(stop, start("services"))
        api = f"http://127.0.0.1:{port}/api"
        until(lambda: HTTP.get(f"{api}/health").is_success, "the server answers")
        assert start("deploy", "--prefect-file", str(tmp_path / "prefect.yaml")).wait(PATIENCE) == 0
        first, second = start("worker"), start("worker")
        stack.callback(stop, second)

        def completed() -> int:
            wanted = {"flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
            return int(ask_api(api, "POST", "/flow_runs/count", wanted))

        until(completed, "a run completed")
        first.kill()
        first.wait()
        already = completed()
        until(lambda: completed() > already, "another run completed")
        # Events of the runs came through Redis, and into the database.
        heartbeats = {"filter": {"event": {"name": ["prefect.flow-run.heartbeat"]}}}
        until(lambda: ask_api(api, "POST", "/events/filter", heartbeats)["total"], "a heartbeat arrived")
