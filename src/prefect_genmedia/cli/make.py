"""`prefect-genmedia make KIND`: one result of any kind, without a flow and without a Prefect server."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Annotated, Any
from uuid import uuid4

from cyclopts import App, Group, Parameter
from cyclopts.validators import Number
from rich.markup import escape

from prefect_genmedia._core.ledger import open_ledger
from prefect_genmedia._core.model import Job
from prefect_genmedia._core.pipeline import run_job
from prefect_genmedia._core.session import JobSpec, RunContext
from prefect_genmedia._media.storage import anywhere
from prefect_genmedia._prefect.links import watch_urls
from prefect_genmedia._prefect.run import label_of
from prefect_genmedia._prefect.session import session_of
from prefect_genmedia.cli.console import Switch, Tag, command_console, print_facts
from prefect_genmedia.cli.credentials import credentials_at_hand
from prefect_genmedia.cli.fields import request_fields, request_options
from prefect_genmedia.cli.prompt import confirm_in_terminal
from prefect_genmedia.cli.waiting import CommandHooks, RepeatedSteps, shown_bar
from prefect_genmedia.prices import CURRENCY, amount_of
from prefect_genmedia.providers.plugin import kinds, make_request, plugin_named
from prefect_genmedia.providers.protocol import GenerationRequest
from prefect_genmedia.settings import current_settings
from prefect_genmedia.text import json_text

app = App(name="make", group_parameters=Group("Options", sort_key=10))

SCOPE = "command-line"
"""What bounds "the same request" where no idempotency key is given: all that is made by this command."""


@dataclass(frozen=True, kw_only=True)
class MakeOptions:
    """The options that each kind has.

    Args:
        output: folder, file name or URL.
        credentials: name of the Block.
        label: a few words for people.
        idempotency_key: what makes two requests the same; None for all of this command's.
        variant: tells apart several results of the same request.
        timeout_seconds: how long to wait.
        max_cost: most CNY that it may cost.
        project: whom it is paid for.
        tags: further words to group jobs by.
        confirm_above: CNY above which is asked; None takes the setting.
        yes: whether the answer is yes.
        as_json: whether JSON is printed.
    """

    output: str
    credentials: str
    label: str
    idempotency_key: str | None
    variant: int
    timeout_seconds: float
    max_cost: Decimal | None
    project: str
    tags: tuple[str, ...]
    confirm_above: Decimal | None
    yes: bool
    as_json: bool


def _options(
    *,
    output: Annotated[str, Parameter(name=("--output", "-o"))] = ".",
    credentials: str = "default",
    label: str = "",
    idempotency_key: str | None = None,
    variant: Annotated[int, Parameter(validator=Number(gte=0))] = 0,
    timeout_seconds: Annotated[float, Parameter(validator=Number(gt=0))] = 1800.0,
    max_cost: Annotated[float | None, Parameter(validator=Number(gte=0))] = None,
    project: str = "",
    tag: Tag = (),
    confirm_above: Annotated[float | None, Parameter(validator=Number(gte=0))] = None,
    yes: Switch = False,
    as_json: Annotated[Switch, Parameter(name="--json")] = False,
) -> MakeOptions:
    """Read the options that each kind has.

    Parameters
    ----------
    output
        Folder, file name ending in .mp4, or fsspec URL of either.
    credentials
        Name of the credentials Block. Without one, or without a server, keys are taken from the environment variables
        that `blocks/documents.yaml` names.
    label
        A few words that name the request in `jobs list`.
    idempotency_key
        The same key and inputs mean the same paid result, in flows, too.
    variant
        1, 2, …: another result of the same request, which is paid again.
    timeout_seconds
        How long to wait, from when the provider accepted the job.
    max_cost
        Most CNY that the result may cost, estimated.
    project
        Whom the result is paid for, in `prefect-genmedia spend`; by default the credentials' project.
    tag
        A further word to group jobs by; may be given several times.
    confirm_above
        Ask before anything is sent that would cost more CNY than this, estimated, or has no price; the setting by
        default.
    yes
        Do not ask: it is confirmed.
    as_json
        Print JSON: the delivered file.
    """
    limit = None if max_cost is None else amount_of("max_cost", max_cost)
    return MakeOptions(
        output=output,
        credentials=credentials,
        label=label,
        idempotency_key=idempotency_key,
        variant=variant,
        timeout_seconds=timeout_seconds,
        max_cost=limit,
        project=project,
        tags=tag,
        confirm_above=None if confirm_above is None else amount_of("confirm_above", confirm_above),
        yes=yes,
        as_json=as_json,
    )


_OWN = inspect.signature(_options, eval_str=True).parameters
_TAKEN = frozenset(_OWN)


def _command(kind: str, model: type[GenerationRequest]) -> Callable[..., None]:
    """The command of a kind: its options are the request's fields, and those that each kind has."""

    def command(**given: Any) -> None:
        own = {name: value for name, value in given.items() if name in _TAKEN}
        fields = request_fields(model, _TAKEN, given)
        make(make_request(kind, fields).normalized(), _options(**own))

    options = [*request_options(model, _TAKEN), *_OWN.values()]
    command.__signature__ = inspect.Signature(options, return_annotation=None)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in options}
    first = (inspect.getdoc(model) or kind).partition("\n\n")[0]
    title = plugin_named(model.provider).title
    own_help = (inspect.getdoc(_options) or "").partition("\n\n")[2]
    command.__doc__ = f"{' '.join(first.split())} ({title})\n\n{own_help}"
    command.__name__ = kind
    return command


