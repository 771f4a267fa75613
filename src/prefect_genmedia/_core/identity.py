"""What makes two requests the same one."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from prefect_genmedia.providers.protocol import Account, GenerationRequest, PreparedRequest


def identity_of(
    account: Account, request: GenerationRequest | PreparedRequest[Any], scope: str, variant: int = 0
) -> str:
    """Digest of account, the user's own inputs, scope and variant.

    Volatile things (mask URLs, signatures of URLs) are not part of it, so a rerun that signs its URLs again or detects
    the same speaker again is the same request.

    Parameters:
        account: who pays.
        request: what is asked for. The user's own files count by their content only if it is prepared, or if they are
            on this machine.
        scope: what bounds "the same": a root flow run's id, or an idempotency key.
        variant: tells apart several wanted results of the same request.

    Returns:
        64 hexadecimal digits.
    """
    prepared = request if isinstance(request, PreparedRequest) else PreparedRequest(request)
    parts = {
        "account": str(account),
        "kind": prepared.request.kind,
        "inputs": prepared.request.identity(prepared.inputs),
        "scope": scope,
        "variant": variant,
    }
    canonical = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
