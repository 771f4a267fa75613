"""Finds the jobs of a batch's rows in the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence

from prefect_genmedia._core.attempts import Asker, batch_scope, chosen, next_attempt, step_scope
from prefect_genmedia._core.clock import SYSTEM_CLOCK
from prefect_genmedia._core.identity import Identities, follows_version_1
from prefect_genmedia._core.ledger import Ledger
from prefect_genmedia._core.model import TAKEN, Delivery, Job, JobState
from prefect_genmedia._core.regenerate import fix_variants, next_variants, standing_variant
from prefect_genmedia._core.same_request import job_by_url
from prefect_genmedia._core.session import Session
from prefect_genmedia._inputs import identified
from prefect_genmedia.batch.chain import identified_step
from prefect_genmedia.batch.rows import Row
from prefect_genmedia.errors import GenMediaError
from prefect_genmedia.providers.inputs import AS_GIVEN, is_public, local_path
from prefect_genmedia.providers.protocol import GenerationRequest, PreparedRequest

_READ_AT_ONCE = 4

StepJobs = tuple[Job, ...]
"""The jobs of a row's steps, from the first step to the last one that has a job. A single row has one step."""


def current_step(row: Row, jobs: StepJobs) -> tuple[int, Job | None]:
    """Returns the step that a run of the row works on, from 1, and its job; the steps before it are delivered.

    Args:
        row: the row.
        jobs: the jobs of its steps.
    """
    if not jobs:
        return 1, None
    is_next = jobs[-1].state is JobState.DELIVERED and len(jobs) < row.steps
    return (len(jobs) + 1, None) if is_next else (len(jobs), jobs[-1])


def is_delivered(row: Row, jobs: StepJobs) -> bool:
    """Whether the last step of a row is delivered.

    Args:
        row: the row.
        jobs: the jobs of its steps.
    """
    return len(jobs) == row.steps and jobs[-1].state is JobState.DELIVERED and jobs[-1].delivery is not None


def step_to_begin(row: Row, jobs: StepJobs) -> int:
    """Returns the first step that a run of the row comes to, from 1.

    The step before the current one makes sure that the input of the current one is there. A job that the provider has
    does not need it any more.

    Args:
        row: the row.
        jobs: the jobs of its steps.
    """
    number, current = current_step(row, jobs)
    needs_input = number > 1 and (current is None or current.state not in TAKEN)
    return number - 1 if needs_input else number


def steps_to_submit(row: Row, jobs: StepJobs, asker: Asker, now: float) -> range:
    """Returns the steps of a row that a run would send: the current one, and all after it.

    Args:
        row: the row.
        jobs: the jobs of its steps.
        asker: the requesting run.
        now: seconds since 1970.
    """
    number, known = current_step(row, jobs)
    is_sent = next_attempt(known, asker, now) is not None
    if not is_sent and known is not None and known.state not in TAKEN:
        return range(0)  # nothing follows it
    return range(number + (not is_sent), row.steps + 1)


