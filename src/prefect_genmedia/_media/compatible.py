"""Settings with which S3 libraries send only what S3-compatible stores take."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import fsspec

_S3 = ("s3", "s3a")

_CHECKSUMS = ("request_checksum_calculation", "response_checksum_validation")


def storage_settings(url: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a storage; those of S3 without checksums that only Amazon takes, unless they are asked for.

    Since botocore 1.36 each upload has a checksum in an `aws-chunked` body, which Alibaba Cloud OSS, Tencent COS and
    others refuse. The sizes of uploads are compared all the same.

    Args:
        url: an fsspec URL, which may be chained with `::`.
        settings: what the file system is made with, beside fsspec's own configuration.
    """
    found = next((scheme for part in url.split("::") if (scheme := urlsplit(part).scheme) in _S3), None)
    wanted = {} if found is None else _checksums_when_required()
    if found is None or not wanted:
        return dict(settings)
    given = settings.get(found, {}) if "::" in url else settings
    configured = fsspec.config.conf.get(found, {}).get("config_kwargs") or {}
    chosen = {**given, "config_kwargs": {**wanted, **configured, **(given.get("config_kwargs") or {})}}
    return {**settings, found: chosen} if "::" in url else chosen


def _checksums_when_required() -> dict[str, str]:
    """Botocore's options; those that the environment sets are left out, and so are those that it does not have."""
    try:
        from botocore.config import Config  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        return {}
    known = [name for name in _CHECKSUMS if name in Config.OPTION_DEFAULTS]
    return {name: "when_required" for name in known if not os.environ.get(f"AWS_{name.upper()}")}
