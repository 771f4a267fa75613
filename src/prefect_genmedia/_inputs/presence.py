"""Whether http(s) inputs are there: one that answers twice that it is gone is not paid for.

Nothing else is concluded from an answer: a provider may have access where this machine has not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from urllib.parse import urlsplit

from prefect_genmedia._inputs.inspect import Inspection, InspectionResult
from prefect_genmedia._inputs.reading import Unusable
from prefect_genmedia._transport import FetchRules, fetch
from prefect_genmedia._transport.hosts import refusal_of_host
from prefect_genmedia.errors import GenMediaError, ProviderError
from prefect_genmedia.providers.inputs import is_public
from prefect_genmedia.providers.protocol import GenerationRequest

GONE = frozenset({404, 410})
"""HTTP statuses that say that there is no such file."""

AGAIN_SECONDS = 5.0
"""How long after the first such answer an input is asked for again: an upload may be under way."""

ASK_SECONDS = 20.0
"""How long one answer may take, in seconds."""

ASKED_AT_ONCE = 8
"""Inputs that are asked for again at once."""

_FIRST_BYTE = {"Range": "bytes=0-0"}

_DOCUMENTATION_HOSTS = ("example.com", "example.net", "example.org")
_DOCUMENTATION_ENDINGS = (".example", ".test", ".invalid", *(f".{host}" for host in _DOCUMENTATION_HOSTS))

Sleep = Callable[[float], Awaitable[None]]


def asked_inputs(request: GenerationRequest) -> list[str]:
    """The http(s) inputs of a request whose presence matters: not those that are made anew before it is sent.

    Args:
        request: what is asked for.
    """
    return [each.url for each in request.inputs() if is_public(each.url) and not each.is_renewed]


async def ask(url: str, rules: FetchRules) -> InspectionResult:
    """Ask for the first byte of an http(s) input; nothing is raised.

    Args:
        url: the input.
        rules: what a fetch may do.

    Returns:
        An empty inspection if it is there, or if nobody could have it: see `_is_example`.
    """
    if _is_example(url, rules):
        return Inspection(0)
    rules = replace(rules, headers=_FIRST_BYTE, seconds=min(rules.seconds, ASK_SECONDS))
    try:
        async with fetch(url, rules) as response:
            if response.is_success:
                return Inspection(0)
            status = response.status_code
    except GenMediaError as error:
        return error
    return ProviderError(f"The URL answered {status}.", http_status=status)


def says_gone(result: InspectionResult | None) -> bool:
    """Whether an input has answered that there is no such file.

    Args:
        result: what came of inspecting it.
    """
    return isinstance(result, GenMediaError) and result.http_status in GONE


async def confirm_gone(
    urls: Iterable[str], results: Mapping[str, InspectionResult], rules_of: Callable[[str], FetchRules], sleep: Sleep
) -> dict[str, InspectionResult]:
    """Ask again for the inputs that said that they are gone.

    Args:
        urls: the inputs that matter.
        results: the first inspection result of each.
        rules_of: what a fetch of each may do.
        sleep: waits.

    Returns:
        The inputs that are gone, each as `Unusable`.
    """
    doubted = [url for url in dict.fromkeys(urls) if says_gone(results.get(url))]
    if not doubted:
        return {}
    await sleep(AGAIN_SECONDS)
    gate = asyncio.Semaphore(ASKED_AT_ONCE)

    async def again(url: str) -> InspectionResult:
        async with gate:
            return await ask(url, rules_of(url))

    answers = zip(doubted, await asyncio.gather(*map(again, doubted)), strict=True)
    return {
        url: Unusable(f"is not there: the URL answered {answer.http_status}, and again after {AGAIN_SECONDS:.0f} s")
        for url, answer in answers
        if isinstance(answer, GenMediaError) and says_gone(answer)
    }


def _is_example(url: str, rules: FetchRules) -> bool:
    """Whether a documentation's URL is given to a provider of a private network.

    That is a simulator, which has samples in place of what such URLs would serve.
    """
    host = (urlsplit(url).hostname or "").removesuffix(".")
    is_documentation = host in _DOCUMENTATION_HOSTS or host.endswith(_DOCUMENTATION_ENDINGS)
    return is_documentation and any(refusal_of_host(origin.host) is not None for origin in rules.trusted_origins)
