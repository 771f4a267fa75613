"""Supervises a split batch: one run per shard, restarted if it was lost, and one common table of results.

Nothing is paid twice, even if a shard's run is lost: the rows' scope is the batch's, so another run of the same shard,
even a concurrent one, joins the jobs in the ledger.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterIdempotencyKey,
)
from prefect.client.schemas.objects import Artifact, FlowRun
from prefect.deployments import arun_deployment
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Cancelling, Crashed

from prefect_genmedia._core.model import AT_PROVIDER, JobState
from prefect_genmedia._media.storage import anywhere
from prefect_genmedia.batch.accounts import names_of
from prefect_genmedia.batch.known import StepJobs, current_step, is_delivered
from prefect_genmedia.batch.result import IN_FLIGHT, INVALID, NOT_SENT
from prefect_genmedia.batch.row_runs import link_rows
from prefect_genmedia.batch.scheduler import BatchScheduler
from prefect_genmedia.batch.shards import (
    END_KEY,
    HEARTBEAT_KEY,
    Shard,
    ShardEnd,
    ShardTarget,
    deployment_for,
    refused,
    shards_of,
    share_of,
)
from prefect_genmedia.batch.spec import BatchSpec, ShardJob
from prefect_genmedia.errors import BatchIncomplete

if TYPE_CHECKING:
    from prefect_genmedia.batch.runner import OpenBatch

CHECK_SECONDS = 2.0
"""Interval between two checks of the shards' runs, in seconds."""

STALLED_SECONDS = 90.0
"""A run that has not updated its progress bar for this long, in seconds, is stalled: nine heartbeats."""

STARTING_SECONDS = 600.0
"""How long a run may take from its start by a worker to its first heartbeat, in seconds; includes image pulls."""

MOST_STARTS = 3
"""Maximum number of runs per shard."""

_MOST_RUNS = 100
"""Maximum number of runs of one shard that one flow run may start, including its restarts."""

_LEDGER_SHARE = 20
"""Reading the ledger takes at most a twentieth of the time, however many rows there are."""

_UNDER_WAY = AT_PROVIDER | {JobState.RESERVED, JobState.SENDING}

_ENDED = frozenset({JobState.DELIVERED, JobState.FAILED, JobState.UNKNOWN, JobState.ABANDONED})
"""States in which another run of the shard has nothing to do for a row, unless it may send another attempt."""


@dataclass
class Kept:
    """One shard and its current run."""

    shard: Shard
    parameters: dict[str, Any]
    lives: int = 0
    run_id: UUID | None = None
    earlier: list[UUID] = field(default_factory=list)
    """Every run of the shard, in any start of this flow run."""
    heartbeat: object = None
    """When its progress bar was last updated, by the server's clock; used only to detect changes."""
    reported_at: float = 0.0
    """When `heartbeat` last changed, by this process's monotonic clock."""
    end: ShardEnd | None = None

    def is_stalled(self, now: float) -> bool:
        """Whether its run has stalled."""
        return now - self.reported_at > (STARTING_SECONDS if self.heartbeat is None else STALLED_SECONDS)


