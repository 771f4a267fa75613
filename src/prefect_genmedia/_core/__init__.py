"""The job lifecycle: ledger, submit once, wait, deliver. Provider-neutral, without Prefect."""

from prefect_genmedia._core.deliver import deliver
from prefect_genmedia._core.ledger import Ledger, open_ledger
from prefect_genmedia._core.model import Delivery, Job, JobState
from prefect_genmedia._core.polling import PollPolicy, wait_for_job
from prefect_genmedia._core.session import JobHooks, JobSpec, RunContext, Session
from prefect_genmedia._core.submit import submit_once

__all__ = [
    "Delivery",
    "Job",
    "JobHooks",
    "JobSpec",
    "JobState",
    "Ledger",
    "PollPolicy",
    "RunContext",
    "Session",
    "deliver",
    "open_ledger",
    "submit_once",
    "wait_for_job",
]
