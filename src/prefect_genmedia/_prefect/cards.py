"""Artifacts of a run in the Prefect UI, such as a card for each delivered file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone

from anyio import to_thread
from prefect.artifacts import acreate_markdown_artifact, acreate_table_artifact
from prefect.runtime import deployment, flow_run

from prefect_genmedia._core.attempts import agreed_step
from prefect_genmedia._core.clock import SYSTEM_CLOCK
from prefect_genmedia._core.model import TAKEN, Delivery, Job, JobState, Rerun
from prefect_genmedia._core.reconcile import Finding
from prefect_genmedia._prefect.frames import strip_of, thumbnail
from prefect_genmedia._prefect.links import watch_urls
from prefect_genmedia._prefect.markdown import Cell, bullets, cell, code, escape, link, link_cell, linked, prose
from prefect_genmedia._prefect.targets import read_file
from prefect_genmedia.errors import GenMediaError
from prefect_genmedia.providers.plugin import kinds
from prefect_genmedia.text import BULLET, counted, cut_at_word, needing_person, shown_id

_NEW_RUN = "start a new run with other inputs (*Copy to new run*); *Retry* would send the same ones."

_IN_UI = {
    "InvalidRequest": _NEW_RUN,
    "NoSubject": _NEW_RUN,
    "InputRefused": _NEW_RUN,
    "CredentialsError": "correct the Block under *Blocks*, then {retry}.",
    "SubmissionUnknown": (
        "look into the provider's console for a job of that minute. Under *Deployments* run `decide-job/decide` with "
        "job {job}: *adopt* it with its id at the "
        "provider, *resubmit* or *abandon* it. Then {retry}."
    ),
    "JobTimeout": "nothing, where `reconcile-jobs/reconcile` is on: it delivers the file. Or, later, {retry}.",
    "BudgetStop": "start a new run with the same table and `batch_id`, and with a larger limit (*Copy to new run*).",
    "BatchIncomplete": "start a new run with the same table and `batch_id` (*Copy to new run*).",
}
"""The next step for an error, by its name, in terms of the UI; for other errors, retry the run."""

_MAYBE_PAID = TAKEN | {JobState.UNKNOWN}

LONGEST_CELL = 90
"""Maximum characters of a fact's value in a table, so that it fits into a window of usual width."""

DESCRIPTION_CHARACTERS = 300
"""Maximum characters of an artifact's description: the UI shows it on one or two lines."""

CARD_POSTER_WIDTH = 320
"""Width in pixels: the artifact's text contains the picture, which is kept to about 20 kB."""


async def publish_result_card(job: Job, delivery: Delivery) -> None:
    """Show a delivered file on its run's page: four frames, a link to play it, facts, request and location.

    Args:
        job: the file's job.
        delivery: the file.
    """
    picture = await strip_of(delivery)
    if picture is None and delivery.poster_uri:
        content = await read_file(delivery.poster_uri)
        picture = await to_thread.run_sync(thumbnail, content, CARD_POSTER_WIDTH) if content else None
    await acreate_markdown_artifact(
        key=f"genmedia-{job.kind}",
        markdown=result_card(job, delivery, picture),
        description=escape(f"{job.kind} · {job.label}"),
    )


async def publish_detached_card(job: Job) -> None:
    """Show on a stopped run's page that its job continues at the provider."""
    await acreate_markdown_artifact(
        key=f"genmedia-{job.kind}",
        markdown=(
            f"# {escape(job.label or job.kind)}: stopped, not lost\n\n"
            f"Job {code(job.shown_id)} was accepted by {escape(job.provider)} and is paid. It lives on there: "
            f"run again with the same inputs, or let `reconcile_jobs` collect it.\n\n"
            f"{code(f'prefect-genmedia jobs show {job.key}')} shows it.\n"
        ),
        description=escape(f"{job.kind} · {job.label} · stopped, to be collected"),
    )