@dataclass
class ShardSupervisor:
    """Runs every shard of a batch to its end, and collects the rows' results.

    Args:
        run: the whole batch; this process runs only its canary rows.
        deployment: the deployment to run.
        shards: every shard with rows, and the parameters of its run.
    """

    run: BatchScheduler
    deployment: UUID
    shards: Sequence[Kept]
    _read_next: float = float("-inf")

    async def go(self) -> None:
        """Run the canary rows in this process, then all shards; the results and the run's `stop` hold the outcome.

        Raises:
            CancelledError: the batch was cancelled, and so were the shards' runs; their jobs continue at the providers.
        """
        await self.run.go_ahead()
        if self.run.stop is not None:
            return
        before = dict(self.run.known)
        try:
            async with get_client() as client:
                for kept in self.shards:
                    await self._begin(client, kept)
                while open_ones := [kept for kept in self.shards if kept.end is None]:
                    await asyncio.sleep(CHECK_SECONDS)
                    try:
                        await self._check(client, open_ones)
                        await self._read(before)
                    except Exception as error:  # the shards continue while the server or the ledger does not answer
                        get_run_logger().warning(
                            "The state of the shards cannot be read now: %s: %s", type(error).__name__, error
                        )
                        self._forgive(open_ones)
        except BaseException:
            await asyncio.shield(asyncio.ensure_future(self._cancel()))
            raise
        await self._finish()
        if self.run.has_task_runs:
            standing = {row.id for row in self.run.rows if is_delivered(row, before.get(row.id, ()))}
            await link_rows(self.run.results, [run for kept in self.shards for run in kept.earlier], standing)

    async def _begin(self, client: PrefectClient, kept: Kept) -> None:
        """Start a run for the shard, or take over a run that an earlier start of this flow run created."""
        kept.lives += 1
        keys = [f"{flow_run.id}:{kept.shard.number}/{kept.shard.of}:{number}" for number in range(1, _MOST_RUNS + 1)]
        earlier = await client.read_flow_runs(
            flow_run_filter=FlowRunFilter(idempotency_key=FlowRunFilterIdempotencyKey(any_=keys))
        )
        kept.earlier = [run.id for run in earlier]
        alive = [run for run in earlier if run.state is not None and not run.state.is_final()]
        if not alive and (end := await self._end_of(client, kept, earlier)) is not None:
            self._close(kept, end)
            return
        used = {run.idempotency_key for run in earlier}
        fresh = next((key for key in keys if key not in used), keys[-1])
        run = alive[0] if alive else await self._started(client, kept, fresh)
        kept.run_id, kept.heartbeat, kept.reported_at = run.id, None, time.monotonic()
        kept.earlier.append(run.id)
        get_run_logger().info("Batch %s: %s is run %s", self.run.name, kept.shard, run.name)

    async def _end_of(self, client: PrefectClient, kept: Kept, earlier: Sequence[FlowRun]) -> ShardEnd | None:
        """Returns the end of a shard that earlier runs have completed; None if work is left.

        The ledger decides: rows may have been added since, or may be requested again.
        """
        ends = await _artifacts(client, END_KEY, [run.id for run in earlier]) if earlier else {}
        if not ends:
            return None
        end = ShardEnd.read(max(ends.values(), key=_when))
        if end.stop is not None:
            return None
        jobs = await self.run.jobs.look()
        mine = (current_step(row, jobs.get(row.id, ()))[1] for row in self.run.rows if kept.shard.has(row.id))
        is_done = all(job and job.state in _ENDED and self.run.next_attempt(job) is None for job in mine)
        return end if is_done else None

    async def _started(self, client: PrefectClient, kept: Kept, key: str) -> FlowRun:
        return await arun_deployment(
            self.deployment,
            client,
            parameters=kept.parameters,
            flow_run_name=f"batch · {self.run.name} · {kept.shard}",
            timeout=0,
            idempotency_key=key,
        )

    async def _check(self, client: PrefectClient, open_ones: Sequence[Kept]) -> None:
        """Check which shards have ended, and restart those whose run was lost."""
        ids = [kept.run_id for kept in open_ones if kept.run_id is not None]
        # Read the runs first: their artifacts exist before they end.
        runs = {run.id: run for run in await client.read_flow_runs(flow_run_filter=_these(ids))}
        heartbeats = await _artifacts(client, HEARTBEAT_KEY, ids)
        ended = [run.id for run in runs.values() if run.state and run.state.is_final()]
        ends = await _artifacts(client, END_KEY, ended) if ended else {}
        now = time.monotonic()
        for kept in open_ones:
            run = runs.get(kept.run_id) if kept.run_id else None
            end, heartbeat = ends.get(run.id if run else None), heartbeats.get(run.id if run else None)
            if end is not None:
                self._close(kept, ShardEnd.read(end))
                continue
            if heartbeat is not None and heartbeat.updated != kept.heartbeat:
                kept.heartbeat, kept.reported_at = heartbeat.updated, now
            if run is not None and run.state is not None and run.state.is_scheduled():
                kept.reported_at = now  # it waits for a worker, which may take any time
            if (why := why_lost(kept, run, now)) is not None:
                await self._restart(client, kept, run, why)

    async def _restart(self, client: PrefectClient, kept: Kept, run: FlowRun | None, why: str) -> None:
        if run is not None and run.state is not None and not run.state.is_final():
            await client.set_flow_run_state(run.id, Crashed(message=f"{why}; another run goes on."), force=True)
        if kept.lives >= MOST_STARTS:
            stop = BatchIncomplete(f"The runs of {kept.shard} were lost {kept.lives} times; the last one {why}.")
            self._close(kept, ShardEnd(stop))
            return
        get_run_logger().warning("The run of %s %s: another one goes on", kept.shard, why)
        await self._begin(client, kept)

    def _close(self, kept: Kept, end: ShardEnd) -> None:
        kept.end = end
        if end.stop is None:
            get_run_logger().info("Batch %s: %s is done", self.run.name, kept.shard)
            return
        get_run_logger().error("Batch %s: %s stopped: %s", self.run.name, kept.shard, end.stop.message)
        self.run.stop = self.run.stop or end.stop

    async def _read(self, before: dict[str, StepJobs]) -> None:
        """Update the results while the shards run."""
        begun = time.monotonic()
        if begun < self._read_next:
            return
        jobs = await self.run.jobs.look()
        for row in self.run.rows:
            now, known = jobs.get(row.id, ()), before.get(row.id, ())
            _, current = current_step(row, now)
            is_as_before = [job.updated_at for job in now] == [job.updated_at for job in known]
            if not now or (is_as_before and self.run.next_attempt(current) is not None):
                continue  # not its turn yet
            self.run.take(row, now)
            if current is None or current.state in _UNDER_WAY:
                self.run.results.of(row.id).state = IN_FLIGHT
        self._read_next = time.monotonic() + _LEDGER_SHARE * (time.monotonic() - begun)

    async def _finish(self) -> None:
        """Set every row's final result: from the ledger, and from what only the row's shard reported."""
        left_out = {result.id for result in self.run.results.all() if result.state == INVALID}
        jobs = await self.run.jobs.look()
        for row in self.run.rows:
            self.run.take(row, jobs.get(row.id, ()))
        for kept in self.shards:
            for row_id, reported in (kept.end or ShardEnd()).rows.items():
                if row_id in left_out:
                    continue
                result = self.run.results.of(row_id)
                result.error_kind, result.error_message = reported.error_kind, reported.error_message
                if reported.state == NOT_SENT:
                    result.state = NOT_SENT

    async def _cancel(self) -> None:
        """Cancel the shards' runs. Their submitted jobs continue, and the next run joins them."""
        async with get_client() as client:
            for kept in self.shards:
                if kept.end is None and kept.run_id is not None:
                    try:
                        await client.set_flow_run_state(kept.run_id, Cancelling(message="The batch was stopped."))
                    except Exception as error:  # the others must be tried, too
                        get_run_logger().warning("The run of %s cannot be cancelled: %s", kept.shard, error)

    @staticmethod
    def _forgive(open_ones: Sequence[Kept]) -> None:
        """Restart the stall timers: while the server was unreachable from here, it may have been so for the shards."""
        for kept in open_ones:
            kept.reported_at = time.monotonic()


