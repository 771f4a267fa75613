"""Request identity: decides when two requests count as the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prefect_genmedia._transport.urls import read_url, shown_url, version_1_url
from prefect_genmedia.providers.inputs import SentInputs
from prefect_genmedia.providers.protocol import Account, GenerationRequest, PreparedRequest

BATCH_SCOPE = "key:batch:"
"""Prefix of the scope of a batch row."""

IDENTITY_VERSION = 2
"""The rules for identities of new jobs. Version 1 knew fewer signing schemes and omitted some credentials."""


@dataclass(frozen=True)
class Identities:
    """The identities that one requested result may have in the ledger.

    Args:
        new: the identity of a new job.
        lookup: every identity that its job may have; the one with the client's own key and base URL comes first.
    """

    new: str
    lookup: tuple[str, ...]


@dataclass(frozen=True)
class Version1Inputs(SentInputs):
    """URLs in the form that identities of version 1 use."""

    def public_identity(self, url: str) -> str:
        """See `version_1_url`.

        Args:
            url: the URL.
        """
        return version_1_url(url)


@dataclass(frozen=True)
class NamedInputs(SentInputs):
    """Identifies every file by its URL alone, without parameters that may differ between two URLs of one file.

    Args:
        dropped: those parameters, in lower case; None for all parameters that are never shown.
    """

    dropped: frozenset[str] | None = None

    def public_identity(self, url: str) -> str:
        """Returns the URL without these parameters.

        Args:
            url: the URL.
        """
        return shown_url(url) if self.dropped is None else read_url(url).without(self.dropped)


def follows_version_1(request: GenerationRequest, inputs: SentInputs) -> bool:
    """Whether a request has the same identity under the rules of version 1.

    Args:
        request: the request.
        inputs: what is sent in place of the user's local files.
    """
    return request.identity(inputs) == request.identity(Version1Inputs(inputs.by_url))


def same_names(one: GenerationRequest, other: GenerationRequest, dropped: frozenset[str] | None) -> bool:
    """Whether two requests are equal if each file is identified by its URL or path, without some parameters.

    Args:
        one: a request.
        other: another one.
        dropped: as in `NamedInputs`.
    """
    named = NamedInputs(dropped=dropped)
    return one.kind == other.kind and one.identity(named) == other.identity(named)


def identity_of(
    account: Account | str, request: GenerationRequest | PreparedRequest[Any], scope: str, variant: int = 0
) -> str:
    """Returns the digest of account, user inputs, scope and variant.

    Volatile values (mask URLs, URL signatures) are not part of it, so a rerun that signs its URLs again or detects the
    same speaker again is the same request.

    Args:
        account: who pays, or one of the account's identity tokens.
        request: the request. Its files are identified by content only if it is prepared or if they are on this machine.
        scope: the scope in which equal requests are the same: a root flow run's id, or an idempotency key.
        variant: distinguishes several requested results of the same request.

    Returns:
        64 hexadecimal digits.
    """
    (identity,) = identities_of([str(account)], request, scope, variant)
    return identity


def identities_of(
    tokens: Sequence[str], request: GenerationRequest | PreparedRequest[Any], scope: str, variant: int = 0
) -> list[str]:
    """Returns the identity of a request for each of several identity tokens; its files are read once.

    Args:
        tokens: the identity tokens.
        request: as for `identity_of`.
        scope: as for `identity_of`.
        variant: as for `identity_of`.
    """
    prepared = request if isinstance(request, PreparedRequest) else PreparedRequest(request)
    parts = {
        "kind": prepared.request.kind,
        "inputs": prepared.request.identity(prepared.inputs),
        "scope": scope,
        "variant": variant,
    }
    return [_digest({"account": token, **parts}) for token in tokens]


def _digest(parts: dict[str, Any]) -> str:
    canonical = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
