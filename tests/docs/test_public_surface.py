"""What `prefect_genmedia` and `prefect_genmedia.sync` offer: the names, that they load late, and that types agree."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest
from prefect import Flow, Task
from prefect.blocks.core import Block

import prefect_genmedia
from prefect_genmedia import errors, sync, tasks
from prefect_genmedia.flows.batch import generate_shard
from prefect_genmedia.generate import confirm_cost, generate

PUBLIC = """
AccountConflict AccountPaused BatchIncomplete BatchReport BillReport BudgetStop CredentialsError Delivery Detection
FieldProblem Finding GenMediaError GenMediaSettings GenerationFailed GenerationRequest HiDreamCredentials InputRefused
InvalidRequest JeniusCredentials JimengVideo Job JobExpired JobState JobTimeout LedgerError LivePoster MediaJob
MediaJobRun NoSubject NotConfirmed OmniHumanVideo OutputRefused PreparedRequest Price ProviderError QualityError
QuotaError RateLimited Recognition ResultInvalid ReviewStop SpendReport StorageError StylizedVideo SubjectSelection
SubmissionUnknown TokenOpsCredentials __version__ chain_media check_inputs current_settings decide_job detect_subjects
download_result generate_batch generate_media import_bill jimeng_video live_poster omnihuman_video prune_jobs
prune_ledger recognize_subject reconcile_jobs reconcile_ledger report_spend select_subject settle_job stylize_video
submit_job wait_for_job
""".split()

MODULES = {
    "billing": """
        BillFinding BillMapping BillReport BillSpec BillSum SpendLine compare_bill read_mapping spend write_claim
    """,
    "housekeeping": """
        BackupReport CheckReport Problem RestoreReport back_up_ledger check_backup check_ledger restore_ledger
        vacuum_ledger
    """,
}
"""Public modules whose names are not all in `prefect_genmedia` too."""

TREE = ast.parse(Path(prefect_genmedia.__file__).read_text("utf-8"))


def imported(body: list[ast.stmt]) -> dict[str, str]:
    """The names that statements import from the package, each with its module."""
    found = [each for each in body if isinstance(each, ast.ImportFrom) and each.module]
    return {name.name: str(each.module) for each in found for name in each.names}


def test_the_public_names_are_these() -> None:
    assert prefect_genmedia.__all__ == PUBLIC


@pytest.mark.parametrize("name", MODULES)
def test_the_public_names_of_modules_are_these(name: str) -> None:
    module = importlib.import_module(f"prefect_genmedia.{name}")
    assert sorted(module.__all__) == sorted(MODULES[name].split())


def test_each_module_without_an_underscore_is_in_the_table_of_what_may_change() -> None:
    folders = [Path(prefect_genmedia.__file__).parent]
    names = {each.name for each in pkgutil.iter_modules(map(str, folders)) if not each.name.startswith("_")}
    text = (Path(__file__).parents[2] / "docs" / "stability.md").read_text("utf-8")
    named = set(re.findall(r"`(?:prefect_genmedia)?\.(\w+)`", text))
    assert sorted(names - named) == []


def test_every_public_name_is_there_and_listed() -> None:
    assert [name for name in PUBLIC if not hasattr(prefect_genmedia, name)] == []
    assert set(PUBLIC) <= set(dir(prefect_genmedia))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = prefect_genmedia.no_such_name


def test_every_error_is_public() -> None:
    kinds = [each for each in vars(errors).values() if inspect.isclass(each) and issubclass(each, Exception)]
    own = {kind.__name__ for kind in kinds if kind.__module__ == errors.__name__}
    assert own <= set(PUBLIC)


def test_type_checkers_and_python_find_each_name_in_the_same_module() -> None:
    (checked,) = (each for each in TREE.body if isinstance(each, ast.If))
    lazy: dict[str, str] = prefect_genmedia._HOME_OF
    assert imported(checked.body) == lazy
    eager = {name for name in imported(TREE.body) if name in PUBLIC}
    assert eager | set(lazy) | {"__version__"} == set(PUBLIC)


def test_importing_the_package_loads_the_blocks_alone() -> None:
    """The rest takes several times as long, and whoever loads a Block needs none of it."""
    heavy = "{'sqlalchemy', 'av', 'PIL', 'prefect_genmedia.tasks', 'prefect_genmedia._core', 'prefect_genmedia.flows'}"
    code = f"import sys, prefect_genmedia; print(*{heavy} & set(sys.modules))"
    reported = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert reported.split() == []


def test_prefect_finds_each_block_among_the_packages_members() -> None:
    """As `prefect block register -m prefect_genmedia` does."""
    members = [member for _, member in inspect.getmembers(prefect_genmedia)]
    slugs = {each.get_block_type_slug() for each in members if Block.is_block_class(each)}
    assert slugs == {"tokenops-credentials", "jenius-credentials", "hidream-credentials", "media-job"}


# --- synchronous twins ---


def originals() -> dict[str, Any]:
    public = [getattr(prefect_genmedia, name) for name in PUBLIC]
    runnable = [each for each in public if isinstance(each, Task | Flow)]
    return {each.fn.__name__: each for each in runnable} | {"generate": generate, "confirm_cost": confirm_cost}


def test_each_public_task_and_flow_has_a_synchronous_twin() -> None:
    assert sorted(originals()) == sync.__all__
    assert generate_shard.fn.__name__ not in sync.__all__, "people do not call it"


@pytest.mark.parametrize("name", sync.__all__)
def test_a_twin_has_the_parameters_and_the_docstring_of_its_original(name: str) -> None:
    twin, original = getattr(sync, name), originals()[name]
    function = getattr(original, "fn", original)
    assert isinstance(twin, FunctionType)
    assert not inspect.iscoroutinefunction(twin)
    assert inspect.signature(twin).parameters == inspect.signature(function).parameters
    assert twin.__doc__ == function.__doc__


# --- the old name of submit_job ---


def test_the_old_name_of_submit_job_is_the_same_task_under_its_own_name() -> None:
    new, old = tasks.submit_job, tasks.submit
    assert (new.name, old.name) == ("submit_job", "submit")
    assert inspect.signature(old.fn).parameters == inspect.signature(new.fn).parameters
    for option in ("task_run_name", "retries", "retry_delay_seconds", "retry_condition_fn", "cache_policy"):
        assert getattr(old, option) == getattr(new, option), option
