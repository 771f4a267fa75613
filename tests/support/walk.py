"""The way of one parameter through the code: `image_url` of `omnihuman_video`, from the flow to the paid POST."""

from __future__ import annotations

import ast
from pathlib import Path

from documents import ROOT

PACKAGE = ROOT / "src" / "prefect_genmedia"

STEPS = (
    ("flows/omnihuman.py:omnihuman_video", "the flow takes it"),
    ("_prefect/parameters.py:refuse_base64", "refuses a file as base64 text among a run's parameters"),
    ("providers/tokenops/omnihuman.py:OmniHumanVideo", "holds it as a field of the request"),
    ("providers/inputs.py:input_url", "validates it as a URL or a path"),
    ("tasks.py:check_inputs", "the first task run"),
    ("_core/pipeline.py:prepare_request", "finds out whether a paid job exists already"),
    ("_inputs/prepare.py:prepare_inputs", "prepares all inputs together"),
    ("_inputs/inspect.py:inspections_wanted", "decides what to inspect"),
    ("_inputs/reading.py:read_all", "reads it once: fetches or copies it"),
    ("_inputs/inspect.py:inspect_all", "decodes it and records what it is"),
    ("_inputs/validate.py:validate_inputs", "reports all problems in one error"),
    ("_inputs/publish.py:Publication.publish", "gives a local file a signed URL"),
    ("providers/tokenops/tasks.py:detect_subjects", "back in the flow: who is in the picture?"),
    ("providers/tokenops/resolve.py:detect", "also called by batch rows"),
    ("_core/session.py:Session.public_url", "the URL that the provider can fetch"),
    ("_inputs/prepare.py:prepared_url", "published if it is a local file"),
    ("providers/tokenops/client.py:TokenOpsClient.detect_subjects", "the provider's path and JSON"),
    ("_transport/api.py:ApiClient.post", "HTTP; costs nothing to repeat"),
    ("providers/tokenops/tasks.py:select_subject", "back in the flow: who speaks?"),
    ("providers/tokenops/subjects.py:select_masks", "the masks of the chosen one"),
    ("providers/tokenops/omnihuman.py:OmniHumanVideo.with_subject", "the request with its masks"),
    ("generate.py:generate", "back in the flow: the tail of all flows"),
    ("tasks.py:submit_job", "the task run that may pay"),
    ("_core/pipeline.py:submit", "resolves the request, then submits it once"),
    ("_core/pipeline.py:resolve", "prepares it again if that was an hour ago or more"),
    ("_core/identity.py:identity_of", "local files by their content hash, URLs without signatures"),
    ("_core/submit.py:submit_once", "joins a job, or reserves one and sends it"),
    ("_core/submit.py:shown_request", "what the ledger stores: no signature"),
    ("providers/tokenops/client.py:TokenOpsClient.submit", "called once the row is `sending`"),
    ("providers/protocol.py:PreparedRequest.payload", "the JSON, with URLs in place of local files"),
    ("providers/tokenops/omnihuman.py:OmniHumanVideo.body", "puts it into the JSON"),
    ("_transport/api.py:ApiClient.post_paid", "sends the paid POST, once"),
)
"""Each place as `file:name`, and what happens to it there. Files are of the package, or of the repository."""


def walk_table() -> str:
    lines = ["| | place | function | |", "| --- | --- | --- | --- |"]
    for number, (place, what) in enumerate(STEPS, 1):
        file, _, name = place.partition(":")
        assert what, f"{place} has no description"
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
