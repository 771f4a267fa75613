"""Finds the job of a request whose URLs have changed: another credential in a URL, or an earlier version's rules.

Such a request has a different identity from its job. Nothing may be sent before it is known whether the job exists.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from sqlalchemy import or_, select

from prefect_genmedia._core.attempts import holds_payment
from prefect_genmedia._core.identity import BATCH_SCOPE, NamedInputs, follows_version_1, same_names
from prefect_genmedia._core.ledger import Ledger
from prefect_genmedia._core.model import Job
from prefect_genmedia._core.session import Session
from prefect_genmedia._core.statements import JOBS, job_of
from prefect_genmedia._transport.urls import read_url, url_digest, version_1_dropped
from prefect_genmedia.errors import FieldProblem, InvalidRequest
from prefect_genmedia.providers.inputs import NotedInputs, is_public
from prefect_genmedia.providers.protocol import GenerationRequest, PreparedRequest

InputDigests = list[dict[str, str | None]]
"""For each URL that holds a credential: SHA-256 of the URL and of its content, in hex; None if it was not read."""


def names_digest(request: GenerationRequest) -> str | None:
    """Returns the digest of a request with its redacted URLs; None if none of its URLs holds a credential.

    Args:
        request: the request.
    """
    if not _credentialed(request):
        return None
    named = json.dumps([request.kind, request.identity(NamedInputs())], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(named.encode("utf-8", "surrogatepass")).hexdigest()


def input_digests(prepared: PreparedRequest[Any]) -> InputDigests | None:
    """Returns what distinguishes requests with the same `names_digest`; None if none of its URLs holds a credential.

    Args:
        prepared: the request with its inputs prepared.
    """
    contents = dict(prepared.inputs.contents)
    urls = _credentialed(prepared.request)
    return [{"url": url_digest(url), "content": contents.get(url)} for url in urls] or None


async def job_by_url(session: Session, prepared: PreparedRequest[Any], scope: str, variant: int) -> Job | None:
    """Returns the paid job of a request under another identity, if the request's URLs allow for one.

    Args:
        session: the account that pays.
        prepared: the request with its inputs prepared, or identified.
        scope: the scope in which equal requests are the same.
        variant: distinguishes several requested results of the same request.

    Returns:
        The job; None if there is none, or the request's own identity has one.

    Raises:
        InvalidRequest: a job of this idempotency key or batch row may be the same, but this cannot be determined.
    """
    request = prepared.request
    if follows_version_1(request, prepared.inputs):
        return None
    if await session.ledger.newest_of(session.identities(prepared, scope, variant)) is not None:
        return None
    found = await _jobs_by_names(session.ledger, scope, variant, request)
    now = session.clock.now()
    newest = {job.identity: job for job in found if job.account in session.tokens}
    paid = [job for job in newest.values() if holds_payment(job, now)]
    return next((job for job in paid if _is_job_of(job, prepared)), None)


async def _jobs_by_names(ledger: Ledger, scope: str, variant: int, request: GenerationRequest) -> list[Job]:
    """Returns the scope's jobs, oldest attempt first, that version 1 recorded or that have the same names."""
    # A comparison with None would become `IS NULL`, which matches jobs without credentials.
    by_names = or_(JOBS.c.identity_version.is_(None), JOBS.c.names_digest == (names_digest(request) or "none"))
    same = (JOBS.c.scope == scope, JOBS.c.kind == request.kind, JOBS.c.variant == variant)
    return [job_of(row) for row in await ledger.query(select(JOBS).where(*same, by_names).order_by(JOBS.c.attempt))]


def _is_job_of(job: Job, prepared: PreparedRequest[Any]) -> bool:
    if job.identity_version is None:
        if job.pruned_at is not None:
            raise _undecided(job, "may have the same URLs, but its request was pruned")
        if not _has_version_1_names(job, prepared.request):
            return False
        if job.scope.startswith("key:") and not job.scope.startswith(BATCH_SCOPE):
            raise _undecided(job, f"{_SAME} its version did not record what tells their tokens apart")
        return True
    ours = input_digests(prepared) or []
    pairs = list(zip(job.input_digests or [], ours, strict=False))
    if any(one["content"] and other["content"] and one["content"] != other["content"] for one, other in pairs):
        return False
    if all(one["url"] == other["url"] or one["content"] == other["content"] is not None for one, other in pairs):
        return True
    if job.scope.startswith("key:"):
        reason = "has other tokens in them, and the files could not be read then or cannot be read now"
        raise _undecided(job, f"{_SAME} {reason}")
    return False  # within one run, two URLs are two files unless something proves otherwise


_SAME = "has the same URLs, but"


def _undecided(job: Job, reason: str) -> InvalidRequest:
    is_row = job.scope.startswith(BATCH_SCOPE)
    what = "row id" if is_row else "idempotency key"
    problem = f"job {job.key} of this {what} {reason}: whether it is the same file is not known"
    refusal = InvalidRequest.of("The request", [FieldProblem("id" if is_row else "idempotency_key", problem)])
    refusal.next_step = (
        f"look at its file: `prefect-genmedia jobs show {job.key}`. For another file, use another {what}."
    )
    return refusal


def _has_version_1_names(job: Job, request: GenerationRequest) -> bool:
    noted = NotedInputs()
    request.identity(noted)
    dropped: set[str] = set()
    for url in noted.urls:
        read = read_url(url)
        dropped |= read.signing | version_1_dropped({name.lower() for name, _ in read.pairs})
    try:
        recorded = type(request).model_validate(job.request)
    except InvalidRequest:  # the stored request may be incomplete: base64 is cut
        return False
    return same_names(request, recorded, frozenset(dropped))


def _credentialed(request: GenerationRequest) -> list[str]:
    noted = NotedInputs()
    request.identity(noted)
    return [url for url in noted.urls if is_public(url) and read_url(url).credentials]
