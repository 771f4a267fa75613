"""The API for provider plug-ins: requests, clients, and what a plug-in declares.

The base of a plug-in's credentials Block is in `prefect_genmedia.providers.credentials`, since it needs Prefect, and
nothing here does.
"""

from prefect_genmedia._transport import ApiClient, FetchRules, FilePart, Gates, Redactor, read_body
from prefect_genmedia.prices import Price
from prefect_genmedia.providers.bearer import BearerAuth
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
    id_in,
    name_in,
    number_in,
    paid_submission,
    read_json,
    unreadable,
)
from prefect_genmedia.providers.results import open_url, redirect_target, result_stream
from prefect_genmedia.text import clean_word, path_segment

__all__ = [
    "AS_GIVEN",
    "Accepted",
    "Account",
    "ApiClient",
    "BearerAuth",
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
    "Redactor",
    "RequestInput",
    "ResolveSession",
    "ResultStream",
    "Seed",
    "Sendable",
    "SentInput",
    "SentInputs",
    "clean_word",
    "id_in",
    "name_in",
    "number_in",
    "open_url",
    "paid_submission",
    "path_segment",
    "read_body",
    "read_json",
    "redirect_target",
    "register",
    "result_stream",
    "unreadable",
]
