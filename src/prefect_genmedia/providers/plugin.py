"""Provider plug-ins: what a provider declares about itself, and how the installed ones are found.

A provider is a Python package that declares an entry point in the group `prefect_genmedia.providers`. The providers
that come with this package are declared in the same way.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Protocol

from prefect_genmedia.errors import FieldProblem, InvalidRequest
from prefect_genmedia.prices import Price
from prefect_genmedia.providers.inputs import MAX_PICTURE_BYTES, is_input
from prefect_genmedia.providers.protocol import GenerationRequest, ProviderClient

if TYPE_CHECKING:
    from prefect_genmedia.providers.credentials import ProviderCredentials

GROUP = "prefect_genmedia.providers"
"""The entry-point group of provider plug-ins. Each entry point names a `ProviderPlugin`."""

_logger = logging.getLogger(__name__)


class ResolveSession(Protocol):
    """What a plug-in's `resolve` may use: the account's client, and access to the request's inputs."""

    @property
    def client(self) -> ProviderClient:
        """The account's client."""
        ...

    async def public_url(self, url: str, field: str) -> str:
        """A URL of an input that the provider can fetch: the input's own, or that of a published copy.

        Args:
            url: where the user has the input.
            field: the field's name, for errors.

        Raises:
            InvalidRequest: the input does not exist, or cannot be published.
        """
        ...

    async def fetch_picture(self, url: str, max_bytes: int = MAX_PICTURE_BYTES) -> bytes:
        """The bytes of a picture, such as a mask.

        Args:
            url: an http or https URL.
            max_bytes: a larger picture is refused.

        Raises:
            ProviderError: the picture cannot be fetched.
        """
        ...


Resolve = Callable[[Any, ResolveSession], Awaitable[Any]]
"""Completes a request right before it is sent, with what only the provider can tell. Returns the request to send, which
has the same identity. Called again if the request's inputs expired while it waited."""


@dataclass(frozen=True, kw_only=True)
class ProviderPlugin:
    """Everything that the package knows about a provider.

    Import paths have the form `package.module:name`. They are resolved when they are needed, so that a plug-in's
    client, Block and simulator are not loaded by whoever only wants to read the ledger.

    Args:
        name: the provider's name in the ledger, in tables and in prices, such as `acme`.
        title: the provider's name for people, such as `Acme`.
        requests: the request models that it takes. The `kind` of each is unique among all plug-ins.
        credentials: import path of its credentials Block, a subclass of `ProviderCredentials`.
        prices: list prices by model; empty if the provider publishes none.
        job_lifetime_seconds: how long the provider knows a job, in seconds; None if it is not documented.
        result_lifetime_seconds: how long a finished file can be fetched, in seconds; None if it is not documented.
        failures_are_free: whether the provider's documents say that failed jobs are not billed. Errors say so, and
            budgets give back what was reserved for them.
        callback_words: reads the provider's words for a job's state from the JSON of a callback; never raises. None if
            the provider sends no callbacks.
        callback_job_id: reads the provider's id of the job from the JSON of a callback; None if it names none. One that
            names another job is ignored; the empty text is none of ours.
        callback_field: the field of the submission that tells where to call back, such as `notify_url`; None for none.
            An address that the provider cannot reach is refused before anything is sent.
        resolve: completes a request before it is sent; None if its requests are complete.
        chain_inputs: the name of the field that takes a video, by kind. In a chain, the result of the step before goes
            there. Kinds that are not named cannot follow another step.
        reconcile: import path of an async function without parameters that `reconcile_jobs` calls at its end, and that
            returns log lines; None if there is nothing to do.
        simulator: import path of its dialect of the simulator, a subclass of `Dialect`; None if there is none.
        documentation_url: the provider's API documentation.
    """

    name: str
    title: str
    requests: tuple[type[GenerationRequest], ...]
    credentials: str
    prices: Mapping[str, Price] = field(default_factory=dict)
    job_lifetime_seconds: float | None = None
    result_lifetime_seconds: float | None = None
    failures_are_free: bool = False
    callback_words: Callable[[Any], str] | None = None
    callback_job_id: Callable[[Any], str | None] | None = None
    callback_field: str | None = None
    resolve: Resolve | None = None
    chain_inputs: Mapping[str, str] = field(default_factory=dict)
    reconcile: str | None = None
    simulator: str | None = None
    documentation_url: str = ""

    def credentials_type(self) -> type[ProviderCredentials]:
        """The class of its credentials Block."""
        block_type: type[ProviderCredentials] = imported(self.credentials)
        return block_type


class _Registry:
    """Plug-ins by name: the installed ones, loaded at the first use, and those that a program registered itself."""

    def __init__(self) -> None:
        self.registered: dict[str, ProviderPlugin] = {}

    @functools.cached_property
    def installed(self) -> dict[str, ProviderPlugin]:
        found: dict[str, ProviderPlugin] = {}
        for entry in _entry_points():
            try:
                plugin = _checked(entry.load(), found)
            except Exception as error:  # a broken plug-in must not keep the others from working
                _skipped(entry.name, error)
                continue
            found[plugin.name] = plugin
        return found

    def all(self) -> dict[str, ProviderPlugin]:
        return {**self.installed, **self.registered}


