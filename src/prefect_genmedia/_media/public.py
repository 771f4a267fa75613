"""Which public URL a delivered file has, by the folders that a web server or CDN serves."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from urllib.parse import quote, urlsplit

from prefect_genmedia.providers.inputs import local_path

_logger = logging.getLogger(__name__)

_warned: set[str] = set()


def public_url(uri: str, base_urls: Mapping[str, str]) -> str | None:
    """The http(s) URL of a file that lies in a public folder; None if no such folder holds it.

    Args:
        uri: path or URL of the file.
        base_urls: the http(s) URL of each public folder, by the folder's path or URL. The innermost folder counts.
    """
    name = _normal(uri)
    for folder, base in sorted(base_urls.items(), key=lambda item: -len(_normal(item[0]))):
        inner = name.removeprefix(f"{_normal(folder)}/")
        if inner != name and ".." not in inner.split("/"):
            checked = checked_base(base)
            return None if checked is None else f"{checked}/{quote(inner, errors='surrogatepass')}"
    return None


def checked_base(url: str) -> str | None:
    """The base of links without a slash at its end; None, with a warning once a process, if it cannot be one.

    Args:
        url: what the settings say.
    """
    try:
        parts = urlsplit(url.strip())
        is_plain = parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc
    except ValueError:
        is_plain = False
    if is_plain and not parts.query and not parts.fragment and not set(url.strip()) & set(" <>\"'`|\\()[]"):
        return url.strip().rstrip("/")
    if url not in _warned:
        _warned.add(url)
        _logger.warning(
            "A base URL for links to results is not used: it must be an http(s) URL without user, password, query "
            "and fragment"
        )
    return None


def _normal(location: str) -> str:
    path = local_path(location)
    text = location if path is None else str(path.expanduser().absolute())
    return text.replace("\\", "/").rstrip("/")
