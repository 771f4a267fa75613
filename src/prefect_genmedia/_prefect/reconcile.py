"""Tasks about what was paid for and left behind: taking it up, and what a person decides."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from anyio import to_thread
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from prefect_genmedia._core.accounts import learn_accounts, resolve_account
from prefect_genmedia._core.ledger import Ledger, open_ledger
from prefect_genmedia._core.locks import share_locks
from prefect_genmedia._core.model import AT_PROVIDER, Job, JobState
from prefect_genmedia._core.reconcile import Finding, Surroundings, reconcile
from prefect_genmedia._media.storage import remove_stale_here
from prefect_genmedia._prefect.assets import tell_assets
from prefect_genmedia._prefect.cards import publish_reconcile_table
from prefect_genmedia._prefect.environment import lasting_place
from prefect_genmedia._prefect.run import emit_job_event
from prefect_genmedia._prefect.session import credentials_types
from prefect_genmedia._prefect.suspension import resume_run_of, standing_of, wake_sleepers
from prefect_genmedia._prefect.targets import target_of
from prefect_genmedia.providers.credentials import ProviderCredentials
from prefect_genmedia.providers.plugin import loaded_parts
from prefect_genmedia.providers.protocol import ProviderClient
from prefect_genmedia.settings import current_settings


async def reconcile_all(credentials: Sequence[str]) -> list[Finding]:
    """Deliver the jobs whose runs are gone, closest expiry first, and list those that need a person.

    Parameters:
        credentials: names of credentials Blocks, of any provider; a job is taken up with the one of its account.

    Returns:
        What was found and done, one entry a job.
    """
    settings = current_settings()
    logger = get_run_logger()
    blocks = await _stored_blocks(credentials)
    findings = []
    async with open_ledger(settings.ledger) as ledger:
        await ledger.transact(learn_accounts)  # of workers of earlier versions

        @asynccontextmanager
        async def client_for(job: Job) -> AsyncIterator[ProviderClient | None]:
            for block in blocks:
                if block.provider != job.provider:  # its trouble is none of this job's
                    continue
                async with block.client() as client:
                    share_locks(client, ledger)
                    account = await resolve_account(ledger, client.account, block.name_of_account, strict=False)
                    if account.pays_for(job.account):
                        yield client
                        return
            yield None

        folder = await lasting_place(None, settings)
        await _remove_stale(ledger, folder)
        around = Surroundings(client_for, standing_of, resume_run_of, target_of, folder, flow_run.id)
        async for finding in reconcile(ledger, around):
            findings.append(finding)
            logger.info("Job %s (%s): %s", finding.job.shown_id, finding.job.key, finding.action)
            if finding.job.state is JobState.DELIVERED:
                emit_job_event("delivered", finding.job, reconciled=True)
                tell_assets(finding.job)
        await publish_reconcile_table(findings)
        for name in await wake_sleepers(ledger):
            logger.info("Run %s slept although its job has news, and was resumed", name)
    await _reconcile_plugins()
    return findings


async def _remove_stale(ledger: Ledger, default_output: str) -> None:
    """Remove staged files of processes that are gone, where the jobs that are not delivered go."""
    jobs = await ledger.jobs({JobState.SENDING, *AT_PROVIDER, JobState.UNDELIVERABLE})
    removed = 0
    for output in {default_output, *(job.output for job in jobs if job.output)}:
        try:
            target = await target_of(output)
            removed += await to_thread.run_sync(target.storage.remove_stale)
        except Exception as error:  # whatever a storage raises: the jobs behind it must be collected
            get_run_logger().warning("Stale files of an output cannot be removed: %s", type(error).__name__)
    removed += await to_thread.run_sync(remove_stale_here)
    if removed:
        get_run_logger().info("Removed %d staged files of processes that are gone", removed)


async def _reconcile_plugins() -> None:
    """What the plug-ins do at the end of a reconcile. What was reconciled stays so, whatever one of them does."""
    logger = get_run_logger()
    for name, hook in loaded_parts("reconcile").items():
        try:
            for line in await hook():
                logger.info(line)
        except Exception:
            logger.exception("The provider plug-in %r failed in its part of reconcile", name)


async def _stored_blocks(names: Sequence[str]) -> list[ProviderCredentials]:
    found: list[ProviderCredentials] = []
    for block_type in credentials_types().values():
        for name in names:
            try:
                block = await block_type.aload(name)
            except ValueError:  # this provider has no Block of that name
                continue
            assert isinstance(block, ProviderCredentials)  # tells the type checker
            found.append(block)
    if not found:
        # Not a failure: a fresh server has no jobs either, and a job without credentials is reported as such.
        get_run_logger().warning("No credentials Block is named %s", " or ".join(map(repr, names)))
    return found
