"""What can be said about a path or URL of a storage without asking anybody: whether it can ever work."""

from __future__ import annotations

import re

import fsspec

OBJECT_STORES = frozenset({"s3", "s3a", "gcs", "gs", "abfs", "abfss", "az", "adl", "oss"})
"""Protocols whose URLs name a bucket or container first. They have no folders, and what is put appears at once."""

_RESERVED = ("xn--", "sthree-")
"""How no bucket's name begins, by the same rules."""

_BUCKET_NAMES: dict[str, tuple[str, str]] = {
    "S3": (
        r"(?!\d+\.\d+\.\d+\.\d+$)[a-z0-9](?:[a-z0-9-]|\.(?!\.)){1,61}[a-z0-9]",
        "3 to 63 lower-case letters, digits, hyphens and single dots, with a letter or digit at both ends, and no "
        "IP address",
    ),
    "Cloud Storage": (
        r"[a-z0-9](?:[a-z0-9_-]|\.(?!\.)){1,220}[a-z0-9]",
        "3 to 222 lower-case letters, digits, hyphens, underscores and single dots, with a letter or digit at both "
        "ends",
    ),
}
"""Rules for bucket names: a pattern, and the rule in words. From "General purpose bucket naming rules" (Amazon S3) and
"Bucket naming requirements" (Google Cloud Storage)."""

_STORES = {"s3": "S3", "s3a": "S3", "gs": "Cloud Storage", "gcs": "Cloud Storage"}


def location_problem(location: str) -> str | None:
    """Why a path or URL can never be written to; None if nothing is known against it.

    Parameters:
        location: a path, an fsspec URL, or several of them chained with `::`.
    """
    for part in location.split("::"):
        problem = _problem_of(part)
        if problem is not None:
            return problem
    return None


def _problem_of(part: str) -> str | None:
    scheme, colon, rest = part.partition(":")
    scheme = scheme.lower()
    if not colon or len(scheme) < 2 or scheme not in {*fsspec.available_protocols(), "block"}:
        return None  # a path; or a URL that fsspec refuses
    if not rest.startswith("//"):
        return f"is not a URL of a bucket or folder: one begins with {scheme}://"
    if scheme in ("file", "local"):
        return None
    place = rest.removeprefix("//")
    bucket = place.partition("/")[0]
    if not place.strip("/") or (scheme in OBJECT_STORES and not bucket):
        return "names no bucket or folder"
    if bucket.startswith("arn:"):
        return None  # of an access point
    return _bucket_problem(_STORES.get(scheme), bucket)


def _bucket_problem(store: str | None, bucket: str) -> str | None:
    if store is None:
        return None
    pattern, rule = _BUCKET_NAMES[store]
    if re.fullmatch(pattern, bucket) and not bucket.startswith(_RESERVED):
        return None
    return f"has no possible name of a bucket of {store}: that is {rule}"
