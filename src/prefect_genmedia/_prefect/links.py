"""Links to delivered files for browsers: the public URL of a file, or its address at `prefect-genmedia serve`.

A storage's signed URL is never used: artifacts, tables and logs are stored, and everyone who reads them could open the
file with it. `prefect-genmedia serve` signs a new URL each time a link is opened.
"""

from __future__ import annotations

from urllib.parse import quote, urlsplit

from prefect_genmedia._core.model import Delivery
from prefect_genmedia._media.public import checked_base, public_url
from prefect_genmedia.settings import current_settings

POSTER = "poster"
"""The last part of a poster frame's address at `prefect-genmedia serve`."""


def watch_url(uri: str | None, job_key: str | None, number: int = 1) -> str | None:
    """Returns the link to a delivered video; None if the settings have no address for it.

    Args:
        uri: path or URL of the file; None for no file.
        job_key: its job in the ledger.
        number: which of the job's files, from 1.
    """
    return _link(uri, job_key, "" if number == 1 else f"/{number}")


def poster_url(uri: str | None, job_key: str | None) -> str | None:
    """Returns the link to a poster frame; see `watch_url`.

    Args:
        uri: path or URL of the poster frame; None for none.
        job_key: its job in the ledger.
    """
    return _link(uri, job_key, f"/{POSTER}")


def watch_urls(delivery: Delivery) -> list[str]:
    """Returns the links to all files of a job that have one.

    Args:
        delivery: the job's first file, with the others.
    """
    files = (delivery, *delivery.others)
    found = (watch_url(each.uri, each.job_key or delivery.job_key, number) for number, each in enumerate(files, 1))
    return [url for url in found if url is not None]


def public_link(uri: str) -> str | None:
    """Returns the public URL of a file in a folder of the setting `public_base_url`; None if it has none.

    Args:
        uri: path or URL of the file.
    """
    base = current_settings().public_base_url
    if not base:
        return None
    return public_url(uri, {current_settings().media_folder: base} if isinstance(base, str) else base)


def _link(uri: str | None, job_key: str | None, ending: str) -> str | None:
    if not uri:
        return None
    if (public := public_link(uri)) is not None:
        return public
    if urlsplit(uri).scheme in ("http", "https"):
        return None  # such a URL may contain a signature; `link` checks and shows it
    viewer = current_settings().viewer_url
    base = checked_base(viewer) if viewer and job_key else None
    return None if base is None else f"{base}/files/{quote(job_key or '', safe='')}{ending}"