def _entry_points() -> list[EntryPoint]:
    """The declared plug-ins: those of this package first, so that no other one takes their names."""
    return sorted(
        entry_points(group=GROUP), key=lambda each: (not each.value.startswith("prefect_genmedia."), each.name)
    )


def _checked(plugin: Any, others: Mapping[str, ProviderPlugin]) -> ProviderPlugin:
    """The plug-in, if it is one, and takes no name or kind of another.

    Raises:
        TypeError, ValueError: it cannot be used; the sentence says why.
    """
    if not isinstance(plugin, ProviderPlugin):
        raise TypeError(f"it is a {type(plugin).__name__}, and not a ProviderPlugin")
    if plugin.name in others:
        raise ValueError(f"another plug-in has the name {plugin.name!r}")
    taken = {request.kind: other.name for other in others.values() for request in other.requests}
    for request in plugin.requests:
        if request.kind in taken:
            raise ValueError(f"the kind {request.kind!r} is of the plug-in {taken[request.kind]!r}")
        if request.provider != plugin.name:
            raise ValueError(f"{request.__name__} names the provider {request.provider!r}")
    fields = {request.kind: request.model_fields for request in plugin.requests}
    for kind, name in plugin.chain_inputs.items():
        if name not in fields.get(kind, {}) or not is_input(fields[kind][name]):
            raise ValueError(
                f"chain_inputs names {name!r} of the kind {kind!r}, which is no field of it that takes a file"
            )
    return plugin


@functools.lru_cache(maxsize=256)
def _warned(name: str, what: str) -> None:
    _logger.warning("The provider plug-in %r cannot be loaded and is skipped: %s", name, what)


def _skipped(name: str, error: Exception) -> None:
    """Say once that a plug-in is skipped."""
    _warned(name, repr(error))


_REGISTRY = _Registry()


def register(plugin: ProviderPlugin) -> ProviderPlugin:
    """Add a plug-in to this process; for tests and notebooks. Packages declare an entry point instead.

    Args:
        plugin: the plug-in. It replaces an installed one of the same name.
    """
    _REGISTRY.registered[plugin.name] = plugin
    return plugin


def plugins() -> tuple[ProviderPlugin, ...]:
    """All plug-ins, in the order of their names."""
    return tuple(plugin for _, plugin in sorted(_REGISTRY.all().items()))


def find_plugin(name: str) -> ProviderPlugin | None:
    """The plug-in of a provider; None if it is not installed, as for a ledger row of an uninstalled plug-in.

    Args:
        name: the provider's name.
    """
    return _REGISTRY.all().get(name)


def plugin_named(name: str) -> ProviderPlugin:
    """The plug-in of a provider.

    Args:
        name: the provider's name.

    Raises:
        InvalidRequest: no plug-in of that name is installed.
    """
    plugin = find_plugin(name)
    if plugin is None:
        known = ", ".join(sorted(_REGISTRY.all())) or "none"
        problem = f"no plug-in for the provider {name!r} is installed; installed: {known}"
        raise InvalidRequest.of("The job", [FieldProblem("provider", problem)])
    return plugin


def kinds() -> dict[str, type[GenerationRequest]]:
    """Every request model, by its kind."""
    return {request.kind: request for plugin in plugins() for request in plugin.requests}


def chain_inputs() -> dict[str, str]:
    """The field that takes the video of the step before, by the kinds that can follow another step."""
    return {kind: name for plugin in plugins() for kind, name in plugin.chain_inputs.items()}


def request_type(kind: str) -> type[GenerationRequest]:
    """The request model of a kind such as `poster`.

    Args:
        kind: the kind.

    Raises:
        KeyError: no plug-in takes requests of that kind.
    """
    return kinds()[kind]


def make_request(kind: str, fields: Mapping[str, Any]) -> GenerationRequest:
    """A request of a kind, from its fields.

    Args:
        kind: the kind, such as `poster`.
        fields: the request's fields, by name.

    Raises:
        InvalidRequest: with every problem: no installed plug-in has the kind, or fields are wrong.
    """
    models = kinds()
    if kind not in models:
        problem = f"no installed provider has the kind {kind!r}; installed: {', '.join(sorted(models)) or 'none'}"
        raise InvalidRequest.of("The request", [FieldProblem("kind", problem)])
    return models[kind].model_validate(dict(fields))


def list_prices() -> dict[str, Price]:
    """The list prices of all providers, by `provider/model`."""
    return {f"{plugin.name}/{model}": price for plugin in plugins() for model, price in plugin.prices.items()}


def providers_with_free_failures() -> frozenset[str]:
    """The names of the providers that bill no failed job, by their own documents."""
    return frozenset(plugin.name for plugin in plugins() if plugin.failures_are_free)


def loaded_parts(part: str) -> dict[str, Any]:
    """A part of every plug-in that has it, by the plug-in's name. A part that cannot be imported is skipped.

    Args:
        part: name of a field of `ProviderPlugin` that holds an import path, such as `simulator`.
    """
    found: dict[str, Any] = {}
    for plugin in plugins():
        path = getattr(plugin, part)
        try:
            if path is not None:
                found[plugin.name] = imported(path)
        except Exception as error:  # a broken plug-in must not keep the others from working
            _skipped(f"{plugin.name}: {part}", error)
    return found


def imported(path: str) -> Any:
    """The object behind an import path such as `package.module:name`.

    Args:
        path: the import path.
    """
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)
