"""`prefect-genmedia deploy`: everything that `deployments/` and `blocks/` declare, applied to a Prefect server."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import httpx
from cyclopts import Parameter
from prefect.exceptions import PrefectHTTPStatusError

from prefect_genmedia.cli.console import ProviderName, Switch, command_console, stop
from prefect_genmedia.cli.deployed import print_changes, print_next
from prefect_genmedia.cli.doctor import print_findings
from prefect_genmedia.cli.server import require_server
from prefect_genmedia.deploy import Change, Options, Outcome, apply
from prefect_genmedia.deploy.doctor import diagnose
from prefect_genmedia.errors import InvalidRequest

_WRONG = frozenset({Outcome.REFUSED, Outcome.INVALID})
_WRONG_IN_A_CHECK = frozenset(Outcome) - {Outcome.UNCHANGED, Outcome.ACCEPTED, Outcome.WORKING}


def deploy(
    *,
    pool: Annotated[str | None, Parameter(env_var="GENMEDIA_POOL")] = None,
    pool_type: str | None = None,
    image: Annotated[str | None, Parameter(env_var="GENMEDIA_IMAGE")] = None,
    output: Annotated[str | None, Parameter(env_var="GENMEDIA_OUTPUT")] = None,
    secrets: Path | None = None,
    alerts: Annotated[str | None, Parameter(env_var="GENMEDIA_ALERTS")] = None,
    provider: Annotated[tuple[ProviderName, ...], Parameter(negative="", show_default=False)] = (),
    check: Switch = False,
    prefect_file: Path | None = None,
    server_file: Path | None = None,
    automations_file: Path | None = None,
    documents_file: Path | None = None,
) -> None:
    """Apply to the server; what `--help` says of it stands in `cli/app.py`.

    Parameters
    ----------
    pool
        Work pool to deploy to; created where it is missing. By default the one that prefect.yaml names.
    pool_type
        Type of a pool that is created: process, docker, kubernetes, or another one that the server knows.
    image
        Image of containers, for pools that run them.
    output
        Where containers put files: an fsspec URL that all of them reach, such as s3://bucket/media.
    secrets
        TOML file with keys (`NAME = "…"`), in place of environment variables of those names.
    alerts
        Notification Block that automations send with, as TYPE/NAME, such as slack-webhook/team.
    provider
        Only this provider's deployments and credentials; may be given several times. By default all.
    check
        Change nothing: say what would be changed and what is missing, try the keys at the providers, for free, and
        show what `prefect-genmedia doctor` finds on this machine.
        Ends with status 1 unless everything is in place.
    prefect_file
        Your own prefect.yaml.
    server_file
        Your own server.yaml.
    automations_file
        Your own automations.yaml.
    documents_file
        Your own documents.yaml.
    """
    require_server()
    options = Options(
        pool=pool,
        pool_type=pool_type,
        image=image,
        output=output,
        secrets=secrets,
        alerts=alerts,
        providers=frozenset(provider),
        check=check,
        prefect_file=prefect_file,
        server_file=server_file,
        automations_file=automations_file,
        documents_file=documents_file,
    )
    changes: list[Change] = []
    problem = asyncio.run(_collect(options, changes))
    print_changes(command_console(), changes, check)
    if problem:
        stop(problem)
    if not check:
        print_next(command_console(), changes)
    found = asyncio.run(diagnose(options.checked)) if check else []
    print_findings(found)
    wrong = _WRONG_IN_A_CHECK if check else _WRONG
    if any(change.outcome in wrong for change in changes) or any(finding.step for finding in found):
        raise SystemExit(1)


async def _collect(options: Options, changes: list[Change]) -> str | None:
    """Gather what is done, and return the sentence about what stopped it."""
    try:
        async for change in apply(options):
            changes.append(change)  # noqa: PERF401 - what was done before a problem must be told
    except InvalidRequest as error:
        return error.message
    except PrefectHTTPStatusError as error:
        # The answer only: the request may have held a secret.
        return f"The Prefect server refused: HTTP {error.response.status_code} for {error.request.url.path}."
    except httpx.HTTPError as error:
        return f"The Prefect server does not answer: {type(error).__name__}."
    return None
