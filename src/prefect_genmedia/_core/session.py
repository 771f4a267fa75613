"""The session (one account's client, the ledger, the settings) and the options of a job."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from prefect_genmedia._core.accounts import AccountRecord
from prefect_genmedia._core.attribution import Attribution
from prefect_genmedia._core.caps import Caps, Facts
from prefect_genmedia._core.clock import SYSTEM_CLOCK, Clock
from prefect_genmedia._core.identity import Identities, identities_of
from prefect_genmedia._core.ledger import Ledger, Spend
from prefect_genmedia._core.listener import WaitListener
from prefect_genmedia._core.locks import share_locks
from prefect_genmedia._core.model import Job
from prefect_genmedia._core.polling import PollPolicy
from prefect_genmedia._inputs.inspect import InspectionResult, fetch_picture
from prefect_genmedia._inputs.prepare import prepared_url
from prefect_genmedia._inputs.publish import Publication
from prefect_genmedia._media.decoding import Level
from prefect_genmedia._media.storage import Target, target_at
from prefect_genmedia.prices import PriceTable
from prefect_genmedia.providers.inputs import MAX_PICTURE_BYTES
from prefect_genmedia.providers.plugin import ProviderPlugin, list_prices, plugin_named
from prefect_genmedia.providers.protocol import Account, GenerationRequest, PreparedRequest, ProviderClient

Logger = logging.Logger | logging.LoggerAdapter[Any]

_logger = logging.getLogger(__name__)


async def _never() -> float | None:
    return None


async def _go_on() -> None:
    pass


async def _unnamed() -> Attribution:
    return Attribution()


async def _local_target(output: str) -> Target:
    return target_at(output)


def _no_callback(job: Job) -> str | None:
    return None


@dataclass(frozen=True)
class RunContext:
    """The run that requests jobs.

    Args:
        flow_run_id: the flow run; None outside of flows.
        root_run_id: its root flow run, or the task run outside of flows.
        restarted_at: when a person last restarted that run, in seconds since 1970; None if nobody did. Automatic
            retries do not count.
        leave_if_suspended: called before the first byte of a submission. If the run was suspended, it raises the
            exception that ends the run in this process.
        attribution: the default project and tags of jobs: the names of the deployment and the flow.
    """

    flow_run_id: str | None = None
    root_run_id: str | None = None
    restarted_at: Callable[[], Awaitable[float | None]] = _never
    leave_if_suspended: Callable[[], Awaitable[None]] = _go_on
    attribution: Callable[[], Awaitable[Attribution]] = _unnamed

    async def retried_by_person(self) -> bool:
        """Whether a person restarted the root run, as opposed to an automatic retry."""
        return await self.restarted_at() is not None

    def scope(self, idempotency_key: str | None) -> str:
        """Returns the scope in which equal requests are the same: the user's key, or else the root run.

        Args:
            idempotency_key: the user's key, if one was given.
        """
        return f"key:{idempotency_key}" if idempotency_key else f"run:{self.root_run_id}"


class JobHooks:
    """Receives what a session reports about its jobs. This base class ignores it."""

    def event(self, what: str, job: Job, **payload: Any) -> None:
        """Called when something happened to a job that others may act on.

        Args:
            what: the last part of the event's name, such as `failed`.
            job: the job.
            **payload: further facts; no secrets.
        """

    def budget(self, what: str, facts: Facts) -> None:
        """Called when a cap of an account is nearly reached, or a job would exceed it; once each per period.

        Args:
            what: the last part of the event's name: `warning` or `reached`.
            facts: the cap, what is spent and reserved, and when the period ends.
        """

    def delivered(self, job: Job, made: bool) -> None:
        """Called when a job's files exist under their final names.

        Args:
            job: the delivered job.
            made: whether the files are new; False if they existed already.
        """

    async def detached(self, job: Job) -> None:
        """Called when the run was cancelled while it waited for a paid job.

        Args:
            job: the job, which continues at the provider.
        """

    def listener(self) -> WaitListener | None:
        """Returns the listener for a job's progress; None for none."""
        return None


