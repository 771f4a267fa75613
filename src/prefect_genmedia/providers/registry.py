"""The providers that are known: each registers itself, so that adding one touches no other provider."""

from __future__ import annotations

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
