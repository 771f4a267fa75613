"""The receiver of callbacks, ready-made: what it hears becomes a Prefect event, and wakes the run that sleeps."""

from __future__ import annotations

from starlette.applications import Starlette

from prefect_genmedia._core.model import Job
from prefect_genmedia._prefect.run import emit_job_event
from prefect_genmedia._prefect.suspension import resume_run_of
from prefect_genmedia.callbacks.app import callback_app
from prefect_genmedia.errors import FieldProblem, InvalidRequest
from prefect_genmedia.settings import current_settings


def callback_receiver() -> Starlette:
    """The receiver as an ASGI application, to serve or to mount; `prefect-genmedia callbacks` serves this one.

    It writes to the ledger of the settings and tells the Prefect server of `PREFECT_API_URL`. Mounted at `/genmedia`,
    the setting `callback_url` ends in `/genmedia`, too. Keep its paths out of access logs: they hold the jobs' tokens.

    Raises:
        InvalidRequest: the setting `callback_secret` is not set.
    """
    settings = current_settings()
    if settings.callback_secret is None:
        problem = "set PREFECT_INTEGRATIONS_GENMEDIA_CALLBACK_SECRET to a long random text first"
        raise InvalidRequest.of("The callback receiver", [FieldProblem("callback_secret", problem)])
    return callback_app(settings.ledger, settings.callback_secret.get_secret_value(), tell_prefect)


async def tell_prefect(job: Job, words: str) -> None:
    """Emit `genmedia.job.notified` for a job's first callback, and wake the run that sleeps for it, if one does.

    Parameters:
        job: the job as it was when the callback came.
        words: the provider's words for its state.
    """
    if job.notified_at is None:
        emit_job_event("notified", job, provider_status=words)
    await resume_run_of(job)
