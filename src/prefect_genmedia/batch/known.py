"""Finds the jobs of a batch's rows in the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence

from prefect_genmedia._core.attempts import batch_scope, chosen
from prefect_genmedia._core.clock import SYSTEM_CLOCK
from prefect_genmedia._core.identity import Identities, follows_version_1
from prefect_genmedia._core.ledger import Ledger
from prefect_genmedia._core.model import Job
from prefect_genmedia._core.regenerate import fix_variants, next_variants, standing_variant
from prefect_genmedia._core.same_request import job_by_url
from prefect_genmedia._core.session import Session
from prefect_genmedia._inputs import identified
from prefect_genmedia.batch.rows import Row
from prefect_genmedia.errors import GenMediaError
from prefect_genmedia.providers.inputs import AS_GIVEN, is_public, local_path
from prefect_genmedia.providers.protocol import GenerationRequest, PreparedRequest

_READ_AT_ONCE = 4


class Known:
    """The ledger's jobs for the rows of a batch.

    Args:
        batch_id: the batch's name.
        rows: its rows.
        sessions: the sessions, by provider.
                ledger: where jobs are recorded.
    """

    def __init__(self, batch_id: str, rows: Sequence[Row], sessions: Mapping[str, Session], ledger: Ledger) -> None:
        self._prefix = batch_scope(batch_id)
        self._rows = rows
        self._sessions = sessions
        self.ledger = ledger
        self._identities: dict[str, Identities] = {}
        self._anew: dict[str, int] = {}
        self._variants: dict[str, int] = {}
        self._jobs_by_scope: dict[str, list[Job]] = {}
        self._found: dict[str, str] = {}
        self._reading = asyncio.Semaphore(_READ_AT_ONCE)

    def scope(self, row: Row) -> str:
        """Returns the scope of a row, which is the same in every run."""
        return f"{self._prefix}{row.id}"

    def identity(self, row: Row) -> str | None:
        """Returns the identity of the row's job in the ledger; None if it depends on files that have not been read."""
        identities = self._identities_of(row)
        return None if identities is None else self._found.get(row.id, identities.new)

    async def begin(self, anew: Collection[str] = (), root_run_id: str = "", *, fix: bool = True) -> dict[str, Job]:
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
            scopes = {f"{self._prefix}{row_id}": row_id for row_id in anew}
            known = {scope: self._highest_variant(scope) for scope in scopes}
            variants = await (fix_variants if fix else next_variants)(self.ledger, known, root_run_id)
            self._anew = {row_id: variants[scope] for scope, row_id in scopes.items()}
        known_rows = (row for row in self._rows if self.scope(row) in self._jobs_by_scope)
        unread = [row for row in known_rows if self.identity(row) is None]
        await asyncio.gather(*map(self._read, unread))
        self._jobs_by_scope.clear()
        return self._of_rows(jobs)

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

    async def look(self) -> dict[str, Job]:
        """Returns the current jobs by row id; reads only the ledger."""
        return self._of_rows(await self._newest())

    async def newest(self, row: Row) -> Job | None:
        """Returns the last attempt at a row."""
        identities = self._identities_of(row)
        if identities is not None:
            return await self.ledger.newest_of(identities)
        jobs = await self.ledger.newest_in(self.scope(row))
        return _last_in_scope(jobs).get(self.scope(row))

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
