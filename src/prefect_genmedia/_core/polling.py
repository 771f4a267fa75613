"""Waits for a job: tolerates network failures, keeps its deadline, and never loses a paid job."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import anyio

from prefect_genmedia._core import telemetry
from prefect_genmedia._core.clock import SYSTEM_CLOCK, Clock
from prefect_genmedia._core.ledger import Ledger
from prefect_genmedia._core.listener import NullListener, WaitListener
from prefect_genmedia._core.model import Job, JobState
from prefect_genmedia._core.shared_polls import poll
from prefect_genmedia.errors import (
    CredentialsError,
    GenerationFailed,
    GenMediaError,
    JobExpired,
    JobTimeout,
    ProviderError,
    RateLimited,
)
from prefect_genmedia.providers.plugin import find_plugin
from prefect_genmedia.providers.protocol import Observation, Phase, ProviderClient
from prefect_genmedia.providers.results import is_media
from prefect_genmedia.providers.statuses import with_likely_phase

HEARTBEAT_SECONDS = 30.0
"""Interval of a waiting process's heartbeat, in seconds; see `reconcile`."""

MISSING_SECONDS = 180.0
"""How long a run keeps waiting while every poll returns "not found", in seconds. The job's state does not change: a
gateway that is being replaced, or a lagging replica, does not find existing jobs either."""

LAST_POLL_SECONDS = 5.0
"""How long before its end a wait makes its last poll, in seconds, or a tenth of its time: the answer takes time."""

SINGLE_POLL_SECONDS = 60.0
"""Timeout of the single poll of a wait whose deadline had passed before it began, in seconds."""

_ROUNDING = 1e-3


@dataclass(frozen=True)
class PollPolicy:
    """How often to poll. Times are in seconds.

    The interval grows with the elapsed time, so that a result is detected late by at most about `fraction` of the
    generation time, whether that is five seconds or ten minutes.

    Args:
        fraction: the interval, as a share of the time since the job was accepted.
        shortest: the minimum interval.
        longest: the maximum interval, once most of such a job's typical duration has passed.
        jitter: the random share of the interval, so that many jobs do not poll at the same time.
        first_look: the share of the typical duration after which polls become frequent.
        early: when to poll first if the typical duration is much longer, because it may be outdated. Until then, each
            further interval is twice as long.
        watch_callback: how often to check the ledger for the provider's callback; None if none is expected.
    """

    fraction: float = 0.1
    shortest: float = 0.75
    longest: float = 60.0
    jitter: float = 0.2
    first_look: float = 0.85
    early: float = 120.0
    watch_callback: float | None = None

    def next_interval(self, elapsed: float, typical: float | None) -> float:
        """Returns the seconds until the next poll, `elapsed` seconds after the job was accepted.

        Args:
            elapsed: seconds since the job was accepted.
            typical: seconds that such a job usually takes; None if not known yet.
        """
        if typical is not None and elapsed < typical * self.first_look:
            return max(min(typical * self.first_look - elapsed, max(elapsed, self.early)), self.shortest)
        base = min(max(elapsed * self.fraction, self.shortest), self.longest)
        return base * random.uniform(1 - self.jitter, 1 + self.jitter)  # noqa: S311 - spreads load; not for security


def client_of(client: ProviderClient, job: Job) -> ProviderClient:
    """Returns the client that polls and downloads a job: the account's, or the one that its request needs.

    Args:
        client: the account's client.
        job: the job.
    """
    of_request: Callable[[Any], ProviderClient] | None = getattr(client, "of_request", None)
    return client if of_request is None else of_request(job.request)