async def supervisor_of(batch: OpenBatch, spec: BatchSpec) -> ShardSupervisor:
    """Prepare the supervision of a split batch.

    Args:
        batch: the whole batch.
        spec: its options.

    Raises:
        InvalidRequest: the batch cannot be split in this way; nothing was submitted.
    """
    if spec.sharding.shard is not None:
        raise refused("shards", "cannot be split again")
    run = batch.scheduler
    shards = [
        shard
        for shard in shards_of(spec.sharding.shards, await run.jobs.ledger.fingerprint(), batch.unfit)
        if any(shard.has(row.id) for row in run.rows)
    ]
    target = await deployment_for(len(shards), spec.sharding.deployment)
    kept = [Kept(shard, _parameters(_job_of(batch, spec, shard), target)) for shard in shards]
    return ShardSupervisor(run, target.id, kept)


def _job_of(batch: OpenBatch, spec: BatchSpec, shard: Shard) -> ShardJob:
    """Returns a shard's job: its share of the rows, the slots and the budget."""
    is_read = isinstance(spec.table, str)
    return ShardJob(
        shard=shard,
        table=anywhere(str(spec.table)) if is_read else [dict(row) for row in shard.part_of(batch.fit)],
        kind=spec.kind,
        credentials=names_of(spec.credentials),
        batch_id=batch.name,
        output=batch.scheduler.output,
        max_in_flight=share_of(spec.limits.max_in_flight, shard),
        breaker=spec.limits.breaker,
        timeout_seconds=spec.limits.timeout_seconds,
        concurrency_limit=spec.limits.concurrency_limit,
        prices=dict(spec.money.prices) if spec.money.prices is not None else None,
        max_jobs=spec.money.max_jobs,
        max_cost=spec.money.max_cost,
        budget=spec.money.budget or batch.name,
        budget_period=spec.money.period,
        budget_per_account=spec.money.per_account,
        overwrite=spec.overwrite,
        convert_inputs=spec.convert_inputs,
        verify=spec.verify,
        quality=batch.scheduler.quality.mode,
        quality_checks=list(batch.scheduler.quality.checks),
        only=None if spec.only is None else [row.id for row in batch.rows if shard.has(row.id)],
        encoding=spec.encoding,
        project=spec.attribution.project,
        tags=list(spec.attribution.tags),
        row_task_runs="on" if batch.scheduler.has_task_runs else "off",
        reverify=spec.reverify,
    )


