"""The `MediaJob` Block: a request as a stored template, behind Prefect's interface of jobs.

`trigger` → `wait_for_completion` → `fetch_result`, each of which calls the package's task of that step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from prefect.blocks.abstract import JobBlock, JobRun
from prefect.runtime import flow_run
from pydantic import ConfigDict, Field, HttpUrl, field_validator

from prefect_genmedia.errors import FieldProblem, InvalidRequest
from prefect_genmedia.providers.credentials import LOGOS
from prefect_genmedia.providers.plugin import make_request

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from typing_extensions import Self

    from prefect_genmedia._core.model import Delivery, Job

    _JobBlock = JobBlock[Delivery]
else:
    _JobBlock = JobBlock  # a parametrized model would be a Block type of its own

TIMEOUT_SECONDS = 1800.0
"""As `DEFAULT_TIMEOUT_SECONDS` of the tasks, which Blocks must not import."""


class MediaJob(_JobBlock):
    """A generation request that is stored as a template: its kind, default fields and credentials.

    Attributes:
        kind: Kind of the request, as in a table; `prefect-genmedia make --help` lists the kinds.
        fields: Default values of the request's fields.
        credentials: Name of the credentials Block of the kind's provider.
        label: A few words that name the request for people.
        output: Folder, file name ending in .mp4, or fsspec URL for the file.
        timeout_seconds: How long to wait for the result, in seconds.
        preflight: Check documented limits of the inputs before anything is paid.
        max_cost: Most CNY, estimated, that one result may cost.
        project: Whom its jobs are paid for.
        tags: More labels to group its jobs by.

    Example:
        Load a stored job, run it with a picture of today, and deliver the file:
        ```python
        from prefect_genmedia import MediaJob

        job = MediaJob.load("BLOCK_NAME")
        run = job.trigger({"image_url": "portrait.jpg"}, idempotency_key="2026-11-27")
        run.wait_for_completion()
        delivery = run.fetch_result()
        ```
    """

    _block_type_name = "Media Job"
    _block_type_slug = "media-job"
    _description = "A generation request that is stored as a template: its kind, default fields and credentials."
    _logo_url = HttpUrl(f"{LOGOS}/media-job.png")
    _documentation_url = HttpUrl("https://prefect-genmedia.readthedocs.io/en/latest/media-job/")

    model_config = ConfigDict(hide_input_in_errors=True)

    kind: str = Field(
        description="Kind of the request, as in a table; `prefect-genmedia make --help` lists the kinds.",
    )
    fields: dict[str, Any] = Field(
        default_factory=dict,
        description="Default values of the request's fields, as a JSON object. Prefect stores them as plain text: no "
        "secrets, and files by their path or URL.",
    )
    credentials: str = Field(
        default="default",
        description="Name of the credentials Block of the kind's provider.",
    )
    label: str = Field(default="", description="A few words that name the request for people. Empty: its kind.")
    output: str = Field(
        default="",
        description="Folder, file name ending in .mp4, or fsspec URL for the file. Empty: the setting's folder.",
    )
    timeout_seconds: float = Field(
        default=TIMEOUT_SECONDS,
        gt=0,
        allow_inf_nan=False,
        title="Timeout in seconds",
        description="How long to wait for the result, in seconds from when the provider accepted the job.",
    )
    preflight: bool = Field(
        default=True,
        description="Check what the provider documents about the inputs before anything is paid.",
    )
    max_cost: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = Field(
        default=None,
        description="Most CNY, estimated, that one result may cost, over all attempts at it. Empty: no limit.",
    )
    project: str = Field(
        default="",
        description="Project that its jobs are paid for. Empty: as the credentials Block says.",
    )
    tags: list[str] = Field(default_factory=list, description="More labels to group its jobs by.")

    @field_validator("fields")
    @classmethod
    def _holds_no_files(cls, value: dict[str, Any]) -> dict[str, Any]:
        from prefect_genmedia._prefect.parameters import base64_places

        if places := list(base64_places(value)):
            raise ValueError(f"{', '.join(places)}: a file as base64 text would be stored: give its path or URL")
        return value

    if TYPE_CHECKING:  # Prefect's annotation adds the coroutine that asynchronous callers get

        @classmethod
        def load(cls, name: str, validate: bool = True, client: PrefectClient | None = None) -> Self:
            """Load a stored job by the name of its Block."""
            ...

    def trigger(  # type: ignore[override] # the base declares it as async; see `run_where_called`
        self,
        fields: Mapping[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
        variant: int = 0,
        output: str | None = None,
    ) -> MediaJobRun:
        """Submit the request, once. In asynchronous code, await it, or call `atrigger`.

        Args:
            fields: the request's fields; each one replaces the stored one of its name.
            idempotency_key: makes "the same request" hold across runs. By default it holds within one flow run; outside
                of flow runs it must be given.
            variant: tells apart several wanted results of the same request.
            output: where the file is wanted; None takes the stored output.

        Returns:
            The accepted job.

        Raises:
            InvalidRequest: with every problem of the template and its fields, or without an `idempotency_key` outside
                of a flow run. Nothing was sent.
            GenMediaError: as the task `submit_job`.
        """
        from prefect_genmedia._prefect.synchronous import run_where_called

        return run_where_called(self.atrigger(fields, idempotency_key=idempotency_key, variant=variant, output=output))

    async def atrigger(
        self,
        fields: Mapping[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
        variant: int = 0,
        output: str | None = None,
    ) -> MediaJobRun:
        """Submit the request, once; see `trigger`.

        Args:
            fields: the request's fields; each one replaces the stored one of its name.
            idempotency_key: makes "the same request" hold across runs; required outside of flow runs.
            variant: tells apart several wanted results of the same request.
            output: where the file is wanted; None takes the stored output.
        """
        from prefect_genmedia.generate import confirm_cost
        from prefect_genmedia.tasks import submit_job

        if not (idempotency_key or flow_run.id):  # a lone task's retries would each make a new task run of submit_job
            problem = "is required outside of a flow run: without one, nothing bounds the same request"
            raise InvalidRequest.of("The job", [FieldProblem("idempotency_key", problem)])
        wanted = output or self.output or None
        request = await confirm_cost(
            make_request(self.kind, {**self.fields, **(fields or {})}).normalized(),
            variant=variant,
            credentials=self.credentials,
            label=self.label,
            output=wanted,
            idempotency_key=idempotency_key,
            preflight=self.preflight,
        )
        job = await submit_job(
            request,
            credentials=self.credentials,
            idempotency_key=idempotency_key,
            variant=variant,
            label=self.label,
            output=wanted,
            preflight=self.preflight,
            max_cost=self.max_cost,
            project=self.project,
            tags=self.tags,
        )
        return MediaJobRun(job.key, credentials=self.credentials, output=wanted, timeout_seconds=self.timeout_seconds)


class MediaJobRun(JobRun["Delivery"]):
    """An accepted job: wait for it, then fetch its file. It holds plain values, so another process can make it anew.

    Args:
        job: the job's key in the ledger, or the provider's id of it.
        credentials: name of the credentials Block of the job's account.
        output: where the file is wanted; None for the media folder of the settings.
        timeout_seconds: how long to wait, in seconds from when the provider accepted the job.
    """

    def __init__(
        self,
        job: str,
        *,
        credentials: str = "default",
        output: str | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        self.job = job
        self.credentials = credentials
        self.output = output
        self.timeout_seconds = timeout_seconds

    def __repr__(self) -> str:
        """The call that makes it."""
        return f"MediaJobRun({self.job!r}, credentials={self.credentials!r}, output={self.output!r})"

    def wait_for_completion(self) -> Job:  # type: ignore[override] # the base declares a Logger, and async
        """Wait until the provider has the result. In asynchronous code, await it, or call `await_for_completion`.

        Returns:
            The job, whose file can be fetched.

        Raises:
            GenMediaError: as the task `wait_for_job`.
        """
        from prefect_genmedia._prefect.synchronous import run_where_called

        return run_where_called(self.await_for_completion())

    async def await_for_completion(self) -> Job:
        """Wait until the provider has the result; see `wait_for_completion`."""
        from prefect_genmedia.tasks import wait_for_job

        return await wait_for_job(self.job, credentials=self.credentials, timeout_seconds=self.timeout_seconds)

    def fetch_result(self) -> Delivery:  # type: ignore[override] # the base declares it as async
        """Download and verify the file. In asynchronous code, await it, or call `afetch_result`.

        A job that is delivered already is not downloaded again while its file is there.

        Returns:
            The verified file.

        Raises:
            InvalidRequest: the provider has no file yet: call `wait_for_completion` first.
            GenMediaError: as the task `download_result`.
        """
        from prefect_genmedia._prefect.synchronous import run_where_called

        return run_where_called(self.afetch_result())

    async def afetch_result(self) -> Delivery:
        """Download and verify the file; see `fetch_result`."""
        from prefect_genmedia.tasks import download_result

        return await download_result(self.job, self.output, credentials=self.credentials)
