"""The Block for Jenius."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, HttpUrl, SecretStr, field_validator

from prefect_genmedia.providers.credentials import (
    LOGOS,
    AccountName,
    BudgetTimeZone,
    ConcurrencyLimit,
    MaxCostPerDay,
    MaxCostPerMonth,
    MaxInFlight,
    MaxJobsPerDay,
    Project,
    ProviderCredentials,
    SubmissionsPerMinute,
    Tags,
    plausible_key,
)
from prefect_genmedia.providers.jenius import JeniusClient
from prefect_genmedia.providers.jenius.catalog import BASE_URL, TASKS_PATH
from prefect_genmedia.settings import current_settings


class JeniusCredentials(ProviderCredentials):
    """Access to Jenius: live posters.

    Attributes:
        api_key: The key from Jenius' account page (接口密钥).
        base_url: The site's root.
        submissions_per_minute: How many jobs may be submitted in a minute.
        max_in_flight: How many jobs may be at the provider at once.
        concurrency_limit: A Prefect global concurrency limit that each job holds.
        account_name: The account's name in the job ledger; by default the name under which the Block is saved.
        max_cost_per_day: Highest estimated cost of the account's jobs in a day, in CNY.
        max_cost_per_month: Highest estimated cost of the account's jobs in a calendar month, in CNY.
        max_jobs_per_day: Highest number of jobs that the account may send in a day.
        budget_time_zone: Time zone in which the days and months of the caps start.
        project: Project that the account's jobs are booked to, unless a job names one.
        tags: More labels to group the account's jobs by.

    Example:
        Load stored credentials and make a client:
        ```python
        from prefect_genmedia import JeniusCredentials

        credentials = JeniusCredentials.load("BLOCK_NAME")
        client = credentials.get_client()
        ```
    """

    _block_type_name = "Jenius Credentials"
    _block_type_slug = "jenius-credentials"
    _description = "Access to Jenius: live posters."
    _logo_url = HttpUrl(f"{LOGOS}/jenius.png")
    _documentation_url = HttpUrl("https://prefect-genmedia.readthedocs.io/en/latest/providers/jenius/")

    provider: ClassVar[str] = "jenius"
    endpoints: ClassVar[tuple[str, ...]] = (TASKS_PATH,)

    api_key: SecretStr = Field(title="API key", description="The key from Jenius' account page (接口密钥).")
    base_url: str = Field(
        default=BASE_URL,
        title="Base URL",
        description="The site's root; another one for a gateway or the simulator.",
    )
    submissions_per_minute: SubmissionsPerMinute = None
    max_in_flight: MaxInFlight = None
    concurrency_limit: ConcurrencyLimit = None
    account_name: AccountName = None
    max_cost_per_day: MaxCostPerDay = None
    max_cost_per_month: MaxCostPerMonth = None
    max_jobs_per_day: MaxJobsPerDay = None
    budget_time_zone: BudgetTimeZone = "UTC"
    project: Project = ""
    tags: Tags = Field(default_factory=list)

    _key_is_plausible = field_validator("api_key")(plausible_key)

    def get_client(self) -> JeniusClient:
        """Make a client of one's own, for the running event loop; close it with `aclose()`."""
        return JeniusClient(
            self.api_key.get_secret_value(),
            self.base_url,
            allow_private_hosts=current_settings().allow_private_hosts,
            submissions_per_minute=self.submissions_per_minute,
        )
