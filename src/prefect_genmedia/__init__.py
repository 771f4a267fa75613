"""Paid, asynchronous media generation as Prefect tasks, Blocks and flows.

Everything in `__all__` is public. Prefect imports this package in its server and workers, so only the Blocks are loaded
with it; every other name is loaded when it is first used. `prefect_genmedia.sync` has synchronous tasks and flows.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from prefect_genmedia import _compat
from prefect_genmedia.job_block import MediaJob
from prefect_genmedia.providers.hidream.block import HiDreamCredentials
from prefect_genmedia.providers.jenius.block import JeniusCredentials
from prefect_genmedia.providers.tokenops.block import TokenOpsCredentials

if TYPE_CHECKING:
    from prefect_genmedia._core.model import Delivery, Job, JobState
    from prefect_genmedia._core.reconcile import Finding
    from prefect_genmedia._prefect.spending import SpendReport
    from prefect_genmedia.batch import BatchReport
    from prefect_genmedia.billing import BillReport
    from prefect_genmedia.errors import (
        AccountConflict,
        AccountPaused,
        BatchIncomplete,
        BudgetStop,
        CredentialsError,
        FieldProblem,
        GenerationFailed,
        GenMediaError,
        InputRefused,
        InvalidRequest,
        JobExpired,
        JobTimeout,
        LedgerError,
        NoSubject,
        NotConfirmed,
        OutputRefused,
        ProviderError,
        QualityError,
        QuotaError,
        RateLimited,
        ResultInvalid,
        ReviewStop,
        StorageError,
        SubmissionUnknown,
    )
    from prefect_genmedia.flows.batch import generate_batch
    from prefect_genmedia.flows.bill import import_bill
    from prefect_genmedia.flows.chain import chain_media
    from prefect_genmedia.flows.decide import decide_job
    from prefect_genmedia.flows.generate import generate_media
    from prefect_genmedia.flows.jimeng import jimeng_video
    from prefect_genmedia.flows.omnihuman import omnihuman_video
    from prefect_genmedia.flows.poster import live_poster
    from prefect_genmedia.flows.prune import prune_jobs
    from prefect_genmedia.flows.reconcile import reconcile_jobs
    from prefect_genmedia.flows.spend import report_spend
    from prefect_genmedia.flows.stylize import stylize_video
    from prefect_genmedia.job_block import MediaJobRun
    from prefect_genmedia.prices import Price
    from prefect_genmedia.providers.hidream import StylizedVideo
    from prefect_genmedia.providers.jenius import LivePoster
    from prefect_genmedia.providers.protocol import GenerationRequest, PreparedRequest
    from prefect_genmedia.providers.tokenops import Detection, JimengVideo, OmniHumanVideo, Recognition
    from prefect_genmedia.providers.tokenops.subjects import SubjectSelection
    from prefect_genmedia.providers.tokenops.tasks import detect_subjects, recognize_subject, select_subject
    from prefect_genmedia.settings import GenMediaSettings, current_settings
    from prefect_genmedia.tasks import (
        check_inputs,
        download_result,
        prune_ledger,
        reconcile_ledger,
        settle_job,
        submit_job,
        wait_for_job,
    )

__version__ = version("prefect-genmedia")

__all__ = [
    "AccountConflict",
    "AccountPaused",
    "BatchIncomplete",
    "BatchReport",
    "BillReport",
    "BudgetStop",
    "CredentialsError",
    "Delivery",
    "Detection",
    "FieldProblem",
    "Finding",
    "GenMediaError",
    "GenMediaSettings",
    "GenerationFailed",
    "GenerationRequest",
    "HiDreamCredentials",
    "InputRefused",
    "InvalidRequest",
    "JeniusCredentials",
    "JimengVideo",
    "Job",
    "JobExpired",
    "JobState",
    "JobTimeout",
    "LedgerError",
    "LivePoster",
    "MediaJob",
    "MediaJobRun",
    "NoSubject",
    "NotConfirmed",
    "OmniHumanVideo",
    "OutputRefused",
    "PreparedRequest",
    "Price",
    "ProviderError",
    "QualityError",
    "QuotaError",
    "RateLimited",
    "Recognition",
    "ResultInvalid",
    "ReviewStop",
    "SpendReport",
    "StorageError",
    "StylizedVideo",
    "SubjectSelection",
    "SubmissionUnknown",
    "TokenOpsCredentials",
    "__version__",
    "chain_media",
    "check_inputs",
    "current_settings",
    "decide_job",
    "detect_subjects",
    "download_result",
    "generate_batch",
    "generate_media",
    "import_bill",
    "jimeng_video",
    "live_poster",
    "omnihuman_video",
    "prune_jobs",
    "prune_ledger",
    "recognize_subject",
    "reconcile_jobs",
    "reconcile_ledger",
    "report_spend",
    "select_subject",
    "settle_job",
    "stylize_video",
    "submit_job",
    "wait_for_job",
]

_HOMES = {
    "_core.model": "Delivery Job JobState",
    "_core.reconcile": "Finding",
    "_prefect.spending": "SpendReport",
    "batch": "BatchReport",
    "billing": "BillReport",
    "errors": """AccountConflict AccountPaused BatchIncomplete BudgetStop CredentialsError FieldProblem GenMediaError
        GenerationFailed InputRefused InvalidRequest JobExpired JobTimeout LedgerError NoSubject NotConfirmed
        OutputRefused ProviderError QualityError QuotaError RateLimited ResultInvalid ReviewStop StorageError
        SubmissionUnknown""",
    "flows.batch": "generate_batch",
    "flows.bill": "import_bill",
    "flows.chain": "chain_media",
    "flows.decide": "decide_job",
    "flows.generate": "generate_media",
    "flows.jimeng": "jimeng_video",
    "flows.omnihuman": "omnihuman_video",
    "flows.poster": "live_poster",
    "flows.prune": "prune_jobs",
    "flows.reconcile": "reconcile_jobs",
    "flows.spend": "report_spend",
    "flows.stylize": "stylize_video",
    "job_block": "MediaJobRun",
    "prices": "Price",
    "providers.hidream": "StylizedVideo",
    "providers.jenius": "LivePoster",
    "providers.protocol": "GenerationRequest PreparedRequest",
    "providers.tokenops": "Detection JimengVideo OmniHumanVideo Recognition",
    "providers.tokenops.subjects": "SubjectSelection",
    "providers.tokenops.tasks": "detect_subjects recognize_subject select_subject",
    "settings": "GenMediaSettings current_settings",
    "tasks": "check_inputs download_result prune_ledger reconcile_ledger settle_job submit_job wait_for_job",
}
"""The lazy names by the module below this package that has them. The imports for type checkers above say the same."""

_HOME_OF = {name: f"{__name__}.{home}" for home, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


_compat.install()
