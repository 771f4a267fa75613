"""Chains: the further steps of a row, each made from the file of the step before."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from anyio import to_thread

from prefect_genmedia._core.model import Delivery, Job
from prefect_genmedia._inputs import identified
from prefect_genmedia._inputs.publish import Publication
from prefect_genmedia._media.folder import Storage
from prefect_genmedia._transport import FetchRules
from prefect_genmedia.batch.cells import CellSorter, bare, cell_value
from prefect_genmedia.batch.columns import OWN, THEN
from prefect_genmedia.errors import FieldProblem, InvalidRequest
from prefect_genmedia.providers.inputs import SentInput, SentInputs, is_public
from prefect_genmedia.providers.plugin import chain_inputs
from prefect_genmedia.providers.protocol import GenerationRequest, PreparedRequest

NO_BLOCK = (
    "is a Block's storage, from which the next step of a chain cannot be made: name a folder, or an fsspec URL such as "
    "s3://bucket/folder"
)
"""Why a chain's files cannot go to an output of that kind."""

MAX_STEPS = 20
"""Maximum number of steps of a chain, including the first."""

UNMADE = "https://step-before.invalid/result.mp4"
"""The input of a step whose step before has no file yet. It is never fetched and never sent."""


def step_field(number: int, name: str = "") -> str:
    """Returns the name of a field of a step in error messages, such as `step 2.style`.

    Args:
        number: the step, from 1.
        name: the field; empty for the step itself.
    """
    return f"step {number}.{name}".rstrip(".")


class StepReader:
    """Reads further steps: each becomes a request whose input is `UNMADE` until the step before is delivered."""

    def __init__(self) -> None:
        self._sorter = CellSorter("", has_columns=False)
        self._inputs = chain_inputs()

    def read(self, cell: Any, problems: list[FieldProblem]) -> tuple[GenerationRequest, ...]:
        """Returns the requests of the steps after the first, as far as they are valid.

        Args:
            cell: a step, a list of steps, or JSON text of either. A step is an object with its kind and fields.
            problems: every problem of every step is added here.
        """
        try:
            steps = list(_steps_in(cell))
        except ValueError as error:
            problems.append(FieldProblem(THEN, str(error)))
            return ()
        if len(steps) >= MAX_STEPS:
            problems.append(
                FieldProblem(THEN, f"has {len(steps)} steps; a chain has at most {MAX_STEPS}, with its first")
            )
            return ()
        read = [self._request(number, step, problems) for number, step in enumerate(steps, 2)]
        return tuple(request for request in read if request is not None)

    def _request(self, number: int, step: Any, problems: list[FieldProblem]) -> GenerationRequest | None:
        own: list[FieldProblem] = []
        request = self._checked(step, own)
        problems.extend(FieldProblem(step_field(number, each.field), each.problem) for each in own)
        return None if own else request

    def _checked(self, step: Any, problems: list[FieldProblem]) -> GenerationRequest | None:
        if not isinstance(step, Mapping):
            problems.append(FieldProblem("", "must be an object with a kind and the fields of that kind"))
            return None
        given = {str(name): value for name, value in step.items() if value is not None and value != ""}
        if not bare(given.get("kind", "")):
            problems.append(FieldProblem("kind", "is missing"))
            return None
        problems.extend(
            FieldProblem(name, "belongs to the row, not to a step")
            for name in given
            if name in (*OWN, THEN)
            if name != "kind"
        )
        cells = self._sorter.sort(given)
        problems.extend(cells.problems)
        if cells.model is None:
            return None
        filled = self._inputs.get(cells.kind)
        if filled is None:
            can = ", ".join(sorted(self._inputs)) or "none"
            problems.append(
                FieldProblem(
                    "kind", f"{cells.kind} takes no video, so it cannot follow another step; kinds that can: {can}"
                )
            )
            return None
        if filled in given:
            problems.append(FieldProblem(filled, "is filled with the file of the step before, and must not be given"))
        problems.extend(
            FieldProblem(name, "belongs to the row, not to a step") for name in cells.extra
        )  # project, tags
        return _validated(cells.model, {**cells.inputs, filled: cell_value(cells.model, filled, UNMADE)}, problems)


def _validated(
    model: type[GenerationRequest], inputs: Mapping[str, Any], problems: list[FieldProblem]
) -> GenerationRequest | None:
    try:
        return model.model_validate(dict(inputs)).normalized()
    except InvalidRequest as refusal:
        reported = {problem.field for problem in problems}
        if reported:
            reported.add("")  # a conflict between fields may only result from the invalid ones
        problems.extend(problem for problem in refusal.problems if problem.field not in reported)
    return None