def _parameters(job: ShardJob, target: ShardTarget) -> dict[str, Any]:
    """Converts the job to parameters of the flow that runs the shards: `generate_shard` or `generate_batch`."""
    # Workers of earlier versions have none of these parameters.
    unsaid = {name for name in ("project", "tags") if not getattr(job, name)}
    unsaid |= {"quality", "quality_checks"} if job.quality == "off" else set()
    values = job.model_dump(mode="json", exclude=unsaid)
    if target.takes_job:
        return {"job": values}
    given = {name: value for name, value in values.items() if value is not None}  # the form does not allow null
    return given | {"skip_invalid": True, "preflight": False}


def why_lost(kept: Kept, run: FlowRun | None, now: float) -> str | None:
    """Returns why a shard without an end must be restarted; None while its run may be alive.

    Args:
        kept: the shard.
        run: its run from the server; None if the server has none.
        now: the current time of the monotonic clock, in seconds.
    """
    if run is None or run.state is None:
        return "is gone"
    if run.state.is_final():
        return f"ended {run.state.name} before its end"
    if kept.is_stalled(now):
        return f"gave no sign of life for {now - kept.reported_at:.0f} s"
    return None


def _these(ids: Sequence[UUID]) -> FlowRunFilter:
    return FlowRunFilter(id=FlowRunFilterId(any_=list(ids)))


async def _artifacts(client: PrefectClient, key: str, ids: Sequence[UUID]) -> dict[UUID | None, Artifact]:
    """Returns the last artifact with this key of each run."""
    wanted = ArtifactFilter(key=ArtifactFilterKey(any_=[key]), flow_run_id=ArtifactFilterFlowRunId(any_=list(ids)))
    found: dict[UUID | None, Artifact] = {}
    for artifact in await client.read_artifacts(artifact_filter=wanted):
        known = found.get(artifact.flow_run_id)
        if known is None or _when(artifact) > _when(known):
            found[artifact.flow_run_id] = artifact
    return found


def _when(artifact: Artifact) -> datetime:
    when = artifact.updated or artifact.created
    assert when is not None  # the server sets it on every artifact
    return when
