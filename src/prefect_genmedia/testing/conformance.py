"""What every provider must do: the job lifecycle, the end of every fault, redaction, joining, and resuming."""

from __future__ import annotations

import asyncio
import multiprocessing
import pickle
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeVar

import pytest

from prefect_genmedia import errors
from prefect_genmedia._core.deliver import deliver
from prefect_genmedia._core.ledger import Ledger, open_ledger
from prefect_genmedia._core.model import Job, JobState
from prefect_genmedia._core.polling import PollPolicy, wait_for_job
from prefect_genmedia._core.session import JobSpec, Session
from prefect_genmedia._core.submit import submit_once
from prefect_genmedia._media.storage import target_at
from prefect_genmedia._media.verify import examine_video
from prefect_genmedia.providers.protocol import GenerationRequest, ProviderClient
from prefect_genmedia.simulator import RunningSimulator
from prefect_genmedia.testing.cases import FAULTS, NEVER_ACCEPTED, Ending, ProviderCase, shorten_deadlines

POLICY = PollPolicy(shortest=0.03, longest=0.1)
PATIENCE_SECONDS = 400.0
"""Only a hang takes so long."""

WRONG_KEY = "sk-wrong-key-that-is-quoted"
T = TypeVar("T")


@dataclass(frozen=True)
class _Account:
    """An account at the simulator and an empty ledger, inside a running event loop."""

    case: ProviderCase
    client: ProviderClient
    ledger: Ledger
    folder: Path

    async def submit(self, request: GenerationRequest | None = None) -> Job:
        request = request or self.case.request
        session = Session(client=self.client, ledger=self.ledger)
        return await submit_once(session, JobSpec(request, scope="conformance"))

    async def finish(self, job: Job) -> Job:
        job = await wait_for_job(self.ledger, self.client, job, PATIENCE_SECONDS, POLICY)
        return await deliver(self.ledger, self.client, job, target_at(str(self.folder)))

    async def run(self, request: GenerationRequest | None = None) -> Job:
        return await self.finish(await self.submit(request))

    async def run_again(self) -> tuple[Job | None, list[errors.GenMediaError]]:
        """The whole lifecycle, tried again as tasks and reruns do: the delivered job, and the errors on the way."""
        met: list[errors.GenMediaError] = []
        for _ in range(4):
            try:
                return await self.run(), met
            except errors.GenMediaError as error:
                met.append(error)
        return None, met


@dataclass(frozen=True)
class _Provider:
    """A case at the simulator, and a folder of the test's own."""

    case: ProviderCase
    simulator: RunningSimulator
    folder: Path

    @property
    def base_url(self) -> str:
        return self.simulator.base_url(self.case.request.provider)

    def do(self, work: Callable[[_Account], Awaitable[T]], key: str | None = None) -> T:
        """Do some work with an account, in an event loop of its own: async test plugins are not needed."""
        return asyncio.run(_with_account(self.case, self.base_url, key or self.simulator.key, self.folder, work))


