"""What makes two requests the same one."""

from __future__ import annotations

import hashlib
import json

from prefect_genmedia.providers.protocol import Account, GenerationRequest


def identity_of(account: Account, request: GenerationRequest, scope: str, variant: int = 0) -> str:
    """Digest of account, the user's own inputs, scope and variant.

    Volatile things (mask URLs, signatures of URLs) are not part of it, so a rerun that signs its URLs again or detects
    the same speaker again is the same request.

    Parameters:
        account: who pays.
        request: what is asked for.
        scope: what bounds "the same": a root flow run's id, or an idempotency key.
        variant: tells apart several wanted results of the same request.

    Returns:
        64 hexadecimal digits.
    """
    parts = {
        "account": str(account),
        "kind": request.kind,
        "inputs": request.identity_inputs(),
        "scope": scope,
        "variant": variant,
    }
    canonical = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
