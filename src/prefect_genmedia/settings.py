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
Quality = Literal["auto", "off", "report", "fail"]
QualityCheck = Literal["black", "frozen", "silent", "clipped", "orientation", "flat_first_frame", "duration", "face"]


class GenMediaSettings(PrefectBaseSettings):
    """Settings named `PREFECT_INTEGRATIONS_GENMEDIA_…`, or `[integrations.genmedia]` in `prefect.toml`."""

    model_config = build_settings_config(("integrations", "genmedia"))

    ledger_url: str | None = Field(
        default=None,
        description="Database of the job ledger: `sqlite:///path` or `postgresql://user:password@host/name`. "
        "By default a SQLite file in Prefect's home.",
    )
    output: str | None = Field(
        default=None,
        description="Folder or fsspec URL for delivered files, where a run names none. "
        "By default a folder in Prefect's home.",
    )
    quarantine_bytes: int = Field(
        default=2 * 1024**3,
        ge=0,
        description="What the `quarantine` folder of an output may hold, in bytes. A file that does not fit is not "
        "kept: its error tells its SHA-256 and size, and it can be downloaded again while the provider has it. Nothing "
        "is deleted to make room. 0 keeps none.",
    )
    verify: Verify = Field(
        default="auto",
        description="How results are verified where a run does not say it: `full` decodes every frame, `structure` "
        "walks through the container and decodes the sound and a key frame, `none` believes the file. `auto` is "
        "`structure` in batches, and `full` elsewhere.",
    )
    quality: Literal["off", "report", "fail"] = Field(
        default="off",
        description="Whether verified results are checked for what may be wrong with an intact file, where a run does "
        "not say it: `report` stores and shows what is found, `fail` fails the run as well. The file is delivered "
        "in any case.",
    )
    quality_checks: list[QualityCheck] | None = Field(
        default=None,
        description="The quality checks, as JSON: `black`, `frozen`, `silent`, `clipped`, `orientation`, "
        "`flat_first_frame`, `duration`, and `face`, which needs the extra `faces`. By default all but `face`.",
    )
    allow_private_hosts: bool = Field(
        default=False,
        description="Whether results, masks and inputs may be fetched from private addresses.",
    )
    publish_url: str | None = Field(
        default=None,
        description="Folder of a storage that can sign URLs, such as `s3://bucket/inputs`: local files and fsspec URLs "
        "that are given as inputs are put there for the provider to fetch, under their digest. Or any folder, with "
        "`publish_base_url`; or an http(s) URL that takes files by PUT. Credentials "
        "for the storage are taken from where fsspec and the storage's library look for them. Let the storage delete "
        "what is some days old.",
    )
    publish_base_url: str | None = Field(
        default=None,
        description="The http(s) URL under which the files of `publish_url` are public, such as "
        "`https://files.example.com/in`: then nothing is signed.",
    )
    publish_authorization: SecretStr | None = Field(
        default=None,
        description="The `Authorization` header for a `publish_url` that takes files by PUT, such as `Bearer …`.",
    )
    publish_seconds: int = Field(
        default=24 * 3600,
        ge=12 * 3600,
        le=7 * 24 * 3600,
        description="How long the signed URL of a published input is valid, in seconds: from 12 hours (a provider may "
        "fetch it late) to 7 days (storages sign for no longer).",
    )

    public_base_url: str | dict[str, str] | None = Field(
        default=None,
        description="The http(s) URL under which a web server or CDN serves the files of `output`, such as "
        "`https://media.example.com`: cards, galleries, reports, tables and commands then link to each file. For "
        'several folders, JSON by path or fsspec URL: `{"s3://bucket/media": "https://media.example.com"}`.',
    )
    viewer_url: str | None = Field(
        default=None,
        description="How browsers reach `prefect-genmedia serve`, such as https://videos.example.com: links to files "
        "without a public URL lead there. It plays files of its disk, and redirects to a fresh signed URL of a "
        "bucket.",
    )

    poll_shortest_seconds: float = Field(
        default=0.75, gt=0, description="A job is never looked at more often than this, in seconds."
    )
    poll_longest_seconds: float = Field(
        default=60.0,
        gt=0,
        description="Once its usual duration has nearly passed, a job is looked at at least this often, in seconds.",
    )

    prices: dict[str, float | Price] | None = Field(
        default=None,
        description="Your prices in CNY by `provider/model`, over the list prices, as JSON: a number is per second, "
        '`{"per_job": 2.0}` is per result. Every sum made of them is an estimate.',
    )

    confirm_above: Decimal | None = Field(
        default=None,
        ge=0,
        le=MOST_CNY,
        description="CNY, estimated, above which a person must confirm what a run or batch would cost, before anything "
        "is sent. Jobs without a price are asked about, too. Not set: nobody is asked.",
    )
    confirm_timeout_seconds: float = Field(
        default=24 * 3600.0,
        gt=0,
        description="How long a person may take to confirm, in seconds; then the answer is no.",
    )
    row_task_runs: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Whether each row of a batch has a task run of its own, if the batch says `auto`: `auto` for up to "
        "2,000 rows. Without them its table of results, gallery, failures and progress are the record.",
    )

    allow_second_account: bool = Field(
        default=False,
        description="Whether a request may be sent although another account of the same provider and base URL has it "
        "in flight, or was charged for its result. Set it for one run, never for a worker.",
    )

    callback_url: str | None = Field(
        default=None,
        description="How providers reach `prefect-genmedia callbacks`, such as https://callbacks.example.com.",
    )
    callback_secret: SecretStr | None = Field(
        default=None, description="Makes each job's callback address unguessable; the same for workers and receiver."
    )

    @field_validator("*", mode="before")
    @classmethod
    def _empty_is_not_set(cls, value: Any, info: ValidationInfo) -> Any:
        """Compose files and `.env` templates name a variable that nobody filled in: it is there, and empty."""
        if isinstance(value, str) and not value.strip():
            return cls.model_fields[info.field_name or ""].default
        return value

    @property
    def ledger(self) -> str:
        """The ledger's database URL."""
        return self.ledger_url or f"sqlite:///{_home() / 'ledger.db'}"

    @property
    def media_folder(self) -> str:
        """Where files go that a run names no place for."""
        return self.output or str(_home() / "media")


def current_settings() -> GenMediaSettings:
    """The settings as they are now, read anew only where the environment has changed.

    Reading them takes milliseconds, several times a job, and a batch has thousands of jobs. Files are read once a
    process, as Prefect reads its own.
    """
    return _read(tuple(os.environ.get(name) for name in _VARIABLES), str(Path.cwd()))


def verify_level(wanted: Verify, by_default: Level = "full") -> Level:
    """The level that results are verified at.

    Parameters:
        wanted: what the run says; `auto` takes the setting.
        by_default: the level where neither names one.
    """
    named = current_settings().verify if wanted == "auto" else wanted
    return by_default if named == "auto" else named


@functools.lru_cache(maxsize=8)
def _read(environment: tuple[str | None, ...], folder: str) -> GenMediaSettings:
    """Read the settings; the arguments are what they depend on."""
    return GenMediaSettings()


_VARIABLES = (
    *(f"PREFECT_INTEGRATIONS_GENMEDIA_{name.upper()}" for name in GenMediaSettings.model_fields),
    "PREFECT_PROFILE",
    "PREFECT_PROFILES_PATH",
    "PREFECT_HOME",
)
"""Environment variables that say what the settings are, or where they are read from."""


def _home() -> Path:
    return get_current_settings().home.expanduser() / "genmedia"
