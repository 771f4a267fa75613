"""The API for provider plug-ins: requests, clients, and what a plug-in declares.

The base of a plug-in's credentials Block is in `prefect_genmedia.providers.credentials`, since it needs Prefect, and
nothing here does.
"""

from prefect_genmedia._transport import ApiClient, FetchRules, FilePart, Gates, Redactor, read_body
from prefect_genmedia.prices import Price
from prefect_genmedia.providers.answers import (
    Reason,
    evidence_in,
    id_in,
    job_id_in,
    name_in,
    number_in,
    percent_in,
    reason_in,
    task_in,
    url_in,
    urls_in,
)
from prefect_genmedia.providers.bearer import BearerAuth, BearerClient
from prefect_genmedia.providers.inputs import (
    AS_GIVEN,
    InputUrl,
    PictureLimits,
    PublicUrl,
    RequestInput,
    Seed,
    SentInput,
    SentInputs,
)
from prefect_genmedia.providers.plugin import ProviderPlugin, ResolveSession, register
from prefect_genmedia.providers.protocol import (
    Accepted,
    Account,
    DurationSource,
    GenerationRequest,
    MediaExpectation,
    Observation,
    Phase,
    PreparedRequest,
    ProviderClient,
    ResultStream,
    Sendable,
)
from prefect_genmedia.providers.responses import (
    ErrorAnswer,
    paid_submission,
    read_json,
    unreadable,
)
from prefect_genmedia.providers.results import open_content, open_url, redirect_target, result_stream
from prefect_genmedia.providers.statuses import StatusWords, likely_phase
from prefect_genmedia.text import clean_word, path_segment

__all__ = [
    "AS_GIVEN",
    "Accepted",
    "Account",
    "ApiClient",
    "BearerAuth",
    "BearerClient",
    "DurationSource",
    "ErrorAnswer",
    "FetchRules",
    "FilePart",
    "Gates",
    "GenerationRequest",
    "InputUrl",
    "MediaExpectation",
    "Observation",
    "Phase",
    "PictureLimits",
    "PreparedRequest",
    "Price",
    "ProviderClient",
    "ProviderPlugin",
    "PublicUrl",
    "Reason",
    "Redactor",
    "RequestInput",
    "ResolveSession",
    "ResultStream",
    "Seed",
    "Sendable",
    "SentInput",
    "SentInputs",
    "StatusWords",
    "clean_word",
    "evidence_in",
    "id_in",
    "job_id_in",
    "likely_phase",
    "name_in",
    "number_in",
    "open_content",
    "open_url",
    "paid_submission",
    "path_segment",
    "percent_in",
    "read_body",
    "read_json",
    "reason_in",
    "redirect_target",
    "register",
    "result_stream",
    "task_in",
    "unreadable",
    "url_in",
    "urls_in",
]
