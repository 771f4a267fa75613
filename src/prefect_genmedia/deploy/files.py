"""The declared deployments, pools, limits, automations and Block documents, read strictly.

Prefect ignores words in prefect.yaml that it does not know; here a misspelt one is an error.
"""

from __future__ import annotations

from datetime import timedelta
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from typing_extensions import Self

from prefect_genmedia.errors import InvalidRequest

DEPLOYMENTS = "prefect_genmedia.deployments"
BLOCK_DOCUMENTS = "prefect_genmedia.block_documents"

DEFAULT_POOL = "genmedia"

RECONCILE_POOL = "genmedia-reconcile"
"""The work pool of reconcile alone: other runs hold the slots of a shared worker for their whole lives."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ScheduleSpec(_Strict):
    """One schedule of a deployment.

    Args:
        slug: its name, which tells schedules of a deployment apart.
        cron: when, as a cron expression; or
        interval: how often, in seconds.
        timezone: the time zone that `cron` is meant in.
        active: whether it starts switched on; later it stays as it was switched on the server.
        parameters: what it passes to the flow, over the deployment's own parameters.
    """

    slug: str
    cron: str | None = None
    interval: timedelta | None = None
    timezone: str = "UTC"
    active: bool = True
    parameters: dict[str, Any] = {}

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.cron is None) == (self.interval is None):
            raise ValueError("give cron or interval, one of them")
        return self

    def to_create(self, active: bool) -> DeploymentScheduleCreate:
        """The schedule as Prefect's API takes it, switched on or off."""
        schedule: CronSchedule | IntervalSchedule
        if self.cron is not None:
            schedule = CronSchedule(cron=self.cron, timezone=self.timezone)
        else:
            schedule = IntervalSchedule(interval=self.interval or timedelta(), timezone=self.timezone)
        return DeploymentScheduleCreate(schedule=schedule, active=active, parameters=self.parameters, slug=self.slug)


class ConcurrencySpec(_Strict):
    """How many runs of a deployment may be under way, and what becomes of one too many."""

    limit: int = Field(gt=0)
    collision_strategy: Literal["ENQUEUE", "CANCEL_NEW"] = "ENQUEUE"
    grace_period_seconds: int | None = None


class WorkPoolSpec(_Strict):
    """The pool of a deployment, and job variables of its own."""

    name: str = DEFAULT_POOL
    work_queue_name: str | None = None
    job_variables: dict[str, Any] = {}


class DeploymentSpec(_Strict):
    """One deployment; the words are those of prefect.yaml."""

    name: str
    entrypoint: str
    description: str
    tags: list[str] = []
    parameters: dict[str, Any] = {}
    concurrency_limit: ConcurrencySpec | None = None
    work_pool: WorkPoolSpec = WorkPoolSpec()
    schedules: list[ScheduleSpec] = []

    @model_validator(mode="before")
    @classmethod
    def _number_is_limit(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("concurrency_limit"), int):
            return {**data, "concurrency_limit": {"limit": data["concurrency_limit"]}}
        return data


class PrefectFile(_Strict):
    """prefect.yaml; `definitions` is a place for YAML anchors."""

    name: str
    pull: list[dict[str, Any]]
    definitions: dict[str, Any] = {}
    deployments: list[DeploymentSpec]


class PoolProfile(_Strict):
    """What deployments to a type of pool need: job variables, and what must be shared by its containers."""

    requires: list[Literal["ledger", "output"]] = []
    job_variables: dict[str, Any] = {}


class LimitSpec(_Strict):
    """A global concurrency limit.

    Args:
        limit: slots.
        slot_decay_per_second: how fast slots become free by themselves.
        provider: the provider that it is for: it is left out where only others are deployed.
    """

    limit: int = Field(gt=0)
    slot_decay_per_second: float = Field(default=0.0, ge=0)
    provider: str | None = None


class ServerFile(_Strict):
    """server.yaml."""

    work_pools: dict[str, PoolProfile]
    global_concurrency_limits: dict[str, LimitSpec] = {}


class AutomationsFile(_Strict):
    """automations.yaml; each automation is checked by Prefect's own schema when it is applied."""

    automations: list[dict[str, Any]]


class DocumentSpec(_Strict):
    """A Block document: which Block type, its name, and the variable that each field comes from.

    Args:
        block: the Block type's slug.
        name: the document's name.
        fields: field name to environment variable.
        optional: whether it is fine for it not to exist.
    """

    block: str
    name: str
    fields: dict[str, str]
    optional: bool = False


class DocumentsFile(_Strict):
    """documents.yaml."""

    documents: list[DocumentSpec]


Spec = TypeVar("Spec", bound=BaseModel)


def read_spec(spec: type[Spec], package: str, name: str, instead: Path | None = None) -> Spec:
    """Read one of the shipped files, or a team's own in place of it.

    Args:
        spec: what it must hold.
        package: the package that ships the file.
        name: its name.
        instead: a team's own file.

    Raises:
        InvalidRequest: it cannot be read, or holds something else; with every problem at once.
    """
    where = str(instead or name)
    try:
        text = instead.read_text("utf-8") if instead else resources.files(package).joinpath(name).read_text("utf-8")
        return spec.model_validate(yaml.safe_load(text))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidRequest(f"{where} cannot be read: {error}") from None
    except ValidationError as error:
        raise InvalidRequest.from_validation(where, error) from None