async def wait_for_job(
    ledger: Ledger,
    client: ProviderClient,
    job: Job,
    timeout_seconds: float,
    policy: PollPolicy | None = None,
    listener: WaitListener | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> Job:
    """Wait until the provider has the result, and record it.

    Args:
        ledger: where the job is recorded.
        client: the client of the job's account.
        job: a job that the provider accepted.
        timeout_seconds: how long to wait, counted from when the provider accepted the job; an unanswered poll ends with
            it. One poll is made even if that time is over.
        policy: how often to poll.
        listener: notified of changes.
        clock: the time source.

    Returns:
        The job, `succeeded` (or already `delivered`).

    Raises:
        JobTimeout: the time is over; the job continues at the provider.
        CredentialsError: the key is no longer accepted; the job continues at the provider.
        JobExpired: the provider does not find the job. Before the end of its lifetime the job stays `submitted`.
        InputRefused, OutputRefused, GenerationFailed: the provider gave the job up. If it used an undocumented status
            word, the job is `undeliverable`, and `reconcile_jobs` polls it again.
    """
    wait = _Wait(ledger, client, job, policy or PollPolicy(), listener or NullListener(), clock)
    return await wait.until_done(timeout_seconds)


class _Wait:
    def __init__(
        self,
        ledger: Ledger,
        client: ProviderClient,
        job: Job,
        policy: PollPolicy,
        listener: WaitListener,
        clock: Clock,
    ) -> None:
        self.ledger = ledger
        self.client = client
        self.job = job
        self.policy = policy
        self.listener = listener
        self.clock = clock
        self.last_word: str | None = None
        self.last_percent: float | None = None
        self.last_trouble: str | None = None
        self.hinted: float | None = None
        self.missing_since: float | None = None
        self.is_watched = False
        self.last_heartbeat = clock.monotonic()
        self.notified = False

    async def until_done(self, timeout_seconds: float) -> Job:
        is_given_up = self.job.is_given_up and not self.job.is_over(self.clock.now())
        if self.job.state is not JobState.SUBMITTED and not is_given_up:
            return self._settled()
        # The wall clock gives the job's age; from here on only the monotonic clock is used.
        age = max(self.clock.now() - self.job.age_origin, 0.0)
        begun = self.clock.monotonic()
        self.is_watched = age < HEARTBEAT_SECONDS
        typical = await self._typical_seconds()
        self.listener.expecting(self.job, age, typical)
        reserve = min(LAST_POLL_SECONDS, timeout_seconds / 10)
        polls = 0
        while True:
            elapsed = age + self.clock.monotonic() - begun
            pause = self.hinted or self.policy.next_interval(elapsed, typical)
            await self._pause(min(pause, timeout_seconds - reserve - elapsed))
            left = timeout_seconds - (age + self.clock.monotonic() - begun)
            observation = await self._poll(left if left > 0 else SINGLE_POLL_SECONDS)
            if observation is not None and await self._take(observation):
                return self.job
            polls += 1
            if typical is None and polls % 3 == 0:  # other jobs may have ended in the meantime
                typical = await self._typical_seconds()
            if age + self.clock.monotonic() - begun >= timeout_seconds - reserve - _ROUNDING:
                raise JobTimeout(
                    f"No result within {timeout_seconds:.0f} s; the provider's last word was "
                    f"{self.last_word or 'no answer'!r}."
                ).about(self.job.key, self.job.provider_job_id)

    async def _typical_seconds(self) -> float | None:
        return await self.ledger.typical_seconds(self.job.provider, self.job.model, self.job.expectation.seconds)

    async def _pause(self, seconds: float) -> None:
        """Wait until the next poll, or until the provider's callback arrives."""
        step = self.policy.watch_callback
        until = self.clock.monotonic() + seconds
        while (left := until - self.clock.monotonic()) > 0:
            await self._heartbeat()
            if step is None or self.notified:
                await self.clock.sleep(min(HEARTBEAT_SECONDS, left))
            elif await self._is_notified():
                return
            else:
                await self.clock.sleep(min(step, left))
        telemetry.polled(self.job, self.clock.monotonic() - until)

    async def _is_notified(self) -> bool:
        present = await self.ledger.get(self.job.key)
        self.notified = present is not None and present.notified_at is not None
        return self.notified

    async def _heartbeat(self) -> None:
        if self.clock.monotonic() - self.last_heartbeat >= HEARTBEAT_SECONDS:
            self.last_heartbeat = self.clock.monotonic()
            await self._noted()

    async def _noted(self, **changes: object) -> None:
        """Set fields of the job. If a person has corrected its id, the corrected one is polled from now on."""
        noted = await self.ledger.note(self.job, **changes)
        if noted is None:
            present = await self.ledger.get(self.job.key)
            noted = present if present is not None and present.state is JobState.SUBMITTED else self.job
        self.job = noted

    async def _poll(self, seconds: float) -> Observation | None:
        """Poll once, for `seconds` at most; returns None if there was no usable answer."""
        self.hinted = None
        try:
            with anyio.move_on_after(seconds):
                return await poll(client_of(self.client, self.job), self.job.provider_job_id or "", self.clock)
            self._log_trouble(ProviderError(f"A poll had no answer within {seconds:.0f} s."))
        except CredentialsError as error:
            raise error.about(self.job.key, self.job.provider_job_id) from None
        except JobExpired as error:
            await self._missing(error)
        except RateLimited as error:
            self.hinted = error.retry_after
            self._log_trouble(error)
        except GenMediaError as error:
            self._log_trouble(error)
        return None

    async def _missing(self, error: JobExpired) -> None:
        """Handle a job that the provider does not find: this is final only after the job's documented lifetime.

        Raises:
            JobExpired: its lifetime is over, or it was not found for `MISSING_SECONDS` and stays `submitted`.
        """
        facts = {"error_kind": error.kind, "error_message": error.message, "error_code": error.code}
        if self.job.is_given_up:  # keep its reason, which says that only a person can allow another attempt
            self._log_trouble(error)
            return
        if self.job.is_over(self.clock.now()):
            if not await self._moved(JobState.UNDELIVERABLE, **facts):
                return
            raise self.job.describe_in(error) from None
        now = self.clock.monotonic()
        if self.missing_since is None:
            self.missing_since = now
            await self._noted(**facts)
        if now - self.missing_since >= MISSING_SECONDS:
            raise self.job.describe_in(_not_found(error)) from None
        self._log_trouble(error)

    def _log_trouble(self, error: GenMediaError) -> None:
        kind = f"{error.kind} {error.http_status}"
        if kind != self.last_trouble:
            self.last_trouble = kind
            self.listener.troubled(self.job, error)

    async def _take(self, observation: Observation) -> bool:
        """Record an observation; returns True if the job is done."""
        if isinstance(observation.failure, JobExpired):  # a provider may report "not found" with a status word
            await self._missing(observation.failure)
            return False
        observation = await self._believed(with_likely_phase(observation))
        self.last_trouble = self.missing_since = None
        if self.job.is_missing:
            await self._noted(**_NO_ERROR)
        if observation.status != self.last_word:
            self.last_word = observation.status
            self.listener.changed(self.job, observation)
            if observation.phase in (Phase.QUEUED, Phase.RUNNING):
                await self._note(observation)
        elif observation.progress is not None and observation.progress != self.last_percent:
            self.listener.advanced(self.job, observation.progress)
        self.last_percent = observation.progress
        if observation.phase is Phase.SUCCEEDED:
            return await self._moved(JobState.SUCCEEDED, **self._success_facts(observation))
        self.is_watched = True
        if observation.phase is Phase.FAILED:
            await self._fail(observation)
        return False

    async def _believed(self, observation: Observation) -> Observation:
        """Accept a success with an undocumented status word only once the file can be fetched."""
        if observation.phase is not Phase.SUCCEEDED or observation.recognized or await self._has_file():
            return observation
        return replace(observation, phase=Phase.RUNNING)

    async def _has_file(self) -> bool:
        try:
            with anyio.move_on_after(SINGLE_POLL_SECONDS):
                client = client_of(self.client, self.job)
                async with client.open_result(self.job.provider_job_id or "") as stream:
                    return await is_media(stream)
        except GenMediaError as error:
            self._log_trouble(error)
        return False

    async def _fail(self, observation: Observation) -> None:
        """Record that the provider gave the job up.

        Raises:
            GenMediaError: its reason. An undocumented status word ends the run, but the job may still be finished.
        """
        failure = observation.failure or GenerationFailed(f"The provider reports {observation.status!r}.")
        moved = await self._moved(
            JobState.FAILED if observation.recognized else JobState.UNDELIVERABLE,
            provider_status=observation.status,
            error_kind=failure.kind,
            error_message=failure.message,
            error_code=failure.code,
            **_prices(observation),
            **self._evidence(observation),
        )
        if moved:
            raise self.job.describe_in(failure)

    def _evidence(self, observation: Observation) -> dict[str, object]:
        if not observation.evidence:
            return {}
        return {"evidence": {**(self.job.evidence or {}), "ending": dict(observation.evidence)}}

    async def _note(self, observation: Observation) -> None:
        changes: dict[str, object] = {"provider_status": observation.status}
        if observation.phase is Phase.RUNNING and self.job.running_at is None:
            changes["running_at"] = self.clock.now()
        await self._noted(**changes)

    def _success_facts(self, observation: Observation) -> dict[str, object]:
        facts: dict[str, object] = {"provider_status": observation.status, "outputs": observation.outputs}
        facts |= _prices(observation) | self._evidence(observation)
        if self.job.is_given_up:
            facts |= _NO_ERROR
        if self.is_watched:
            facts["took_seconds"] = max(self.clock.now() - self.job.age_origin, 0.0)
        plugin = find_plugin(self.job.provider)
        lifetime = plugin.result_lifetime_seconds if plugin else None
        if lifetime is not None:
            facts["expires_at"] = self.clock.now() + lifetime
        return facts

    async def _moved(self, state: JobState, **changes: object) -> bool:
        """Move the job to another state; returns False if the wait continues because a person has corrected the id."""
        moved = await self.ledger.move(self.job, state, **changes)
        if moved is None:  # another process that waits for the same job has moved it
            moved = await self.ledger.get(self.job.key) or self.job
        is_corrected = moved.state is JobState.SUBMITTED and moved.provider_job_id != self.job.provider_job_id
        self.job = moved
        if is_corrected:
            self.last_word = self.missing_since = None
        return not is_corrected

    def _settled(self) -> Job:
        """Returns the job if it has a result; raises the error that it ended with otherwise."""
        if self.job.state is JobState.FAILED or self.job.is_given_up:
            raise self.job.failure()
        return self.job


_NO_ERROR: dict[str, object] = {"error_kind": None, "error_message": None, "error_code": None}


def _not_found(error: JobExpired) -> JobExpired:
    return JobExpired(
        f"{error.message} The provider should still have the job, so it stays submitted, and nothing is paid again.",
        code=error.code,
        http_status=error.http_status,
        body=error.body,
        next_step="let `reconcile_jobs` go on polling. If the provider's console does not have the job, "
        "`prefect-genmedia jobs resubmit {job}` lets the next run send it again.",
    )


def _prices(observation: Observation) -> dict[str, object]:
    """Returns the costs that the provider reported; values that it omitted keep their previous values."""
    known = {"price": observation.price, "points_remaining": observation.points_remaining}
    return {name: value for name, value in known.items() if value is not None}
