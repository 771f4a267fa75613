"""What the field tests of tables share: a batch of cheap rows, and what a run of it has shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

from prefect_genmedia import TokenOpsCredentials, errors
from prefect_genmedia._core import Ledger
from prefect_genmedia.batch import BatchReport
from prefect_genmedia.flows.batch import generate_batch

MODEL = "jimeng-video-3.0-720P"


class Tables:
    """Runs tables of Jimeng rows.

    Args:
        credentials: who pays.
        folder: where everything is.
    """

    def __init__(self, credentials: TokenOpsCredentials, folder: Path) -> None:
        self.credentials = credentials
        self.folder = folder

    def file(self, name: str, content: bytes | str) -> str:
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    async def run(self, table: Any, kind: str = "jimeng", **options: Any) -> BatchReport:
        options = {"batch_id": "lakes", "output": str(self.folder / "out"), **options}
        return await generate_batch(table, kind, self.credentials, **options)

    async def plan(self, table: Any, kind: str = "jimeng", **options: Any) -> BatchReport:
        return await self.run(table, kind, dry_run=True, **options)

    async def problems(self, table: Any, kind: str = "jimeng", **options: Any) -> str:
        """What a dry run refuses the table for."""
        try:
            await self.plan(table, kind, **options)
        except errors.InvalidRequest as refusal:
            return "\n".join(map(str, refusal.problems))
        return ""

    async def requests(self, ledger: Ledger) -> dict[str, dict[str, Any]]:
        """What was asked for, by row id."""
        return {job.label: dict(job.request) for job in await ledger.jobs()}


async def artifact(key: str) -> str:
    """The newest artifact with a key, as text."""
    async with get_client() as client:
        found = await client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])))
    newest = max(found, key=lambda each: each.created)
    return str(newest.data)