def _steps_in(cell: Any) -> Iterator[Any]:
    """Yields the steps that a cell names.

    Raises:
        ValueError: the cell is neither an object, a list nor JSON text of one; the sentence says so.
    """
    if isinstance(cell, str):
        if not bare(cell):
            return
        try:
            cell = json.loads(cell)
        except (ValueError, RecursionError):
            raise ValueError(
                "must be JSON of an object, with the kind and its fields, or of a list of such objects"
            ) from None
    if isinstance(cell, list | tuple):
        yield from (json.loads(each) if _is_object_text(each) else each for each in cell)
    elif isinstance(cell, Mapping):
        yield cell
    elif cell is not None:
        raise ValueError("must be a step or a list of steps, each an object with a kind and the fields of that kind")


def _is_object_text(value: Any) -> bool:
    """Whether an element of a list is JSON text of an object: Parquet has no lists of different objects."""
    if not isinstance(value, str):
        return False
    try:
        return isinstance(json.loads(value), dict)
    except (ValueError, RecursionError):
        return False


def made_from(request: GenerationRequest, uri: str) -> GenerationRequest:
    """Returns the request of a step with its input.

    Args:
        request: the step's request, as read.
        uri: the delivered file of the step before.
    """
    name = chain_inputs()[request.kind]
    return request.model_copy(update={name: (uri,) if isinstance(getattr(request, name), tuple) else uri})


async def identified_step(
    request: GenerationRequest, uri: str, sha256: str, rules: FetchRules
) -> PreparedRequest[GenerationRequest]:
    """Returns the request of a step as its identity needs it: the input counts by its digest, and is not read.

    Args:
        request: the step's request, as read.
        uri: the delivered file of the step before.
        sha256: the digest of what was delivered.
        rules: what a fetch of the step's other inputs may do.
    """
    others = [each for each in request.inputs() if each.url != UNMADE]
    known = (await identified(request, rules)).inputs if others else SentInputs()
    inputs = SentInputs({**known.by_url, uri: SentInput(sha256)}, known.contents)
    return PreparedRequest(made_from(request, uri), inputs)


def publishing_problems(request: GenerationRequest, number: int, publication: Publication) -> list[FieldProblem]:
    """Returns why the file of the step before cannot be brought to the provider of a step; empty if it can.

    Args:
        request: the step's request, as read.
        number: the step, from 1.
        publication: where local files are published.
    """
    inputs = request.inputs()
    problem = publication.problem()
    if problem is None or all(each.inline and (each.url == UNMADE or not is_public(each.url)) for each in inputs):
        return []
    return [FieldProblem(step_field(number, each.field), problem) for each in inputs if each.url == UNMADE]


def step_output(output: str, number: int, steps: int) -> str:
    """Returns where the file of a step goes. Only the last step gets a file name that the user gave.

    Args:
        output: a folder, a file name ending in .mp4, or a storage URL of either.
        number: the step, from 1.
        steps: the number of steps.
    """
    if number == steps or not output.lower().endswith(".mp4"):
        return output
    return f"{output[:-4]}.step-{number}{output[-4:]}"


def kinds_of(requests: Sequence[GenerationRequest]) -> str:
    """Returns the kinds of a chain's steps in one line.

    Args:
        requests: the steps' requests.
    """
    return " → ".join(request.kind for request in requests)


async def check_unchanged(before: Delivery, storage: Storage, number: int, request: GenerationRequest) -> None:
    """Refuse a step whose input is not what the step before delivered: its identity has the digest of that.

    Args:
        before: the file of the step before.
        storage: where it is.
        number: the step, from 1.
        request: its request.

    Raises:
        InvalidRequest: the file was edited; nothing was sent.
        StorageError: the file cannot be read now.
    """
    if await to_thread.run_sync(storage.digest, before.uri) == before.sha256:
        return
    problem = (
        f"{before.uri} was changed since step {number - 1} delivered it: overwrite fetches the provider's file again; "
        "to go on from your own version, make it the input of a row of its own"
    )
    raise InvalidRequest.of("The chain", [FieldProblem(step_field(number, chain_inputs()[request.kind]), problem)])


def failed_step(step: tuple[int, int], kind: str, message: str, done: Sequence[Job]) -> str:
    """Returns why a chain has no final file: which step failed, and what is kept of the steps before.

    Args:
        step: the step that failed, from 1, and the number of steps.
        kind: its kind.
        message: what happened.
        done: the jobs of the steps before.
    """
    number, steps = step
    words = f"Step {number} of {steps} ({kind}): {message}"
    kept = done[-1].delivery if done else None
    if kept is None:
        return words
    return f"{words} Step {number - 1} is delivered and paid, and is not paid again: {kept.uri}"
