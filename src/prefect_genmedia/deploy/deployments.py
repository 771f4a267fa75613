"""The deployments themselves: compared with what the server has, and replaced only where they differ."""

from __future__ import annotations

from typing import Any

from prefect import Flow
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import ConcurrencyOptions
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.exceptions import ObjectNotFound
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema

from prefect_genmedia import __version__
from prefect_genmedia._prefect.forms import plain_parameters
from prefect_genmedia.deploy.changes import Change, Outcome, compared
from prefect_genmedia.deploy.files import DeploymentSpec
from prefect_genmedia.errors import InvalidRequest


def load_flow(spec: DeploymentSpec) -> Flow[..., Any]:
    """The flow of a deployment.

    Raises:
        InvalidRequest: the entrypoint does not lead to a flow here.
    """
    try:
        return load_flow_from_entrypoint(spec.entrypoint, use_placeholder_flow=False)
    except Exception as error:
        raise InvalidRequest(f"Deployment {spec.name}: {spec.entrypoint} does not load: {error}") from error


async def apply_deployment(
    client: PrefectClient, spec: DeploymentSpec, pool: str, job_variables: dict[str, Any], dry: bool
) -> Change:
    """Create or replace a deployment; on the server, schedules stay as they were switched.

    Args:
        client: the server.
        spec: the deployment.
        pool: the work pool it is deployed to.
        job_variables: those of the pool's profile; the deployment's own go over them.
        dry: whether to look only.

    Raises:
        InvalidRequest: the flow does not load.
    """
    flow = load_flow(spec)
    spec = _plain(spec, flow)
    existing = await _existing(client, f"{flow.name}/{spec.name}")
    wanted = _wanted(spec, flow, pool, _over(job_variables, spec.work_pool.job_variables))
    outcome = compared(existing, existing is not None and _wanted_of(existing) == wanted)
    switches = {schedule.slug: schedule.active for schedule in existing.schedules} if existing else {}
    if outcome is not Outcome.UNCHANGED and not dry:
        await _write(client, spec, flow, wanted, switches, existing.paused if existing else None)
    off = tuple(each.slug for each in spec.schedules if not switches.get(each.slug, each.active))
    return Change("deployment", f"{flow.name}/{spec.name}", outcome, _schedules_in_words(spec, switches), off)


def _plain(spec: DeploymentSpec, flow: Flow[..., Any]) -> DeploymentSpec:
    """The deployment with the default for each parameter that is None, which the server would refuse in a run."""
    schedules = [
        each.model_copy(update={"parameters": plain_parameters(flow, each.parameters)}) for each in spec.schedules
    ]
    return spec.model_copy(update={"parameters": plain_parameters(flow, spec.parameters), "schedules": schedules})


def _over(profile: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """A deployment's own job variables over its pool's: `env` one by one, or its containers would lose the ledger."""
    merged = {**profile, **own}
    if isinstance(profile.get("env"), dict) and isinstance(own.get("env"), dict):
        merged["env"] = {**profile["env"], **own["env"]}
    return merged


async def _write(
    client: PrefectClient,
    spec: DeploymentSpec,
    flow: Flow[..., Any],
    wanted: dict[str, Any],
    switches: dict[str | None, bool],
    paused: bool | None,
) -> None:
    # The server takes this for an existing deployment too; it then replaces all schedules, so none is left over.
    given = {name: value for name, value in wanted.items() if name not in ("schedules", "concurrency")}
    limit = spec.concurrency_limit
    await client.create_deployment(
        flow_id=await client.create_flow_from_name(flow.name),
        name=spec.name,
        schedules=[each.to_create(switches.get(each.slug, each.active)) for each in spec.schedules],
        concurrency_limit=limit.limit if limit else None,
        concurrency_options=_concurrency_options(spec),
        paused=paused,
        **given,
    )


def _wanted(spec: DeploymentSpec, flow: Flow[..., Any], pool: str, job_variables: dict[str, Any]) -> dict[str, Any]:
    """What the server shall have; in the form that `_wanted_of` reads from it."""
    limit = spec.concurrency_limit
    options = _concurrency_options(spec)
    return {
        "version": __version__,
        "description": spec.description,
        "tags": sorted(spec.tags),
        "parameters": spec.parameters,
        "entrypoint": spec.entrypoint,
        "path": None,
        "pull_steps": [],
        "work_pool_name": pool,
        "work_queue_name": spec.work_pool.work_queue_name or "default",
        "job_variables": job_variables,
        "parameter_openapi_schema": parameter_schema(flow).model_dump_for_openapi(),
        "enforce_parameter_schema": True,
        "concurrency": (limit.limit, options.model_dump(mode="json") if options else None) if limit else None,
        "schedules": sorted(
            (each.slug, each.cron or str(each.interval), each.timezone, str(each.parameters)) for each in spec.schedules
        ),
    }


def _wanted_of(existing: DeploymentResponse) -> dict[str, Any]:
    limit = existing.global_concurrency_limit
    options = existing.concurrency_options
    return {
        "version": existing.version,
        "description": existing.description,
        "tags": sorted(existing.tags),
        "parameters": existing.parameters,
        "entrypoint": existing.entrypoint,
        "path": existing.path,
        "pull_steps": existing.pull_steps or [],
        "work_pool_name": existing.work_pool_name,
        "work_queue_name": existing.work_queue_name,
        "job_variables": existing.job_variables,
        "parameter_openapi_schema": existing.parameter_openapi_schema,
        "enforce_parameter_schema": existing.enforce_parameter_schema,
        "concurrency": (limit.limit, options.model_dump(mode="json") if options else None) if limit else None,
        "schedules": sorted(
            (each.slug or "", _when(each.schedule), str(each.schedule.timezone), str(each.parameters))
            for each in existing.schedules
            if isinstance(each.schedule, CronSchedule | IntervalSchedule)
        ),
    }


def _when(schedule: CronSchedule | IntervalSchedule) -> str:
    return schedule.cron if isinstance(schedule, CronSchedule) else str(schedule.interval)


def _concurrency_options(spec: DeploymentSpec) -> ConcurrencyOptions | None:
    limit = spec.concurrency_limit
    if limit is None:
        return None
    return ConcurrencyOptions.model_validate(limit.model_dump(exclude={"limit"}, exclude_none=True))


def _schedules_in_words(spec: DeploymentSpec, switches: dict[str | None, bool]) -> str:
    if not spec.schedules:
        return "on demand"
    return ", ".join(
        f"{each.slug} {'on' if switches.get(each.slug, each.active) else 'off'} ({each.cron or each.interval})"
        for each in spec.schedules
    )


async def _existing(client: PrefectClient, full_name: str) -> DeploymentResponse | None:
    try:
        return await client.read_deployment_by_name(full_name)
    except ObjectNotFound:
        return None
