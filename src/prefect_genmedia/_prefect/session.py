"""Opens sessions inside Prefect runs. Only this module loads a Block and opens its client and the ledger.

Flows and tasks take a Block or its name, never a secret. This module also pauses accounts and emits the event."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Union

from prefect.client.orchestration import get_client
from prefect.events import emit_event
from prefect.exceptions import ObjectNotFound
from prefect.settings import get_current_settings

from prefect_genmedia._core.account_admin import pause_account, resume_account
from prefect_genmedia._core.accounts import AccountRecord, learn_accounts, resolve_account
from prefect_genmedia._core.attribution import Attribution
from prefect_genmedia._core.callback_url import callback_url
from prefect_genmedia._core.caps import Caps, remember_caps
from prefect_genmedia._core.ledger import Ledger, open_ledger
from prefect_genmedia._core.locks import share_locks
from prefect_genmedia._core.model import Job
from prefect_genmedia._core.pipeline import submitted_job
from prefect_genmedia._core.polling import PollPolicy
from prefect_genmedia._core.reconcile import ClientFor
from prefect_genmedia._core.session import JobHooks, Session
from prefect_genmedia._inputs.publish import Publication
from prefect_genmedia._prefect.environment import run_logger, warn_of_ephemeral_ledger
from prefect_genmedia._prefect.run import RunHooks, run_context
from prefect_genmedia._prefect.targets import target_of
from prefect_genmedia.errors import CredentialsError
from prefect_genmedia.prices import PriceTable, limit_in_micros, price_table
from prefect_genmedia.providers.credentials import ProviderCredentials
from prefect_genmedia.providers.plugin import list_prices, loaded_parts, plugin_named
from prefect_genmedia.providers.protocol import ProviderClient
from prefect_genmedia.settings import GenMediaSettings, current_settings

CALLBACK_POLL_SECONDS = 0.5
"""Interval at which a wait checks the ledger for the provider's callback, in seconds."""


@asynccontextmanager
async def open_session(
    provider: str, credentials: ProviderCredentials | str, hooks: JobHooks | None = None
) -> AsyncIterator[Session]:
    """Open an account's client and the ledger, according to the settings, for the running flow or task.

    Args:
        provider: the provider's name.
        credentials: the provider's Block, or its name.
        hooks: receives reports about the jobs; None for logs and events of the run.

    Raises:
        CredentialsError: there is no such Block, or it belongs to another provider.
        AccountConflict: the Block's name and its key belong to two accounts of the ledger.
    """
    settings = current_settings()
    block = await load_credentials(provider, credentials)
    async with block.client() as client, open_ledger(settings.ledger) as ledger:
        yield await session_of(block, client, ledger, settings, hooks)


@asynccontextmanager
async def open_session_of(
    job: Job | str, credentials: ProviderCredentials | str, hooks: JobHooks | None = None
) -> AsyncIterator[tuple[Session, Job]]:
    """Open the session of a job's account; yields the session and the job's current state from the ledger.

    Args:
        job: the job, its key, or its provider id.
        credentials: the provider's Block, or its name.
        hooks: receives reports about the job; None for logs and events of the run.

    Raises:
        InvalidRequest: the ledger has no such job, or it was not submitted.
        CredentialsError: there is no such Block, or it belongs to another provider.
    """
    settings = current_settings()
    async with open_ledger(settings.ledger) as ledger:
        found = await submitted_job(ledger, job)
        block = await load_credentials(found.provider, credentials)
        async with block.client() as client:
            yield await session_of(block, client, ledger, settings, hooks, sends=False), found


async def session_of(
    block: ProviderCredentials,
    client: ProviderClient,
    ledger: Ledger,
    settings: GenMediaSettings,
    hooks: JobHooks | None = None,
    sends: bool = True,
) -> Session:
    """Returns a session from an open client and ledger.

    Args:
        block: the account's Block.
        client: its client.
        ledger: the ledger.
        settings: the settings.
        hooks: receives reports about the jobs; None for logs and events of the run.
        sends: whether the session may submit. If False, it only waits and delivers, even if the account is ambiguous.

    Raises:
        AccountConflict: the Block's name and its key belong to two accounts of the ledger.
    """
    await warn_of_ephemeral_ledger(settings)
    record, caps = await resolve_account(ledger, client.account, block.name_of_account, strict=sends), caps_of(block)
    if sends:
        await remember_caps(ledger, record, caps)
    return Session(
        client=client,
        ledger=ledger,
        record=record,
        allow_second_account=settings.allow_second_account,
        run=run_context(),
        prices=prices_of(settings),
        publication=publication_of(settings),
        max_in_flight=block.max_in_flight,
        caps=caps,
        attribution=Attribution.of(getattr(block, "project", ""), getattr(block, "tags", ())),
        concurrency_limit=block.concurrency_limit,
        callback_url=lambda job: _callback_url(settings, job),
        default_output=settings.media_folder,
        target_of=target_of,
        policy=poll_policy(settings),
        hooks=hooks or RunHooks(),
        log=run_logger(),
    )


def publication_of(settings: GenMediaSettings) -> Publication:
    """Returns where users' local files are published, according to the settings."""
    secret = settings.publish_authorization
    return Publication(
        settings.publish_url,
        settings.publish_seconds,
        settings.publish_base_url,
        secret.get_secret_value() if secret else None,
    )