async def publish_failure_card(error: GenMediaError, job: Job | None = None, rerun: Rerun | None = None) -> None:
    """Show on a failed run's page what happened, what was paid, and what to do next.

    Args:
        error: the error of the run or of one of its tasks.
        job: the error's job, from the ledger.
        rerun: what a new request for the job's result does; None assumes that the job is the newest attempt.
    """
    if job is not None:
        rerun = rerun or job.rerun(SYSTEM_CLOCK.now())
    key, their_id = error.job_key or "none", shown_id(error.provider_job_id) or "no id"
    maybe_paid = job is not None and job.state in _MAYBE_PAID
    facts = {
        "Job": f"{code(key)} in the ledger, {code(their_id)} at the provider" if error.job_key else "",
        "Request": escape(f"{job.kind} · {job.label} · {job.model} at {job.provider}") if job is not None else "",
        "Sent": _moment(job.sent_at) if job is not None else "",
        "Provider's code": escape(error.code or ""),
        **(_paid_for(job) if job is not None else {}),
    }
    # Paragraphs, because the UI does not wrap text in tables.
    lines = [f"# {escape(error.kind)}", "", *_what_happened(error), ""]
    lines += ["## What was paid", "", escape(_sentence(error.paid)), ""]
    if job is not None and maybe_paid:
        lines += [f"Estimated cost: {_cost(job)}.", ""]
    lines += ["## What to do", "", f"- Here in the UI: {_in_ui(error, key)}"]
    if step := agreed_step(error, rerun):
        lines.append(f"- Elsewhere: {prose(_sentence(step.replace('{job}', key)))}")
    if job is not None and rerun is not None:
        lines.append(f"- The same request again: {_same_request(job, rerun)}")
    lines += ["", *_table(facts)]
    await acreate_markdown_artifact(
        key="genmedia-failure",
        markdown="\n".join(lines) + "\n",
        description=escape(cut_at_word(f"{error.kind}: {error.message}", DESCRIPTION_CHARACTERS)),
    )


async def publish_reconcile_table(findings: Sequence[Finding]) -> None:
    """Show what a reconcile did, and which jobs need a person."""
    rows = [
        {
            "needs a person": "yes" if finding.next_step else "",
            "job": cell(finding.job.key),
            "request": cell(f"{finding.job.kind} · {finding.job.label}"),
            "state": finding.job.state.value,
            "what was done": cell(finding.action),
            "file": _file_of(finding.job),
            "at the provider": cell(finding.job.shown_id),
            "next": cell(finding.next_step),
        }
        for finding in sorted(findings, key=lambda finding: not finding.next_step)
    ]
    await acreate_table_artifact(
        key="genmedia-reconcile",
        table=rows or [{"result": "every paid job is delivered or has a run that waits for it"}],
        description=f"{counted(len(rows), 'job')}, {needing_person(sum(bool(row['next']) for row in rows))}",
    )


def _what_happened(error: GenMediaError) -> list[str]:
    """Returns the error's message; if it lists several problems, a bullet for each."""
    first, *problems = error.message.split(BULLET)
    if not problems:
        return [escape(_sentence(error.message))]
    return [escape(first), "", *bullets(problems)]


def _file_of(job: Job) -> Cell:
    """Returns the link that plays a job's file; its path or URL if there is no link."""
    if job.delivery is None:
        return ""
    watch = watch_urls(job.delivery)
    return link_cell(watch[0]) if watch else cell(job.delivery.uri)


def _in_ui(error: GenMediaError, job: str) -> str:
    """Returns the next step for a person who has access only to the UI."""
    command = f"`prefect flow-run retry {flow_run.id} --entrypoint FLOW`, since it has no deployment"
    retry = "*Retry* this run" if deployment.id else f"retry this run with {command}"
    return _sentence(_IN_UI.get(error.kind, "{retry}").format(job=code(job), retry=retry))


