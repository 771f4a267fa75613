"""The Prefect server that a command needs: whether one is set, is an API, and answers. None is started for it."""

from __future__ import annotations

import asyncio

import httpx
from prefect.client.orchestration import get_client
from prefect.settings import get_current_settings

from prefect_genmedia.cli.console import stop
from prefect_genmedia.cli.guard import sentence_of

PATIENCE_SECONDS = 10.0
"""How long the server may take to answer, in seconds."""


def require_server() -> str:
    """The API's URL, without user and password; ends the command in a sentence where no server can be used."""
    api = get_current_settings().api.url
    if not api:
        stop(
            "No Prefect server is set, and none is started for this. Next: `prefect server start` in another terminal, "
            "and `prefect config set PREFECT_API_URL=http://127.0.0.1:4200/api`."
        )
    problem = asyncio.run(_problem(api))
    if problem is not None:
        stop(problem)
    return shown(api)


def shown(api: str) -> str:
    """A server's URL for people: without user and password.

    Args:
        api: the URL.
    """
    try:
        return str(httpx.URL(api).copy_with(userinfo=b""))
    except httpx.InvalidURL:
        return "no URL"


async def _problem(api: str) -> str | None:
    url = shown(api)
    if not url.startswith(("http://", "https://")):
        return f"PREFECT_API_URL is {url}: it must begin with http:// or https:// and end in /api."
    if "api" not in httpx.URL(api).path.split("/") and await _is_api(f"{api.rstrip('/')}/api"):
        return f"PREFECT_API_URL is {url}, where the UI is: set it to {url.rstrip('/')}/api."
    try:
        async with get_client() as client:
            error = await asyncio.wait_for(client.api_healthcheck(), PATIENCE_SECONDS)
    except Exception as raised:  # whatever it is, the server cannot be used now
        error = raised
    if error is None:
        return None
    if isinstance(error, httpx.HTTPStatusError) and error.response.status_code == 404:
        return f"PREFECT_API_URL is {url}, which is no Prefect API: it ends in /api."
    reason = sentence_of(error) or f"The Prefect server does not answer: {type(error).__name__}."
    return f"{reason} PREFECT_API_URL is {url}."


async def _is_api(api: str) -> bool:
    """Whether a Prefect API answers at a URL."""
    try:
        async with httpx.AsyncClient(timeout=PATIENCE_SECONDS) as client:
            answer = await client.get(f"{api}/health")
            return answer.is_success and answer.json() is True
    except (httpx.HTTPError, ValueError):
        return False