class Known:
    """The ledger's jobs for the rows of a batch.

    Args:
        batch_id: the batch's name.
        rows: its rows.
        sessions: the sessions, by provider.
        ledger: where jobs are recorded.
        scope: the scope of the only row; empty for rows of a batch.
    """

    def __init__(
        self, batch_id: str, rows: Sequence[Row], sessions: Mapping[str, Session], ledger: Ledger, scope: str = ""
    ) -> None:
        self._own_scope = scope
        self._prefix = scope or batch_scope(batch_id)
        self._rows = rows
        self._sessions = sessions
        self.ledger = ledger
        self._identities: dict[str, Identities] = {}
        self._anew: dict[str, int] = {}
        self._variants: dict[str, int] = {}
        self._jobs_by_scope: dict[str, list[Job]] = {}
        self._found: dict[str, str] = {}
        self._reading = asyncio.Semaphore(_READ_AT_ONCE)

    def scope(self, row: Row, number: int = 1) -> str:
        """Returns the scope of a row's step, which is the same in every run.

        Args:
            row: the row.
            number: the step, from 1.
        """
        return step_scope(self._own_scope or f"{self._prefix}{row.id}", number)

    def identity(self, row: Row) -> str | None:
        """Returns the identity of the row's job in the ledger; None if it depends on files that have not been read."""
        identities = self._identities_of(row)
        return None if identities is None else self._found.get(row.id, identities.new)

    async def step_identities(self, row: Row, number: int, before: Delivery) -> Identities:
        """Returns the identities of a step after the first. Its input counts by the digest of what was delivered.

        Args:
            row: the row.
            number: the step, from 2.
            before: the file of the step before.
        """
        request = row.requests[number - 1]
        session = self._sessions[request.provider]
        prepared = await identified_step(request, before.uri, before.sha256, session.client.fetch_rules)
        return session.identities(prepared, self.scope(row, number), self.variant(row))

    async def begin(
        self, anew: Collection[str] = (), root_run_id: str = "", *, fix: bool = True
    ) -> dict[str, StepJobs]:
        """Returns the jobs of earlier runs, by row id. Makes one query for the batch, and reads only required files.

        Args:
            anew: ids of the rows that this run regenerates.
            root_run_id: the root flow run.
            fix: whether to record their variants in the ledger; False for a dry run.
        """
        jobs = await self._newest()
        for job in jobs.values():
            self._jobs_by_scope.setdefault(job.scope, []).append(job)
        if anew:
            scopes = {self.scope(row): row.id for row in self._rows if row.id in anew}
            known = {scope: self._highest_variant(scope) for scope in scopes}
            variants = await (fix_variants if fix else next_variants)(self.ledger, known, root_run_id)
            self._anew = {row_id: variants[scope] for scope, row_id in scopes.items()}
        known_rows = (row for row in self._rows if self.scope(row) in self._jobs_by_scope)
        unread = [row for row in known_rows if self.identity(row) is None]
        await asyncio.gather(*map(self._read, unread))
        self._jobs_by_scope.clear()
        return await self._of_steps(jobs)

    async def renew(self, rows: Sequence[Row], requesters: Mapping[str, str]) -> dict[str, StepJobs]:
        """Let rows have another variant from now on; returns the jobs of the variants' steps, by row id.

        Args:
            rows: the rows.
            requesters: the name under which each row's variant is recorded, by row id; see `fix_variants`.
        """
        for row in rows:
            scope = self.scope(row)
            jobs = [job for job in (await self.ledger.newest_in(scope)).values() if job.scope == scope]
            highest = max((job.variant for job in jobs), default=0)
            self._anew.update({row.id: (await fix_variants(self.ledger, {scope: highest}, requesters[row.id]))[scope]})
            self._identities.pop(row.id, None)
            self._found.pop(row.id, None)
            if _needs_reading(row.request):
                await self._read(row)
        found = await self.look()
        return {row.id: found[row.id] for row in rows if row.id in found}

    def is_anew(self, row: Row) -> bool:
        """Whether this run regenerates the row."""
        return row.id in self._anew

    def variant(self, row: Row) -> int:
        """Returns the variant of the row that this run requests: that of its last job, or a new one."""
        return self._anew.get(row.id) or self._variants.get(row.id, 0)

    def _last_variant(self, row: Row, request: GenerationRequest | PreparedRequest[GenerationRequest]) -> int:
        """The variant whose job counts as the row's; see `standing_variant`."""
        jobs, now, newest = self._jobs_by_scope.get(self.scope(row), ()), SYSTEM_CLOCK.now(), {}
        if not any(job.variant for job in jobs):
            return 0
        for variant in {job.variant for job in jobs}:
            identities = self._sessions[row.provider].identities(request, self.scope(row), variant)
            if (job := chosen(identities, jobs, now)) is not None:
                newest[variant] = job
        return standing_variant(newest, now)

    def _highest_variant(self, scope: str) -> int:
        return max((job.variant for job in self._jobs_by_scope.get(scope, ())), default=0)

    async def look(self) -> dict[str, StepJobs]:
        """Returns the current jobs by row id; reads only the ledger, and further inputs of chains."""
        return await self._of_steps(await self._newest())

    async def newest(self, row: Row, number: int = 1, before: Delivery | None = None) -> Job | None:
        """Returns the last attempt at a step of a row.

        Args:
            row: the row.
            number: the step, from 1.
            before: the file of the step before; None for the first step.
        """
        identities = self._identities_of(row) if before is None else await self.step_identities(row, number, before)
        if identities is not None:
            return await self.ledger.newest_of(identities)
        jobs = await self.ledger.newest_in(self.scope(row))
        return _last_in_scope(jobs).get(self.scope(row))

    async def _of_steps(self, jobs: Mapping[str, Job]) -> dict[str, StepJobs]:
        """Returns the jobs of every row's steps. Only a delivered file tells which job is that of the next step."""
        scopes = {job.scope for job in jobs.values()}
        found: dict[str, StepJobs] = {row_id: (job,) for row_id, job in self._of_rows(jobs).items()}
        for row in self._rows if any(row.then for row in self._rows) else ():
            for number in range(2, row.steps + 1):
                before = found[row.id][-1] if row.id in found else None
                if before is None or before.delivery is None or self.scope(row, number) not in scopes:
                    break
                identities = await self.step_identities(row, number, before.delivery)
                its = [jobs[identity] for identity in identities.lookup if identity in jobs]
                job = chosen(identities, its, SYSTEM_CLOCK.now())
                if job is None:
                    break
                found[row.id] = (*found[row.id], job)
        return found

    async def _newest(self) -> dict[str, Job]:
        return await self.ledger.newest_in(self._prefix)

    def _of_rows(self, jobs: Mapping[str, Job]) -> dict[str, Job]:
        by_scope = _last_in_scope(jobs)
        found = {}
        for row in self._rows:
            if self.scope(row) not in by_scope:
                continue  # an identity includes the row's scope, so none of these jobs belongs to the row
            identities = self._identities_of(row)
            if identities is None:  # a row without a job when the batch began can only have a job of this batch
                job = by_scope.get(self.scope(row))
            else:
                its = [jobs[identity] for identity in identities.lookup if identity in jobs]
                job = chosen(identities, its, SYSTEM_CLOCK.now())
            if job is not None:
                found[row.id] = job
                self._found[row.id] = job.identity
        return found

    async def _read(self, row: Row) -> None:
        session = self._sessions[row.provider]
        async with self._reading:
            known = await identified(row.request, session.client.fetch_rules)
            identities = self._made(row, known)
            try:
                joined = await job_by_url(session, known, self.scope(row), self.variant(row))
            except GenMediaError:  # the row itself will fail with this error
                joined = None
            self._identities[row.id] = identities if joined is None else Identities(joined.identity, (joined.identity,))

    def _identities_of(self, row: Row) -> Identities | None:
        if row.id not in self._identities and not _needs_reading(request := row.request):
            self._identities[row.id] = self._made(row, request)
        return self._identities.get(row.id)

    def _made(self, row: Row, request: GenerationRequest | PreparedRequest[GenerationRequest]) -> Identities:
        if row.id not in self._anew and (variant := self._last_variant(row, request)):
            self._variants[row.id] = variant
        return self._sessions[row.provider].identities(request, self.scope(row), self.variant(row))


def _needs_reading(request: GenerationRequest) -> bool:
    """Whether an input is behind a storage URL, or a URL may have another identity in the ledger.

    Local files are read when the identity is computed.
    """
    if not follows_version_1(request, AS_GIVEN):
        return True
    urls = (each.url for each in request.inputs())
    return any(not is_public(url) and not url.startswith("data:") and local_path(url) is None for url in urls)


def _last_in_scope(jobs: Mapping[str, Job]) -> dict[str, Job]:
    return {job.scope: job for job in sorted(jobs.values(), key=lambda job: job.created_at)}
