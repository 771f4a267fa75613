"""The quality checks that a run asks for, by its parameters and the settings."""

from __future__ import annotations

from collections.abc import Sequence

from prefect_genmedia._media.quality import DEFAULT_CHECKS, QualityPolicy, require_checks
from prefect_genmedia.settings import Quality, QualityCheck, current_settings


def quality_policy(wanted: Quality = "auto", checks: Sequence[QualityCheck] = ()) -> QualityPolicy:
    """Returns what is checked about results. What is not installed is noticed when a file is checked.

    Args:
        wanted: what the run says; `auto` takes the setting.
        checks: the checks that the run names; empty for those of the setting, or else all that need no extra.
    """
    settings = current_settings()
    named = tuple(dict.fromkeys(checks or settings.quality_checks or DEFAULT_CHECKS))
    return QualityPolicy(settings.quality if wanted == "auto" else wanted, named)


def required_policy(wanted: Quality = "auto", checks: Sequence[QualityCheck] = ()) -> QualityPolicy:
    """Returns the same, before anything is paid.

    Args:
        wanted: what the run says.
        checks: the checks that the run names.

    Raises:
        InvalidRequest: an unknown check, or one whose extra is not installed.
    """
    policy = quality_policy(wanted, checks)
    if policy.mode != "off":
        require_checks(policy.checks)
    return policy