def _same_request(job: Job, rerun: Rerun) -> str:
    """Explains the difference between a retry and a new run, which is not obvious."""
    if job.scope.startswith("key:"):
        key = "the same key (`idempotency_key`, or batch and row)"
        return f"A new run with the same inputs and {key} {rerun.value}."
    return f"A retry of this run {rerun.value}. A **new run** with the same inputs is a new request, and is paid again."


def result_card(job: Job, delivery: Delivery, picture: str | None) -> str:
    """Returns the card's Markdown.

    Args:
        job: the delivered job.
        delivery: its file.
        picture: four frames, or the poster frame, as a `data:` URI; None for no picture.
    """
    watch = watch_urls(delivery)
    sound = "with sound" if delivery.has_audio else "without sound"
    facts = {
        "File": link(delivery.uri),
        "Video": f"{delivery.seconds:.2f} s · {delivery.width}×{delivery.height} · {escape(delivery.codec)} · {sound}",
        "Size": f"{delivery.bytes / 1e6:.2f} MB",
        "SHA-256": code(delivery.sha256),
        "Model": escape(f"{job.model} at {job.provider}"),
        "Job": f"{code(job.shown_id)} at the provider, {code(job.key)} in the ledger",
        "Time": _timing(job),
        "Estimated cost": _cost(job),
        "Price": "" if job.price is None else f"{job.price:g} in {escape(job.provider)}'s own unit, as it reports",
        **_paid_for(job),
        "Left on the account": "" if job.points_remaining is None else f"{job.points_remaining:g}",
    }
    lines = [f"# {escape(f'{job.kind} · {job.label or job.key}')}", ""]
    if picture:
        lines += [f"![frames of the video]({picture})", ""]
    if watch:
        files = ["Play the video", *(f"file {number}" for number in range(2, len(watch) + 1))]
        lines += [" · ".join(map(linked, files, watch)), ""]
    asked = {
        escape(name): escape(value) for name, value in job.request.items() if name not in _technical_fields(job.kind)
    }
    lines += [*_table(facts), "", "## Request", "", *_table(asked)]
    return "\n".join(lines) + "\n"


def _technical_fields(kind: str) -> frozenset[str]:
    """Returns the request fields that are not shown to users; the model is shown with the job."""
    request = kinds().get(kind)
    return frozenset({"model"}) | (request.technical_fields if request is not None else frozenset())


def _table(facts: Mapping[str, str]) -> list[str]:
    """Returns a table of two columns, followed by the values that are too long for it: the UI does not wrap tables.

    Names and values are Markdown. The first fact is the table's header, because an empty header is shown as a bar.
    """
    shown = {name: value for name, value in facts.items() if value not in ("", "None")}
    rows = [f"| {name} | {value} |" for name, value in shown.items() if len(value) <= LONGEST_CELL]
    long = [f"\n**{name}**: {value}" for name, value in shown.items() if len(value) > LONGEST_CELL]
    return [*rows[:1], *(["| --- | --- |"] if rows else []), *rows[1:], *long]


def _timing(job: Job) -> str:
    if job.submitted_at is None or job.succeeded_at is None:
        return ""
    steps = {"queued": (job.submitted_at, job.running_at), "generating": (job.running_at, job.succeeded_at)}
    if job.running_at is None:
        steps = {"at the provider": (job.submitted_at, job.succeeded_at)}
    steps["until downloaded and verified"] = (job.succeeded_at, job.delivered_at)
    return ", ".join(f"{end - begin:.1f} s {step}" for step, (begin, end) in steps.items() if begin and end)


def _cost(job: Job) -> str:
    if job.estimated_cost is None:
        return f"not known: give a price of {code(f'{job.provider}/{job.model}')} in the setting `prices`"
    return f"{job.estimated_cost:.2f} {escape(job.currency)} by the price table; an estimate, not a bill"


def _paid_for(job: Job) -> dict[str, str]:
    return {"Project": escape(job.project or ""), "Tags": escape(job.tags or [])}


def _moment(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%d %H:%M:%S} UTC"


def _sentence(text: str) -> str:
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) or not text else ".")
