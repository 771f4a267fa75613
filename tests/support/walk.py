"""The way of one parameter through the code: `image_url` of `omnihuman_video`, from the flow to the paid POST."""

from __future__ import annotations

import ast
from pathlib import Path

from documents import ROOT

PACKAGE = ROOT / "src" / "prefect_genmedia"

STEPS = (
    ("flows/omnihuman.py:omnihuman_video", "the flow takes it"),
    ("_prefect/parameters.py:refuse_base64", "no file as text among a run's parameters"),
    ("providers/tokenops/omnihuman.py:OmniHumanVideo", "it becomes a field of the request"),
    ("providers/inputs.py:input_url", "it is a URL, or a path"),
    ("tasks.py:check_inputs", "the first task run"),
    ("_core/pipeline.py:prepare_request", "does the paid job exist already?"),
    ("_inputs/prepare.py:prepare_inputs", "all inputs at once"),
    ("_inputs/inspect.py:inspections_wanted", "what is documented about it"),
    ("_inputs/reading.py:read_all", "read once: fetched, or copied"),
    ("_inputs/inspect.py:inspect_all", "decoded"),
    ("_inputs/validate.py:validate_inputs", "all problems in one error"),
    ("_inputs/publish.py:Publication.publish", "an own file gets a signed URL"),
    ("providers/tokenops/tasks.py:detect_subjects", "back in the flow: who is in the picture?"),
    ("providers/tokenops/resolve.py:detect", "also called by batch rows"),
    ("_core/session.py:Session.public_url", "the URL that the provider can fetch"),
    ("_inputs/prepare.py:prepared_url", ""),
    ("providers/tokenops/client.py:TokenOpsClient.detect_subjects", "the provider's path and JSON"),
    ("_transport/api.py:ApiClient.post", "HTTP; costs nothing to repeat"),
    ("providers/tokenops/tasks.py:select_subject", "back in the flow: who speaks?"),
    ("providers/tokenops/subjects.py:select_masks", "the masks of the chosen one"),
    ("providers/tokenops/omnihuman.py:OmniHumanVideo.with_subject", "the request with its masks"),
    ("generate.py:generate", "back in the flow: the tail of all flows"),
    ("tasks.py:submit_job", "the task run that may pay"),
    ("_core/pipeline.py:submit", ""),
    ("_core/pipeline.py:resolve", "prepared an hour ago or more: prepared again"),
    ("_core/identity.py:identity_of", "own files by their bytes, URLs without signatures"),
    ("_core/submit.py:submit_once", "joined, or reserved and sent"),
    ("_core/submit.py:shown_request", "what the ledger keeps: no signature"),
    ("providers/tokenops/client.py:TokenOpsClient.submit", ""),
    ("providers/protocol.py:PreparedRequest.payload", ""),
    ("providers/tokenops/omnihuman.py:OmniHumanVideo.body", "its place in the JSON"),
    ("_transport/api.py:ApiClient.post_paid", "the paid POST, once"),
)
"""Each place as `file:name`, and what happens to it there. Files are of the package, or of the repository."""


def walk_table() -> str:
    lines = ["| | place | function | |", "| --- | --- | --- | --- |"]
    for number, (place, what) in enumerate(STEPS, 1):
        file, _, name = place.partition(":")
        lines.append(f"| {number} | {file}:{line_of(path_of(file), name)} | `{name}` | {what} |")
    return "\n".join(lines)


def path_of(file: str) -> Path:
    return ROOT / file if file.startswith("flows/") else PACKAGE / file


def line_of(path: Path, name: str) -> int:
    """The line of a function, class or method; it fails where there is none."""
    body = ast.parse(path.read_text("utf-8")).body
    for part in name.split("."):
        node = next(each for each in body if getattr(each, "name", None) == part)
        assert isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        body = node.body
    return node.lineno
