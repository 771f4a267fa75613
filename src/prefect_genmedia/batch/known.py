"""Which jobs of the ledger are a batch's rows.

A row's identity has the user's own files by their bytes. Those of a storage behind a URL are not read for it in vain:
only where the ledger has jobs of the row's scope when the batch begins, of which each may be of a file's earlier bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from prefect_genmedia._core.attempts import chosen
from prefect_genmedia._core.clock import SYSTEM_CLOCK
from prefect_genmedia._core.identity import Identities
from prefect_genmedia._core.ledger import Ledger
from prefect_genmedia._core.model import Job
from prefect_genmedia._core.session import Session
from prefect_genmedia._inputs import identified
from prefect_genmedia.batch.rows import Row
from prefect_genmedia.providers.inputs import is_public, local_path
from prefect_genmedia.providers.protocol import GenerationRequest, PreparedRequest

_READ_AT_ONCE = 4


class Known:
    """The jobs of a batch's rows, as the ledger has them.

    Parameters:
        batch_id: the batch's name.
        rows: its rows.
        sessions: by provider.
        ledger: where the jobs are.
    """

    def __init__(self, batch_id: str, rows: Sequence[Row], sessions: Mapping[str, Session], ledger: Ledger) -> None:
        """Read nothing yet."""
        self._prefix = f"key:batch:{batch_id}:"
        self._rows = rows
        self._sessions = sessions
        self.ledger = ledger
        self._identities: dict[str, Identities] = {}
        self._found: dict[str, str] = {}
        self._reading = asyncio.Semaphore(_READ_AT_ONCE)

    def scope(self, row: Row) -> str:
        """What bounds "the same result" for a row, in every run."""
        return f"{self._prefix}{row.id}"

    def identity(self, row: Row) -> str | None:
        """The identity of the row's job in the ledger; None where that needs bytes which have not been read."""
        identities = self._identities_of(row)
        return None if identities is None else self._found.get(row.id, identities.new)

    async def begin(self) -> dict[str, Job]:
        """What earlier runs have left, by row id: one query for the whole batch, and the files it cannot do without."""
        jobs = await self._newest()
        scopes = {job.scope for job in jobs.values()}
        unread = [row for row in self._rows if self.identity(row) is None and self.scope(row) in scopes]
        await asyncio.gather(*map(self._read, unread))
        return self._of_rows(jobs)

    async def look(self) -> dict[str, Job]:
        """What there is now, by row id; nothing but the ledger is read."""
        return self._of_rows(await self._newest())

    async def newest(self, row: Row) -> Job | None:
        """The last attempt at a row."""
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
            identities = self._identities_of(row)
            if identities is None:  # what had no job when the batch began can only have this batch's
                job = by_scope.get(self.scope(row))
            else:
                its = [jobs[identity] for identity in identities.lookup if identity in jobs]
                job = chosen(identities, its, SYSTEM_CLOCK.now())
            if job is not None:
                found[row.id] = job
                self._found[row.id] = job.identity
        return found

    async def _read(self, row: Row) -> None:
        rules = self._sessions[row.request.provider].client.fetch_rules
        async with self._reading:
            self._identities[row.id] = self._made(row, await identified(row.request, rules))

    def _identities_of(self, row: Row) -> Identities | None:
        if row.id not in self._identities and not _needs_reading(row.request):
            self._identities[row.id] = self._made(row, row.request)
        return self._identities.get(row.id)

    def _made(self, row: Row, request: GenerationRequest | PreparedRequest[GenerationRequest]) -> Identities:
        return self._sessions[request.provider].identities(request, self.scope(row))


def _needs_reading(request: GenerationRequest) -> bool:
    """Whether a file is behind a storage's URL; what is on this machine is read where the identity is made."""
    urls = (each.url for each in request.inputs())
    return any(not is_public(url) and not url.startswith("data:") and local_path(url) is None for url in urls)


def _last_in_scope(jobs: Mapping[str, Job]) -> dict[str, Job]:
    return {job.scope: job for job in sorted(jobs.values(), key=lambda job: job.created_at)}
