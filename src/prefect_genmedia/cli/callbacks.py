"""`prefect-genmedia callbacks`: the receiver as a process, telling Prefect of what it hears."""

from __future__ import annotations

import uvicorn
from rich.console import Console

from prefect_genmedia.callbacks import callback_app
from prefect_genmedia.jobs.model import Job
from prefect_genmedia.settings import current_settings
from prefect_genmedia.tasks.support import emit_job_event
from prefect_genmedia.tasks.suspend import resume_run_of


def serve_callbacks(host: str, port: int, console: Console) -> int:
    """Serve until interrupted; returns the exit status.

    Parameters:
        host: address to listen on.
        port: port to listen on.
        console: where to say what happens.
    """
    settings = current_settings()
    if settings.callback_secret is None:
        console.print("[red]Set PREFECT_INTEGRATIONS_GENMEDIA_CALLBACK_SECRET to a long random text first.[/]")
        return 2

    async def heard(job: Job, words: str) -> None:
        if job.notified_at is None:
            emit_job_event("notified", job, provider_status=words)
        await resume_run_of(job)

    app = callback_app(settings.ledger, settings.callback_secret.get_secret_value(), heard)
    # Access logs would hold the tokens of the paths.
    uvicorn.run(app, host=host, port=port, access_log=False, log_level="warning")
    return 0
