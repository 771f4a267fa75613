"""What a run shows in the Prefect UI: a card for each delivered file."""

from __future__ import annotations

import base64
import io
from typing import Any

import fsspec
from anyio import to_thread
from PIL import Image
from prefect.artifacts import acreate_markdown_artifact

from prefect_genmedia.jobs.model import Delivery, Job

CARD_POSTER_WIDTH = 320
"""Pixels: the artifact's text holds the picture, so it is kept to some 20 kB."""


async def publish_result_card(job: Job, delivery: Delivery) -> None:
    """Show a delivered file on its run's page: poster frame, facts, request, where it is."""
    poster = await to_thread.run_sync(_poster_uri, delivery.poster_uri)
    await acreate_markdown_artifact(
        key=f"genmedia-{job.kind}",
        markdown=result_card(job, delivery, poster),
        description=f"{job.kind} · {job.label}",
    )


def result_card(job: Job, delivery: Delivery, poster: str | None) -> str:
    """The card's markdown.

    Parameters:
        job: the delivered job.
        delivery: its file.
        poster: the poster frame as a `data:` URI, or None.
    """
    sound = "with sound" if delivery.has_audio else "without sound"
    facts = {
        "File": _link(delivery.uri),
        "Video": f"{delivery.seconds:.2f} s · {delivery.width}×{delivery.height} · {delivery.codec} · {sound}",
        "Size": f"{delivery.bytes / 1e6:.2f} MB",
        "SHA-256": f"`{delivery.sha256}`",
        "Model": f"{job.model} at {job.provider}",
        "Job": f"`{job.provider_job_id}` at the provider, `{job.key}` in the ledger",
        "Time": _timing(job),
    }
    lines = [f"# {_cell(job.label or job.kind)}", ""]
    if poster:
        lines += [f"![poster frame]({poster})", ""]
    lines += ["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in facts.items() if value), ""]
    lines += ["## Request", "", "| | |", "| --- | --- |"]
    lines += [f"| {name} | {_cell(value)} |" for name, value in job.request.items() if value not in ("", [], None)]
    return "\n".join(lines) + "\n"


def _timing(job: Job) -> str:
    if job.submitted_at is None or job.succeeded_at is None:
        return ""
    total = job.succeeded_at - job.submitted_at
    if job.running_at is None:
        return f"{total:.1f} s at the provider"
    return f"{job.running_at - job.submitted_at:.1f} s queued, {job.succeeded_at - job.running_at:.1f} s generating"


def _link(uri: str) -> str:
    return f"[{uri}]({uri})" if uri.startswith(("http://", "https://")) else f"`{uri}`"


def _cell(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    for sign, escaped in (("|", "\\|"), ("<", "&lt;"), ("\n", " "), ("[", "\\[")):
        text = text.replace(sign, escaped)
    return text


def _poster_uri(uri: str | None) -> str | None:
    if uri is None:
        return None
    try:
        with fsspec.open(uri, "rb") as file, Image.open(file) as picture:
            picture.thumbnail((CARD_POSTER_WIDTH, CARD_POSTER_WIDTH * 2))
            output = io.BytesIO()
            picture.convert("RGB").save(output, "JPEG", quality=75)
    except OSError:
        return None  # the card is worth showing without it
    return "data:image/jpeg;base64," + base64.b64encode(output.getvalue()).decode()
