"""The declared files: what Prefect makes of them, and that an installed wheel has all they name."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from prefect.cli.deploy._models import DeploymentConfig, PrefectYamlModel, RawScheduleConfig
from prefect.server.events.schemas.automations import AutomationCore

from prefect_genmedia.deploy.documents import block_types, read_secrets
from prefect_genmedia.deploy.files import (
    BLOCK_DOCUMENTS,
    DEPLOYMENTS,
    RECONCILE_POOL,
    AutomationsFile,
    DeploymentSpec,
    DocumentsFile,
    PrefectFile,
    ScheduleSpec,
    ServerFile,
    read_spec,
)
from prefect_genmedia.errors import InvalidRequest

ROOT = Path(__file__).parents[2]
DECLARED = read_spec(PrefectFile, DEPLOYMENTS, "prefect.yaml")
PAID = {"omnihuman", "jimeng", "posters", "stylize", "batch", "batch-shard"}

LOAD = """
import json, sys
from importlib import resources
from prefect.flows import load_flow_from_entrypoint
import prefect_genmedia
names = [load_flow_from_entrypoint(each, use_placeholder_flow=False).name for each in json.loads(sys.argv[1])]
files = [each.name for each in resources.files("prefect_genmedia.deployments").iterdir()]
documents = [each.name for each in resources.files("prefect_genmedia.block_documents").iterdir()]
print(json.dumps([prefect_genmedia.__file__, names, files + documents]))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, installed into a folder of its own; what it depends on comes from here."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    source = folder / "source"  # building writes beside what it builds from
    for name in ("src", "flows", "deployments", "blocks"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "setup.py", "README.md", "CHANGELOG.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run([*pip, "wheel", "--no-deps", "-w", folder / "wheel", source], check=True)
    (wheel,) = (folder / "wheel").glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", folder / "site", wheel], check=True)
    return folder / "site"


def test_every_entrypoint_loads_from_an_installed_wheel_in_an_empty_directory(installed: Path, tmp_path: Path) -> None:
    entrypoints = sorted({deployment.entrypoint for deployment in DECLARED.deployments})
    answer = subprocess.run(
        [sys.executable, "-c", LOAD, json.dumps(entrypoints)],
        env={**os.environ, "PYTHONPATH": str(installed), "PREFECT_HOME": str(tmp_path / "home")},
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    where, names, files = json.loads(answer.stdout.splitlines()[-1])
    assert Path(where).is_relative_to(installed)
    assert len(set(names)) == len(entrypoints)
    shipped = {
        "prefect.yaml",
        "server.yaml",
        "automations.yaml",
        "compose.yaml",
        "Dockerfile",
        "serve.py",
        "documents.yaml",
    }
    assert shipped <= set(files)


def test_every_flow_of_the_flows_folder_is_deployed() -> None:
    modules = {deployment.entrypoint.split(".")[-2] for deployment in DECLARED.deployments}
    assert modules == {path.stem for path in (ROOT / "flows").glob("*.py") if "\n@flow" in path.read_text("utf-8")}


def test_prefect_yaml_means_to_prefect_what_it_means_to_us() -> None:
    """Prefect ignores words that it does not know: none of ours may be one of those."""
    raw = yaml.safe_load((ROOT / "deployments/prefect.yaml").read_text("utf-8"))
    theirs = PrefectYamlModel.model_validate(raw)
    assert [each.name for each in theirs.deployments] == [each.name for each in DECLARED.deployments]
    assert theirs.pull == []
    for deployment in raw["deployments"]:
        assert set(deployment) <= set(DeploymentConfig.model_fields)
        for schedule in deployment.get("schedules", []):
            RawScheduleConfig.model_validate(schedule)


def test_no_schedule_that_pays_starts_switched_on() -> None:
    for deployment in DECLARED.deployments:
        if deployment.name in PAID:
            assert not [schedule.slug for schedule in deployment.schedules if schedule.active]


def test_no_run_can_keep_reconcile_waiting() -> None:
    """It has a pool of its own, and no limit whose leaked slot would cancel or delay every later run."""
    (reconcile,) = [each for each in DECLARED.deployments if each.name == "reconcile"]
    assert reconcile.work_pool.name == RECONCILE_POOL
    assert reconcile.concurrency_limit is None
    assert RECONCILE_POOL not in {each.work_pool.name for each in DECLARED.deployments if each is not reconcile}
    assert [each.cron for each in reconcile.schedules] == ["*/10 * * * *"]


def test_a_run_that_waits_for_its_own_retry_is_still_watched() -> None:
    (silent, *_) = read_spec(AutomationsFile, DEPLOYMENTS, "automations.yaml").automations
    assert "prefect.flow-run.heartbeat" in silent["trigger"]["expect"]
    assert "prefect.flow-run.AwaitingRetry" not in silent["trigger"]["expect"]


def test_schedules_pass_parameters_that_the_flow_takes() -> None:
    from prefect.utilities.callables import parameter_schema

    from prefect_genmedia.deploy.deployments import load_flow

    for deployment in DECLARED.deployments:
        flow = load_flow(deployment)
        required = set(parameter_schema(flow).required)
        for schedule in deployment.schedules:
            given = {**deployment.parameters, **schedule.parameters}
            if not schedule.active:  # what pays has no placeholders: its inputs are the user's to give
                given |= dict.fromkeys(required & {"image_url", "table"}, "s3://media/input.csv")
            assert required <= set(given)
            flow.validate_parameters(given)


def test_no_file_holds_a_secret_or_templates_one_at_deploy_time() -> None:
    text = (ROOT / "deployments/prefect.yaml").read_text("utf-8") + (ROOT / "blocks/documents.yaml").read_text("utf-8")
    assert "prefect.blocks" not in text  # `prefect deploy` would put the value in its place
    assert not re.search(r"\bsk-|api_key: (?!GENMEDIA_)", text)


@pytest.mark.parametrize("declared", read_spec(AutomationsFile, DEPLOYMENTS, "automations.yaml").automations)
def test_the_server_understands_each_automation(declared: dict[str, object]) -> None:
    actions = [dict(action) for action in declared["actions"]]
    for action in actions:
        if action.pop("notify", False):
            action["block_document_id"] = "00000000-0000-0000-0000-000000000000"
    automation = AutomationCore.model_validate({**declared, "actions": actions})
    assert automation.description
    if automation.trigger.posture == "Proactive":
        assert automation.trigger.within >= 3 * timedelta(seconds=180)


def test_every_document_is_of_a_block_type_and_has_its_required_fields() -> None:
    for document in read_spec(DocumentsFile, BLOCK_DOCUMENTS, "documents.yaml").documents:
        fields = block_types()[document.block].model_fields
        assert set(document.fields) <= set(fields)
        assert {name for name, field in fields.items() if field.is_required()} <= set(document.fields)


def test_pools_of_containers_require_a_shared_ledger_and_output() -> None:
    pools = read_spec(ServerFile, DEPLOYMENTS, "server.yaml").work_pools
    for pool in (pools["docker"], pools["kubernetes"]):
        assert set(pool.requires) == {"ledger", "output"}
        assert set(pool.job_variables["env"]) == {
            "PREFECT_INTEGRATIONS_GENMEDIA_LEDGER_URL",
            "PREFECT_INTEGRATIONS_GENMEDIA_OUTPUT",
        }


def test_a_misspelt_word_is_an_error_and_every_problem_is_named(tmp_path: Path) -> None:
    own = tmp_path / "prefect.yaml"
    own.write_text(
        "name: x\npull: []\ndeployments:\n"
        "  - {name: a, entrypoint: b.c, description: d, concurency_limit: 3, schedules: [{slug: s}]}\n"
    )
    with pytest.raises(InvalidRequest) as caught:
        read_spec(PrefectFile, DEPLOYMENTS, "prefect.yaml", own)
    assert "concurency_limit" in caught.value.message
    assert "cron or interval" in caught.value.message


def test_a_file_that_is_not_there_or_is_no_yaml_is_reported_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"nowhere\.yaml cannot be read"):
        read_spec(PrefectFile, DEPLOYMENTS, "prefect.yaml", tmp_path / "nowhere.yaml")
    (tmp_path / "broken.yaml").write_text("a: [")
    with pytest.raises(InvalidRequest, match=r"broken\.yaml cannot be read"):
        read_spec(PrefectFile, DEPLOYMENTS, "prefect.yaml", tmp_path / "broken.yaml")


def test_a_secrets_file_that_cannot_be_read_is_refused_without_quoting_it(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text("GENMEDIA_TOKENOPS_API_KEY = sk-without-quotes\n")
    with pytest.raises(InvalidRequest) as caught:
        read_secrets(path, read_spec(DocumentsFile, BLOCK_DOCUMENTS, "documents.yaml").documents)
    assert "sk-without-quotes" not in str(caught.value)
    path.write_text("GENMEDIA_TOKENOPS_API_KEY = 17\n")
    with pytest.raises(InvalidRequest, match="GENMEDIA_TOKENOPS_API_KEY must be text"):
        read_secrets(path, read_spec(DocumentsFile, BLOCK_DOCUMENTS, "documents.yaml").documents)


def test_what_is_served_without_a_work_pool_is_what_is_deployed_to_one() -> None:
    from prefect_genmedia.deployments.serve import served

    for spec in DECLARED.deployments:
        deployment = served(spec)
        assert deployment.work_pool_name is None
        assert deployment.entrypoint == spec.entrypoint
        assert deployment.tags == spec.tags
        assert [each.slug for each in deployment.schedules or []] == [each.slug for each in spec.schedules]
        assert [each.active for each in deployment.schedules or []] == [each.active for each in spec.schedules]
        assert deployment.concurrency_limit == (spec.concurrency_limit.limit if spec.concurrency_limit else None)


def test_a_schedule_is_a_cron_expression_or_an_interval() -> None:
    spec = DeploymentSpec(name="a", entrypoint="b", description="c", schedules=[ScheduleSpec(slug="s", interval=5)])
    created = spec.schedules[0].to_create(active=False)
    assert created.active is False
    assert created.schedule.interval == timedelta(seconds=5)
