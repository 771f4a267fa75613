"""The address of a provider's callback about a job, which only the owner of the callback secret can make."""

from __future__ import annotations

import hashlib
import hmac

from prefect_genmedia._core.model import Job


def callback_token(secret: str, job_key: str) -> str:
    """The token that a job's callback must bring: 128 bits that only the secret's owner can make.

    Parameters:
        secret: the receiver's secret, from the settings.
        job_key: the job's key in the ledger.
    """
    return hmac.new(secret.encode(), job_key.encode(), hashlib.sha256).hexdigest()[:32]


def callback_url(public_url: str, secret: str, job: Job) -> str:
    """Where a provider shall POST when the job ends.

    Parameters:
        public_url: how the provider reaches the receiver, such as `https://callbacks.example.com`.
        secret: the callback secret.
        job: the job it is about.
    """
    return f"{public_url.rstrip('/')}/callbacks/{job.provider}/{job.key}/{callback_token(secret, job.key)}"