class ConformanceSuite:
    """The tests that every provider passes, against its own dialect of the simulator.

    Derive a test class from it, and give it one case, or several by name:

    ```python
    class TestAcme(ConformanceSuite):
        case = ProviderCase(AcmeVideo(picture="https://example.com/portrait.jpg"))
    ```

    Attributes:
        case: the one case; or
        cases: several cases, by the names that their tests have.
    """

    case: ClassVar[ProviderCase | None] = None
    cases: ClassVar[Mapping[str, ProviderCase]] = {}

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run each test with each case.

        Args:
            metafunc: the test.
        """
        if "provider_case" not in metafunc.fixturenames:
            return
        cases = dict(self.cases) or ({self.case.request.kind: self.case} if self.case is not None else {})
        metafunc.parametrize("provider_case", list(cases.values()), ids=list(cases))

    @pytest.fixture(name="provider")
    def _provider(self, provider_case: ProviderCase, genmedia_simulator: RunningSimulator, tmp_path: Path) -> _Provider:
        return _Provider(provider_case, genmedia_simulator, tmp_path)

    def test_a_request_becomes_a_verified_file(self, provider: _Provider) -> None:
        """The whole lifecycle, without a fault."""
        job = provider.do(_Account.run)
        assert job.state is JobState.DELIVERED
        assert job.delivery
        facts = examine_video(Path(job.delivery.uri))
        assert (facts.width, facts.height) == (job.delivery.width, job.delivery.height)
        assert facts.seconds == pytest.approx(job.delivery.seconds, abs=0.01)
        assert job.submitted_at

    @pytest.mark.parametrize("fault", FAULTS)
    def test_every_fault_ends_as_it_must_in_one_accepted_job_and_no_broken_file(
        self, fault: str, provider: _Provider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The end of every fault, which errors are met, and that they pickle.

        Args:
            fault: the fault.
            provider: the case.
            monkeypatch: shortens deadlines.
        """
        shorten_deadlines(monkeypatch, fault)

        async def work(account: _Account) -> tuple[Job | None, list[errors.GenMediaError], list[Job]]:
            return *await account.run_again(), await account.ledger.jobs()

        provider.simulator.order(fault, retry_after=0.02, seconds=0.05, mib=8)
        delivered, met, jobs = provider.do(work)
        first = min(jobs, key=lambda job: job.attempt)
        assert Ending(met[0].kind if met else None, first.state) == provider.case.ending(fault)
        assert delivered is not None or met[-1].kind == met[0].kind
        assert provider.simulator.accepted == (0 if fault in NEVER_ACCEPTED else 1)
        for path in (provider.folder / "out").glob("*.mp4"):
            examine_video(path)
        for error in met:
            assert error.job_key
            assert error.job_key in str(error)
            assert type(pickle.loads(pickle.dumps(error))) is type(error)  # noqa: S301 - our own

    @pytest.mark.parametrize("fault", ["fail_input", "fail_output", "fail_internal"])
    def test_a_failed_job_is_called_free_only_if_the_plugin_says_so(self, fault: str, provider: _Provider) -> None:
        """What an error says about the cost, at first and at each rerun.

        Args:
            fault: the fault.
            provider: the case.
        """
        provider.simulator.order(fault)
        delivered, met = provider.do(_Account.run_again)
        assert delivered is None
        assert len({error.paid for error in met}) == 1
        is_free = provider.case.plugin.failures_are_free
        assert met[0].paid.startswith("nothing" if is_free else errors.UNDOCUMENTED_BILLING)

    def test_a_stuck_job_times_out_and_is_kept(self, provider: _Provider) -> None:
        """A job that never ends stays submitted, for reconcile."""

        async def work(account: _Account) -> list[Job]:
            job = await account.submit()
            with pytest.raises(errors.JobTimeout, match=job.key):
                await wait_for_job(account.ledger, account.client, job, 0.3, POLICY)
            return await account.ledger.jobs()

        provider.simulator.order("stuck")
        (kept,) = provider.do(work)
        assert kept.state is JobState.SUBMITTED

    def test_an_error_never_holds_the_key_even_if_the_provider_quotes_it(self, provider: _Provider) -> None:
        """Redaction: error, client, account and ledger row."""

        async def work(account: _Account) -> tuple[str, list[Job]]:
            with pytest.raises(errors.CredentialsError) as caught:
                await account.run()
            shown = f"{caught.value} {vars(caught.value)} {account.client!r} {account.client.account}"
            return shown, await account.ledger.jobs()

        shown, (job,) = provider.do(work, WRONG_KEY)
        assert WRONG_KEY not in shown
        assert provider.simulator.accepted == 0
        # Reserved where the plug-in's `resolve` asks the provider before the request is sent.
        assert job.state in (JobState.REJECTED, JobState.RESERVED)
        assert WRONG_KEY not in job.model_dump_json()

    def test_the_same_request_joins_its_job(self, provider: _Provider) -> None:
        """A second submission of an equal request is not sent."""

        async def work(account: _Account) -> tuple[Job, Job]:
            request = account.case.request
            copy = type(request).model_validate(request.model_dump())
            return await account.run(), await account.run(copy)

        first, second = provider.do(work)
        assert first == second
        assert provider.simulator.accepted == 1

    def test_a_fresh_process_finishes_a_job_by_its_key(self, provider: _Provider) -> None:
        """Another process that knows the job's key finishes it, without paying again."""
        job = provider.do(_Account.submit)
        arguments = (provider.case, provider.base_url, provider.simulator.key, job.key, provider.folder)
        process = multiprocessing.get_context("forkserver").Process(target=_resume, args=arguments)
        process.start()
        try:
            process.join(PATIENCE_SECONDS)
            assert process.exitcode == 0
        finally:
            process.kill()

        async def work(account: _Account) -> Job | None:
            return await account.ledger.get(job.key)

        finished = provider.do(work)
        assert finished
        assert finished.state is JobState.DELIVERED
        assert provider.simulator.accepted == 1


async def _with_account(
    case: ProviderCase, base_url: str, key: str, folder: Path, work: Callable[[_Account], Awaitable[T]]
) -> T:
    client = case.client(base_url, key)
    try:
        async with open_ledger(f"sqlite:///{folder / 'conformance.db'}") as ledger:
            return await work(_Account(case, client, ledger, folder / "out"))
    finally:
        await client.aclose()


def _resume(case: ProviderCase, base_url: str, key: str, job_key: str, folder: Path) -> None:
    """A fresh process that knows the job's key only."""

    async def work(account: _Account) -> None:
        job = await account.ledger.get(job_key)
        assert job
        await account.finish(job)

    asyncio.run(_with_account(case, base_url, key, folder, work))