for _kind, _model in kinds().items():
    app.command(_command(_kind, _model), name=_kind)


def make(request: GenerationRequest, options: MakeOptions) -> None:
    """Make one result, and say where it is.

    Args:
        request: what is wanted.
        options: the command's options.
    """
    hooks = CommandHooks(command_console(stderr=True))
    job, was_there = asyncio.run(_made(request, options, hooks))
    assert job.delivery is not None  # a delivered job has one
    if options.as_json:
        print(json_text(job.delivery.model_dump(mode="json"), indent=2))  # noqa: T201 - for programs
        return
    print_facts(command_console(), _facts(job))
    if was_there:
        text = (
            f"It was made before, and nothing was paid for it now; --variant {options.variant + 1} makes another one."
        )
        command_console(stderr=True).print(f"[yellow]{escape(text)}[/]", highlight=False, soft_wrap=True)


async def _made(request: GenerationRequest, options: MakeOptions, hooks: CommandHooks) -> tuple[Job, bool]:
    """The delivered job, and whether it was submitted before."""
    settings = current_settings()
    block = await credentials_at_hand(request.provider, options.credentials)
    run = RunContext(root_run_id=f"command:{uuid4()}")
    inputs = request.inputs()
    spec = JobSpec(
        request,
        scope=run.scope(options.idempotency_key or SCOPE),
        variant=options.variant,
        label=options.label or (label_of(inputs[0].url) if inputs else ""),
        output=anywhere(options.output),
        timeout_seconds=options.timeout_seconds,
        max_cost=options.max_cost,
        project=options.project,
        tags=options.tags,
        confirm_above=settings.confirm_above if options.confirm_above is None else options.confirm_above,
    )
    async with block.client() as client, open_ledger(settings.ledger) as ledger:
        session = replace(await session_of(block, client, ledger, settings, hooks), run=run)
        await confirm_in_terminal(session, spec, options.yes)
        async with shown_bar(hooks):
            job = await run_job(session, spec, RepeatedSteps(hooks.say))
    return job, job.root_run_id != run.root_run_id


def _facts(job: Job) -> Mapping[str, str]:
    delivery = job.delivery
    assert delivery is not None
    sound = "with" if delivery.has_audio else "without"
    cost = f"about {job.estimated_cost:.2f} {CURRENCY} (estimate)" if job.estimated_cost else ""
    return {
        "File": delivery.uri,
        "Watch": " ".join(watch_urls(delivery)),
        "Video": f"{delivery.seconds:.2f} s · {delivery.width}×{delivery.height} · {delivery.codec} · {sound} sound",
        "SHA-256": delivery.sha256,
        "Job": f"{job.key} in the ledger, {job.shown_id} at {job.provider}",
        "Cost": cost,
    }