@dataclass(frozen=True)
class Session:
    """What every step of the job lifecycle needs: the paying account, the ledger and the settings.

    Args:
        client: the client of the account that pays.
        ledger: where jobs are recorded.
        record: the account in the ledger; None if it is identified only by the client's key and base URL.
        allow_second_account: whether jobs may be sent although another account has the same request.
        run: the run that requests jobs.
        prices: estimated prices by `provider/model`. Every sum computed from them is an estimate.
        publication: where the user's local files are published for the provider to fetch.
        convert_inputs: whether the user's pictures are converted to formats that the provider accepts.
        verify: how its results are verified; None uses the setting of the output's target.
        max_in_flight: the maximum number of in-flight jobs of the account; None for no limit.
        caps: what the account may spend, from the Block in use.
        attribution: the Block's project and tags, for jobs without their own.
        is_batch: whether its jobs are rows of a batch; jobs of single runs are submitted before them.
        concurrency_limit: a Prefect global concurrency limit that each job of a flow holds; None for none.
        callback_url: returns the URL for a provider's callback about a job; None for no callback.
        default_output: folder or URL for files for which no output was given.
        target_of: resolves an output, which may name a storage Block.
        policy: how often jobs are polled.
        hooks: what is reported about the jobs.
        log: the run's logger.
        clock: the time source, also used to sleep.
        writable: the output folders that passed the write test; see `check_destination`.
    """

    client: ProviderClient
    ledger: Ledger
    record: AccountRecord | None = None
    allow_second_account: bool = False
    run: RunContext = field(default_factory=RunContext)
    prices: PriceTable = field(default_factory=list_prices)
    publication: Publication = field(default_factory=Publication)
    convert_inputs: bool = False
    verify: Level | None = None
    max_in_flight: int | None = None
    caps: Caps = field(default_factory=Caps)
    attribution: Attribution = field(default_factory=Attribution)
    is_batch: bool = False
    concurrency_limit: str | None = None
    callback_url: Callable[[Job], str | None] = _no_callback
    default_output: str = "."
    target_of: Callable[[str], Awaitable[Target]] = _local_target
    policy: PollPolicy = field(default_factory=PollPolicy)
    hooks: JobHooks = field(default_factory=JobHooks)
    log: Logger = _logger
    clock: Clock = SYSTEM_CLOCK
    writable: set[str] = field(default_factory=set, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Give the client access to the ledger's locks."""
        share_locks(self.client, self.ledger)

    @property
    def account(self) -> Account:
        """Who pays."""
        return self.client.account

    @property
    def tokens(self) -> tuple[str, ...]:
        """The account's identity tokens: the first is used for new identities, look-ups try all."""
        return self.record.tokens if self.record is not None else (str(self.account),)

    def identities(self, request: GenerationRequest | PreparedRequest[Any], scope: str, variant: int = 0) -> Identities:
        """Returns the identities that a requested result may have; see `identity_of`.

        Args:
            request: the request.
            scope: the scope in which equal requests are the same.
            variant: distinguishes several requested results of the same request.
        """
        tokens = self.tokens
        own_first = sorted(tokens, key=lambda token: token != str(self.account))
        found = dict(zip(own_first, identities_of(own_first, request, scope, variant), strict=True))
        return Identities(found[tokens[0]], tuple(found.values()))

    async def attributed(self, spec: JobSpec) -> Attribution:
        """Returns a job's attribution: from its spec, else from its account's Block, else from the names of the run.

        Args:
            spec: the job.
        """
        said = Attribution.of(spec.project, spec.tags).over(self.attribution)
        return said if said.project else said.over(await self.run.attribution())

    def paying(self, job: Job) -> Job:
        """Returns the job with this account set, whichever key reserved it. Pace and slots are counted per account.

        Args:
            job: a job that is about to be sent.
        """
        return job if self.record is None else job.model_copy(update={"account_id": self.record.id or None})

    @property
    def submissions_per_minute(self) -> float | None:
        """The account's pace; None for no limit. Clients of other packages may not define one."""
        pace: float | None = getattr(self.client, "submissions_per_minute", None)
        return pace

    @property
    def plugin(self) -> ProviderPlugin:
        """The provider's plug-in."""
        return plugin_named(self.account.provider)

    async def public_url(self, url: str, field: str) -> str:
        """Returns a URL from which the provider can fetch an input: the input's own, or that of a published copy.

        Args:
            url: the location of the user's input.
            field: the field's name, for error messages.

        Raises:
            InvalidRequest: the input does not exist, or cannot be published.
        """
        return await prepared_url(url, field, self.client.fetch_rules, self.publication, self.convert_inputs)

    async def fetch_picture(self, url: str, max_bytes: int = MAX_PICTURE_BYTES) -> bytes:
        """Returns the content of a picture, such as a mask.

        Args:
            url: an http or https URL.
            max_bytes: a larger picture is refused.

        Raises:
            ProviderError: the picture cannot be fetched.
        """
        return await fetch_picture(url, self.client.fetch_rules, max_bytes)


DEFAULT_TIMEOUT_SECONDS = 1800.0
"""Default timeout in seconds: the providers' examples stop after 600 s, but long jobs take longer."""


@dataclass(frozen=True)
class JobSpec:
    """All options of one job: the request, which result of it, and how it is submitted, awaited and delivered.

    Args:
        request: the request.
        scope: the scope in which equal requests are the same: a root flow run's id, or an idempotency key.
        variant: distinguishes several requested results of the same request.
        label: a short human-readable name of the request.
        output: a folder, a file name ending in .mp4, or a storage URL of either; None for the session's default.
        timeout_seconds: how long to wait for the result, in seconds from when the provider accepted the job.
        ask_again: whether an attempt that failed earlier may be followed by a new one.
        preflight: whether documented limits of the inputs are checked before anything is sent.
        allow_second_account: whether it may be sent although another account of the provider and base URL has the same
            request in flight or delivered.
        max_cost: the maximum estimated cost of the result in CNY, over all of its attempts; None for no limit.
        confirm_above: the estimated cost of the root run in CNY above which a person must confirm; None for no
            confirmation.
        spend: reserves the job's cost in the transaction that moves it to `sending`; None for no budget.
        inspected: inspection results of inputs that were inspected already, by URL.
        overwrite: whether a delivered file that the user has edited is replaced by the provider's file.
        project: the project that the job is charged to. It is not part of the identity and is not sent.
        tags: further words to group jobs by, likewise.
    """

    request: GenerationRequest
    scope: str
    variant: int = 0
    label: str = ""
    output: str | None = None
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
    ask_again: bool = True
    preflight: bool = True
    allow_second_account: bool = False
    max_cost: Decimal | None = None
    confirm_above: Decimal | None = None
    spend: Spend | None = None
    inspected: Mapping[str, InspectionResult] = field(default_factory=dict)
    overwrite: bool = False
    project: str = ""
    tags: Sequence[str] = ()
