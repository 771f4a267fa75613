"""The Prefect tasks: one per provider call, each usable alone in anyone's flow."""

from prefect_genmedia._prefect.checks import check_inputs
from prefect_genmedia._prefect.jobs import download_result, submit, wait_for_job
from prefect_genmedia._prefect.reconcile import reconcile_ledger, settle_job
from prefect_genmedia.providers.tokenops.tasks import detect_subjects, recognize_subject, select_subject

__all__ = [
    "check_inputs",
    "detect_subjects",
    "download_result",
    "recognize_subject",
    "reconcile_ledger",
    "select_subject",
    "settle_job",
    "submit",
    "wait_for_job",
]
