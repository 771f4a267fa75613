"""What makes two requests the same one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prefect_genmedia.providers.protocol import Account, GenerationRequest, PreparedRequest


@dataclass(frozen=True)
class Identities:
    """The identities that one wanted result may have in the ledger.

    Parameters:
        new: the identity of a new job.
        lookup: every identity that its job may have, the one by the client's own key and base URL first.
    """

    new: str
    lookup: tuple[str, ...]


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
