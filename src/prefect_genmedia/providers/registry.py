"""The providers that are known: each registers itself, so that adding one touches no other provider."""

from __future__ import annotations

from prefect_genmedia.errors import UNDOCUMENTED_BILLING
from prefect_genmedia.providers.protocol import GenerationRequest, Provider

_PROVIDERS: dict[str, Provider] = {}


def register(provider: Provider) -> Provider:
    """Make a provider known under its name; returns it."""
    _PROVIDERS[provider.name] = provider
    return provider


def provider_named(name: str) -> Provider:
    """The provider of that name.

    Raises:
        KeyError: nothing of that name is registered.
    """
    return _PROVIDERS[name]


def providers_with_free_failures() -> frozenset[str]:
    """The names of the providers that bill no failed job, by their own documents."""
    return frozenset(name for name, provider in _PROVIDERS.items() if provider.failures_are_free)


def paid_for_failure(provider: str, price: float | None) -> str:
    """What a job cost that its provider accepted and then refused or gave up, in words.

    Parameters:
        provider: the provider's name.
        price: what the provider says of the job's price, in its own unit; None where it says nothing.
    """
    if provider in providers_with_free_failures():
        return "nothing, by the provider's word that failed jobs are not billed"
    return UNDOCUMENTED_BILLING if price is None else f"{UNDOCUMENTED_BILLING}; it names a price of {price:g}"


def request_type(kind: str) -> type[GenerationRequest]:
    """The request model of a kind such as `omnihuman`.

    Raises:
        KeyError: no provider takes requests of that kind.
    """
    for provider in _PROVIDERS.values():
        for request in provider.requests:
            if request.kind == kind:
                return request
    raise KeyError(kind)