def caps_of(block: ProviderCredentials) -> Caps:
    """Returns a Block's caps; a Block of another package may not have these fields.

    Args:
        block: the Block.
    """
    day, month = getattr(block, "max_cost_per_day", None), getattr(block, "max_cost_per_month", None)
    return Caps(
        block=block._block_document_name or "",
        day_micros=None if day is None else limit_in_micros(day),
        month_micros=None if month is None else limit_in_micros(month),
        day_jobs=getattr(block, "max_jobs_per_day", None),
        time_zone=getattr(block, "budget_time_zone", None) or "UTC",
    )


def prices_of(settings: GenMediaSettings) -> PriceTable:
    """Returns the estimated prices: the providers' list prices, overridden by the user's prices.

    Args:
        settings: the settings.
    """
    return price_table(list_prices(), settings.prices)


def poll_policy(settings: GenMediaSettings) -> PollPolicy:
    """Returns how often jobs are polled, according to the settings.

    Args:
        settings: the settings.
    """
    return PollPolicy(
        shortest=settings.poll_shortest_seconds,
        longest=settings.poll_longest_seconds,
        watch_callback=CALLBACK_POLL_SECONDS if settings.callback_url else None,
    )


def _callback_url(settings: GenMediaSettings, job: Job) -> str | None:
    if settings.callback_url is None or settings.callback_secret is None:
        return None
    return callback_url(settings.callback_url, settings.callback_secret.get_secret_value(), job)


async def pause(ledger: Ledger, account: str, reason: str = "") -> AccountRecord:
    """Pause an account and emit `genmedia.account.paused`; see `pause_account`.

    Args:
        ledger: where accounts are recorded.
        account: its id or one of its names.
        reason: why.
    """
    record = await pause_account(ledger, account, reason)
    _emit("paused", record)
    return record


async def resume(ledger: Ledger, account: str) -> AccountRecord:
    """Resume an account and emit `genmedia.account.resumed`; see `resume_account`.

    Args:
        ledger: where accounts are recorded.
        account: its id or one of its names.
    """
    record = await resume_account(ledger, account)
    _emit("resumed", record)
    return record


def _emit(what: str, record: AccountRecord) -> None:
    if not get_current_settings().api.url:
        return  # without a server, Prefect would start a temporary one, which nobody would read
    emit_event(
        event=f"genmedia.account.{what}",
        resource={
            "prefect.resource.id": f"genmedia.account.{record.id}",
            "prefect.resource.name": record.names[0] if record.names else record.id,
            "genmedia.provider": record.provider,
        },
        payload={"by": record.paused_by, "reason": record.pause_reason},
    )


def credentials_types() -> dict[str, type[ProviderCredentials]]:
    """Returns the Block type of each provider whose plug-in can be loaded, by the provider's name."""
    return loaded_parts("credentials")


if TYPE_CHECKING:
    AnyCredentials = ProviderCredentials
else:
    # A run form offers only stored Blocks of the types that a parameter names, not of their common base.
    AnyCredentials = Union[tuple(credentials_types().values()) or (ProviderCredentials,)]  # noqa: UP007 - of a tuple


def stored_clients(ledger: Ledger, names: Sequence[str] = ()) -> ClientFor:
    """Opens the client of a job's account with a stored Block that has one of the account's keys.

    Args:
        ledger: where accounts are recorded.
        names: names of credentials Blocks; empty for every stored one of the job's provider.
    """

    @asynccontextmanager
    async def client_for(job: Job) -> AsyncIterator[ProviderClient | None]:
        await ledger.transact(learn_accounts)  # of workers of earlier versions
        blocks = []
        for name in names or await _block_names(job.provider):
            with suppress(CredentialsError):  # the name may be one of another provider's Block
                blocks.append(await load_credentials(job.provider, name))
        async with client_of(ledger, job, blocks) as client:
            yield client

    return client_for


@asynccontextmanager
async def client_of(
    ledger: Ledger, job: Job, blocks: Sequence[ProviderCredentials]
) -> AsyncIterator[ProviderClient | None]:
    """Open the client of the account that pays for a job; yields None if no Block has one of the account's keys.

    Args:
        ledger: where accounts are recorded.
        job: the job.
        blocks: credentials, of any provider.
    """
    for block in blocks:
        if block.provider != job.provider:  # its errors do not concern this job
            continue
        async with block.client() as client:
            share_locks(client, ledger)
            account = await resolve_account(ledger, client.account, block.name_of_account, strict=False)
            if account.pays_for(job.account):
                yield client
                return
    yield None


async def _block_names(provider: str) -> list[str]:
    slug = plugin_named(provider).credentials_type().get_block_type_slug()
    async with get_client() as prefect:
        try:
            documents = await prefect.read_block_documents_by_type(slug)
        except ObjectNotFound:  # no Block of the type was ever saved
            return []
    return [document.name for document in documents if document.name]


async def load_credentials(provider: str, credentials: ProviderCredentials | str) -> ProviderCredentials:
    """Returns the Block; loads it if only its name is given.

    Args:
        provider: the provider that it must belong to.
        credentials: a Block, or the name of a stored one.

    Raises:
        CredentialsError: there is no such Block, or it belongs to another provider.
    """
    block_type = plugin_named(provider).credentials_type()
    if isinstance(credentials, str):
        try:
            loaded = await block_type.aload(credentials)
        except ValueError:
            raise CredentialsError(
                f"There is no {block_type.get_block_type_slug()} Block named {credentials!r}.",
                next_step=f"create it in the UI under Blocks, or in code with {block_type.__name__}(…).save(…).",
            ) from None
        assert isinstance(loaded, ProviderCredentials)  # for the type checker
        return loaded
    if credentials.provider != provider:
        raise CredentialsError(f"{type(credentials).__name__} does not open {provider}.")
    return credentials
