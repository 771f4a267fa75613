"""The package's settings, in Prefect's own style: environment, `.env`, `prefect.toml` or `pyproject.toml`."""

from __future__ import annotations

import functools
import os
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from prefect.settings import get_current_settings
from prefect.settings.base import PrefectBaseSettings, build_settings_config
from pydantic import Field, SecretStr, ValidationInfo, field_validator

from prefect_genmedia.prices import MOST_CNY, Price

Level = Literal["full", "structure", "none"]
Verify = Literal["auto", "full", "structure", "none"]


class GenMediaSettings(PrefectBaseSettings):
    """Settings named `PREFECT_INTEGRATIONS_GENMEDIA_…`, or `[integrations.genmedia]` in `prefect.toml`."""

    model_config = build_settings_config(("integrations", "genmedia"))

    ledger_url: str | None = Field(
        default=None,
        description="URL of the job ledger's database: `sqlite:///path` or "
        "`postgresql://user:password@host/name`. Default: a SQLite file in Prefect's home folder.",
    )
    output: str | None = Field(
        default=None,
        description="Folder or fsspec URL for delivered files, used if a run has no `output`. Default: a folder "
        "in Prefect's home folder.",
    )
    quarantine_bytes: int = Field(
        default=2 * 1024**3,
        ge=0,
        description="Maximum size of the folder `quarantine` of an output, in bytes; 0 keeps no file. A file "
        "that would exceed it is not kept: the error has its SHA-256 and size, and it can be "
        "downloaded again while the provider has it. No older file is deleted to make room.",
    )
    verify: Verify = Field(
        default="auto",
        description="How delivered files are verified if a run says `auto`. `full` decodes every frame; "
        "`structure` checks the container, and decodes the sound and one key frame; `none` does not "
        "verify. `auto` means `structure` in batches, otherwise `full`.",
    )
    allow_private_hosts: bool = Field(
        default=False,
        description="Whether results, masks and inputs may be fetched from private addresses.",
    )
    publish_url: str | None = Field(
        default=None,
        description="Where local files and storage URLs are published so that the provider can fetch them, named "
        "by their digest: a folder of a storage that signs URLs, such as `s3://bucket/inputs`; any "
        "folder, with `publish_base_url`; or an http(s) URL that accepts PUT. fsspec and the "
        "storage's own library find the credentials. Nothing is deleted there: give the storage a "
        "rule that deletes files after a few days.",
    )
    publish_base_url: str | None = Field(
        default=None,
        description="Public http(s) URL of the files in `publish_url`, such as `https://files.example.com/in`. "
        "No URL is signed then.",
    )
    publish_authorization: SecretStr | None = Field(
        default=None,
        description="`Authorization` header for a `publish_url` that accepts PUT, such as `Bearer …`.",
    )
    publish_seconds: int = Field(
        default=24 * 3600,
        ge=12 * 3600,
        le=7 * 24 * 3600,
        description="How long the signed URL of a published input is valid, in seconds: at least 12 hours, "
        "because a provider may fetch it late; at most 7 days, because storages sign for no longer.",
    )

    public_base_url: str | dict[str, str] | None = Field(
        default=None,
        description="Public http(s) URL under which a web server or CDN serves the files of `output`, such as "
        "`https://media.example.com`. Cards, galleries, reports, tables and commands then link to "
        'each file. For several outputs, JSON by path or fsspec URL: `{"s3://bucket/media": '
        '"https://media.example.com"}`.',
    )
    viewer_url: str | None = Field(
        default=None,
        description="URL at which browsers reach `prefect-genmedia serve`, such as `https://videos.example.com`. "
        "It is used for files without a public URL: the viewer plays files on its disk, and "
        "redirects to a fresh signed URL for files in a bucket.",
    )

    poll_shortest_seconds: float = Field(
        default=0.75, gt=0, description="Shortest interval between two polls of a job, in seconds."
    )
    poll_longest_seconds: float = Field(
        default=60.0,
        gt=0,
        description="Longest interval between two polls, in seconds, once a job has nearly reached its usual duration.",
    )

    prices: dict[str, float | Price] | None = Field(
        default=None,
        description="Your prices in CNY by `provider/model`, as JSON; they replace the list prices. A number is "
        'the price per second, `{"per_job": 2.0}` the price per result. All amounts computed from '
        "prices are estimates.",
    )

    confirm_above: Decimal | None = Field(
        default=None,
        ge=0,
        le=MOST_CNY,
        description="Estimated cost in CNY above which a person must approve a run or batch before anything is "
        "sent. A job without a price also needs approval. Default: no approval is needed.",
    )
    confirm_timeout_seconds: float = Field(
        default=24 * 3600.0,
        gt=0,
        description="How long to wait for an approval, in seconds. Without an answer the run ends with `NotConfirmed`.",
    )
    row_task_runs: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Whether each row of a batch has its own task run, if the batch says `auto`. `auto` means "
        "yes for up to 2,000 rows. Without task runs, the table of results, the gallery, the "
        "failures and the progress bar are the only record.",
    )

    allow_second_account: bool = Field(
        default=False,
        description="Whether a request may be sent although another account of the same provider and base URL "
        "has it in flight, or was charged for its result. Set it for a single run, never for a "
        "worker.",
    )

    callback_url: str | None = Field(
        default=None,
        description="URL at which providers reach `prefect-genmedia callbacks`, such as "
        "`https://callbacks.example.com`.",
    )
    callback_secret: SecretStr | None = Field(
        default=None,
        description="Secret from which the unguessable callback URL of each job is made. Workers and the "
        "receiver need the same one.",
    )

    @field_validator("*", mode="before")
    @classmethod
    def _empty_is_not_set(cls, value: Any, info: ValidationInfo) -> Any:
        """Use the default for an empty variable: compose files and `.env` templates may leave one empty."""
        if isinstance(value, str) and not value.strip():
            return cls.model_fields[info.field_name or ""].default
        return value

    @property
    def ledger(self) -> str:
        """The ledger's database URL."""
        return self.ledger_url or f"sqlite:///{_home() / 'ledger.db'}"

    @property
    def media_folder(self) -> str:
        """The output of runs that name none."""
        return self.output or str(_home() / "media")


def current_settings() -> GenMediaSettings:
    """Returns the current settings, read again only if the environment has changed.

    Reading takes milliseconds, and happens several times per job. Files are read once per process, as Prefect does.
    """
    return _read(tuple(os.environ.get(name) for name in _VARIABLES), str(Path.cwd()))


def verify_level(wanted: Verify, by_default: Level = "full") -> Level:
    """Returns the level at which results are verified.

    Args:
        wanted: the run's parameter; `auto` uses the setting.
        by_default: the level if both are `auto`.
    """
    named = current_settings().verify if wanted == "auto" else wanted
    return by_default if named == "auto" else named


@functools.lru_cache(maxsize=8)
def _read(environment: tuple[str | None, ...], folder: str) -> GenMediaSettings:
    """Read the settings. The arguments are only the cache key."""
    return GenMediaSettings()


_VARIABLES = (
    *(f"PREFECT_INTEGRATIONS_GENMEDIA_{name.upper()}" for name in GenMediaSettings.model_fields),
    "PREFECT_PROFILE",
    "PREFECT_PROFILES_PATH",
    "PREFECT_HOME",
)
"""Environment variables that hold the settings, or define where they are read from."""


def _home() -> Path:
    return get_current_settings().home.expanduser() / "genmedia"
