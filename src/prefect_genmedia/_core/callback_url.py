"""The URL for a provider's callback about a job. Only the owner of the callback secret can construct it."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import httpx

from prefect_genmedia._core.model import Job
from prefect_genmedia._core.session import Session
from prefect_genmedia._transport.hosts import Origin, refusal_of_host
from prefect_genmedia._transport.urls import shown_url
from prefect_genmedia.errors import FieldProblem, InvalidRequest
from prefect_genmedia.providers.protocol import PreparedRequest


def callback_token(secret: str, job_key: str) -> str:
    """Returns the token that a job's callback must carry: 128 bits that only the secret's owner can compute.

    Args:
        secret: the receiver's secret, from the settings.
        job_key: the job's key in the ledger.
    """
    return hmac.new(secret.encode(), job_key.encode(), hashlib.sha256).hexdigest()[:32]


def callback_url(public_url: str, secret: str, job: Job) -> str:
    """Returns the URL to which the provider sends a POST when the job ends.

    Args:
        public_url: the receiver's URL as the provider reaches it, such as `https://callbacks.example.com`.
        secret: the callback secret.
        job: the job that the callback is about.
    """
    return f"{public_url.rstrip('/')}/callbacks/{job.provider}/{job.key}/{callback_token(secret, job.key)}"


def check_callback(session: Session, prepared: PreparedRequest[Any]) -> None:
    """Refuse a request whose callback URL the provider cannot reach, or must not be sent to.

    A provider in a private network (a gateway, the simulator) may call back to a private address.

    Args:
        session: the account.
        prepared: the request; its own callback URL takes precedence over the receiver's.

    Raises:
        InvalidRequest: the URL is not an http(s) URL, or it points to a private host.
    """
    field = session.plugin.callback_field
    if field is None:
        return
    sample = Job(key="0" * 12, identity="", provider=prepared.provider)
    url = prepared.with_request(prepared.request.notifying(session.callback_url(sample))).payload().get(field)
    if not url:
        return
    problem = _problem_of(str(url))
    if problem is not None and not (_is_private(problem) and _calls_privately(session)):
        shown = shown_url(str(url)).replace(f"/{sample.key}/", "/…/")
        raise InvalidRequest.of("The callback", [FieldProblem(field, f"{shown.rpartition('/')[0]}/… {problem}")])


def _problem_of(url: str) -> str | None:
    try:
        origin = Origin.of(url)
    except httpx.InvalidURL:
        return "cannot be read as a URL"
    if origin.scheme not in ("http", "https") or not origin.host:
        return "is not an http or https URL"
    return refusal_of_host(origin.host)


def _is_private(problem: str) -> bool:
    return "not allowed" in problem


def _calls_privately(session: Session) -> bool:
    rules = session.client.fetch_rules
    return rules.allow_private or any(refusal_of_host(origin.host) is not None for origin in rules.trusted_origins)
