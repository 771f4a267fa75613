"""What makes two requests the same one."""

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
"""Begins the scope of a batch's row."""

IDENTITY_VERSION = 2
"""The rules that identities of new jobs follow. Version 1 knew fewer signing schemes, and left some credentials out."""


@dataclass(frozen=True)
class Identities:
    """The identities that one wanted result may have in the ledger.

    Parameters:
        new: the identity of a new job.
        lookup: every identity that its job may have, the one by the client's own key and base URL first.
    """

    new: str
    lookup: tuple[str, ...]


@dataclass(frozen=True)
class Version1Inputs(SentInputs):
    """URLs as they counted in identities of version 1."""

    def public_identity(self, url: str) -> str:
        """See `version_1_url`.

        Parameters:
            url: the URL.
        """
        return version_1_url(url)


@dataclass(frozen=True)
class NamedInputs(SentInputs):
    """Every file by its URL alone, without parameters that may differ between two names of one file.

    Parameters:
        dropped: those parameters, in lower case; None for all that are never shown.
    """

    dropped: frozenset[str] | None = None

    def public_identity(self, url: str) -> str:
        """The URL without them.

        Parameters:
            url: the URL.
        """
        return shown_url(url) if self.dropped is None else read_url(url).without(self.dropped)


def follows_version_1(request: GenerationRequest, inputs: SentInputs) -> bool:
    """Whether a request has the same identity by the rules of version 1.

    Parameters:
        request: what is asked for.
        inputs: what is sent in place of the user's own files.
    """
    return request.identity(inputs) == request.identity(Version1Inputs(inputs.by_url))


def same_names(one: GenerationRequest, other: GenerationRequest, dropped: frozenset[str] | None) -> bool:
    """Whether two requests are the same if each file counts by its URL or path, without some parameters.

    Parameters:
        one: a request.
        other: another one.
        dropped: as in `NamedInputs`.
    """
    named = NamedInputs(dropped=dropped)
    return one.kind == other.kind and one.identity(named) == other.identity(named)


def identity_of(
    account: Account | str, request: GenerationRequest | PreparedRequest[Any], scope: str, variant: int = 0
) -> str:
    """Digest of account, the user's own inputs, scope and variant.

    Volatile things (mask URLs, signatures of URLs) are not part of it, so a rerun that signs its URLs again or detects
    the same speaker again is the same request.

    Parameters:
        account: who pays, or one of the account's identity tokens.
        request: what is asked for. The user's own files count by their content only if it is prepared, or if they are
            on this machine.
        scope: what bounds "the same": a root flow run's id, or an idempotency key.
        variant: tells apart several wanted results of the same request.

    Returns:
        64 hexadecimal digits.
    """
    (identity,) = identities_of([str(account)], request, scope, variant)
    return identity


def identities_of(
    tokens: Sequence[str], request: GenerationRequest | PreparedRequest[Any], scope: str, variant: int = 0
) -> list[str]:
    """The identity of a request by each of several identity tokens; its files are read once.

    Parameters:
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
