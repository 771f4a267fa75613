"""Finding the job of a request whose own files are gone: it was paid for, and needs them no more."""

from __future__ import annotations

from collections.abc import Sequence

from prefect_genmedia._core.identity import identity_of
from prefect_genmedia._core.ledger import Ledger
from prefect_genmedia._core.model import TAKEN, Job, JobState
from prefect_genmedia._core.submit import unresolved
from prefect_genmedia.errors import FieldProblem, InvalidRequest
from prefect_genmedia.providers.protocol import GenerationRequest


async def rejoin(
    ledger: Ledger, tokens: Sequence[str], request: GenerationRequest, scope: str, variant: int = 0
) -> Job | None:
    """The accepted job of a request whose own files are gone: the one in its scope that was asked for by their names.

    Files are told apart by their bytes, so such a request has lost its identity, and must never be submitted.

    Parameters:
        ledger: where the job stands.
        tokens: the identity tokens of the account that has paid.
        request: what is asked for.
        scope: what bounds "the same request", as in `JobSpec`.
        variant: tells apart several wanted results of the same request.

    Returns:
        The job, which needs its files no more; None where there is none, or it has failed.

    Raises:
        InvalidRequest: several jobs may be meant.
        SubmissionUnknown: it was sent without a certain answer.
    """
    wanted = identity_of(tokens[0], request, scope, variant)
    found = []
    for job in (await ledger.newest_in(scope)).values():
        same_bounds = (job.scope, job.kind, job.variant) == (scope, request.kind, variant)
        if same_bounds and job.account in tokens and wanted == _identity_by_names(tokens[0], job, type(request)):
            found.append(job)
    if len(found) > 1:
        meant = f"and jobs {', '.join(sorted(job.key for job in found))} may be meant"
        problems = [FieldProblem(each.field, f"{each.problem}; {meant}") for each in request.absent_inputs()]
        raise InvalidRequest.of(f"{type(request).__name__} request", problems)
    if not found:
        return None
    (job,) = found
    if job.state in (JobState.UNKNOWN, JobState.ABANDONED):
        raise unresolved(job)
    return job if job.state in TAKEN else None


def _identity_by_names(token: str, job: Job, kind: type[GenerationRequest]) -> str | None:
    """A job's identity as it would be now, when files that are gone have nothing but their names."""
    try:
        return identity_of(token, kind.model_validate(job.request), job.scope, job.variant)
    except InvalidRequest:  # what is stored is not always all of it: base64 is cut
        return None
