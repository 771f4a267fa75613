"""What the conformance suite is given about a provider, how each fault ends, and shorter deadlines for some."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from prefect_genmedia._core.model import JobState
from prefect_genmedia._transport import BodyBounds
from prefect_genmedia.providers.plugin import ProviderPlugin, plugin_named
from prefect_genmedia.providers.protocol import GenerationRequest, ProviderClient
from prefect_genmedia.simulator.faults import STAGES

if TYPE_CHECKING:
    import pytest


class Ending(NamedTuple):
    """How a job ends under a fault.

    Args:
        error: the kind of the first error, such as `RateLimited`; None if there is none.
        state: the state in which the first attempt stays.
    """

    error: str | None
    state: JobState


UNTROUBLED = Ending(None, JobState.DELIVERED)
"""The fault does not reach the user."""

NOT_AS_ASKED = Ending("ResultInvalid", JobState.UNDELIVERABLE)
"""The file is intact, but is not what the request promises."""

_REFUSED = JobState.REJECTED
_UNKNOWN = Ending("SubmissionUnknown", JobState.UNKNOWN)
_WRONG_ADDRESS = Ending("ProviderError", _REFUSED)
_FAILED = Ending("GenerationFailed", JobState.FAILED)
_FETCHED_AGAIN = Ending("ProviderError", JobState.DELIVERED)
_WRONG_FILE = Ending("ResultInvalid", JobState.DELIVERED)

ENDINGS: Mapping[str, Ending] = {
    "refuse_invalid": Ending("InvalidRequest", _REFUSED),
    "refuse_key": Ending("CredentialsError", _REFUSED),
    "refuse_balance": Ending("QuotaError", _REFUSED),
    "rate_limited": Ending("RateLimited", JobState.DELIVERED),
    "drop_before_accept": _UNKNOWN,
    "accept_then_drop": _UNKNOWN,
    "accept_then_500": _UNKNOWN,
    "accept_then_502": _UNKNOWN,
    "accept_then_504": _UNKNOWN,
    "accept_then_garbage": _UNKNOWN,
    "accept_slowly": UNTROUBLED,
    "accept_odd_id": UNTROUBLED,
    "accept_long_id": UNTROUBLED,
    "accept_huge_id": _UNKNOWN,
    "accept_nul_id": _UNKNOWN,
    "accept_surrogate_id": _UNKNOWN,
    "accept_same_id": UNTROUBLED,
    "accept_then_drip": _UNKNOWN,
    "accept_then_endless": _UNKNOWN,
    "accept_then_gzip_bomb": _UNKNOWN,
    "refuse_hostile": Ending("InvalidRequest", _REFUSED),
    "refuse_quota": Ending("QuotaError", _REFUSED),
    "refuse_no_channel": _WRONG_ADDRESS,
    "refuse_moved": _WRONG_ADDRESS,
    "refuse_slash": _WRONG_ADDRESS,
    "refuse_in_200": _WRONG_ADDRESS,
    "refuse_firewall": _WRONG_ADDRESS,
    "accept_then_no_channel": _UNKNOWN,
    "accept_then_see_other": _UNKNOWN,
    "accept_then_error_in_200": _UNKNOWN,
    "accept_empty_error": UNTROUBLED,
    "accept_integer_id": UNTROUBLED,
    "fail_input": _FAILED,
    "fail_output": _FAILED,
    "fail_internal": _FAILED,
    "fail_hostile": _FAILED,
    "silent_video": UNTROUBLED,
    "short_video": UNTROUBLED,
    "small_video": UNTROUBLED,
    "poll_503": UNTROUBLED,
    "poll_html": UNTROUBLED,
    "poll_unknown_status": UNTROUBLED,
    "poll_status_nul": UNTROUBLED,
    "poll_status_surrogate": UNTROUBLED,
    "poll_status_ansi": UNTROUBLED,
    "poll_status_long": UNTROUBLED,
    "poll_status_nested": UNTROUBLED,
    "poll_drip": UNTROUBLED,
    "poll_endless": UNTROUBLED,
    "poll_gzip_bomb": UNTROUBLED,
    "poll_encoded_twice": UNTROUBLED,
    "poll_nested": UNTROUBLED,
    "poll_likely_success": UNTROUBLED,
    "poll_likely_failure": Ending("GenerationFailed", JobState.DELIVERED),
    "poll_not_exist": UNTROUBLED,
    "poll_firewall": UNTROUBLED,
    "poll_drop": UNTROUBLED,
    "poll_404": UNTROUBLED,
    "poll_key_revoked": Ending("CredentialsError", JobState.DELIVERED),
    "content_502": _FETCHED_AGAIN,
    "content_html": _FETCHED_AGAIN,
    "content_empty": _FETCHED_AGAIN,
    "content_truncated": _FETCHED_AGAIN,
    "content_truncated_chunked": _WRONG_FILE,
    "content_corrupt": _WRONG_FILE,
    "content_slow": UNTROUBLED,
    "content_json": _FETCHED_AGAIN,
    "content_json_expired": _FETCHED_AGAIN,
    "content_json_text": _WRONG_FILE,
    "content_not_ready": _FETCHED_AGAIN,
    "content_redirect": UNTROUBLED,
    "content_gone": Ending("JobExpired", JobState.DELIVERED),
    "content_playlist": _WRONG_FILE,
    "content_picture": _WRONG_FILE,
    "content_bomb": _WRONG_FILE,
    "content_frames": _WRONG_FILE,
    "content_oversized": _WRONG_FILE,
    "content_gzip": _FETCHED_AGAIN,
    "content_gzip_bomb": _FETCHED_AGAIN,
    "content_drip": _FETCHED_AGAIN,
    "content_endless": _FETCHED_AGAIN,
}
"""How each fault ends with any provider, unless its case says otherwise."""

FAULTS = tuple(fault for stage in ("submit", "job", "poll", "content") for fault in STAGES[stage] if fault != "stuck")
"""The faults that strike any provider's job. `stuck` has a test of its own."""

FOLLOWED_LINKS: Mapping[str, Ending] = {
    "content_json": UNTROUBLED,
    "content_json_text": UNTROUBLED,
    "content_json_expired": Ending("JobExpired", JobState.DELIVERED),
}
"""How faults end with a provider whose content endpoint may answer with the file's URL; `open_content` follows it."""

NEVER_ACCEPTED = frozenset({"drop_before_accept"})
"""Faults after which the provider has no job, whatever is tried."""


@dataclass(frozen=True)
class ProviderCase:
    """One kind of request of a provider, as the conformance suite tests it.

    A case is pickled for a fresh process: `connect` is a function of a module, not a lambda.

    Args:
        request: what is asked for. Inputs at `example.com` are the simulator's samples.
        credentials: fields of the credentials Block beside key and base URL.
        key_field: the Block's field that takes the simulator's key.
        endings: the faults that end otherwise than `ENDINGS` says: the provider reports more about its failures, or the
            request promises more about its file.
        connect: makes the client from a base URL and a key; None makes it with the credentials Block.
    """

    request: GenerationRequest
    credentials: Mapping[str, Any] = field(default_factory=dict)
    key_field: str = "api_key"
    endings: Mapping[str, Ending] = field(default_factory=dict)
    connect: Callable[[str, str], ProviderClient] | None = None

    @property
    def plugin(self) -> ProviderPlugin:
        """The provider's plug-in."""
        return plugin_named(self.request.provider)

    def client(self, base_url: str, key: str) -> ProviderClient:
        """A client of an account; the caller closes it.

        Args:
            base_url: where the provider's API is.
            key: the account's key.
        """
        if self.connect is not None:
            return self.connect(base_url, key)
        fields = {**self.credentials, self.key_field: key, "base_url": base_url}
        client: ProviderClient = self.plugin.credentials_type()(**fields).get_client()
        return client

    def ending(self, fault: str) -> Ending:
        """How a job ends under a fault.

        Args:
            fault: the fault's name.
        """
        return self.endings.get(fault, ENDINGS[fault])


ENDED_BY_DEADLINES = ("_drip", "content_endless")
"""How the names of these faults end."""


def shorten_deadlines(monkeypatch: pytest.MonkeyPatch, fault: str, seconds: float = 3.0) -> None:
    """Shorten the deadlines that end this fault; the other ones stay, a busy machine is slow at times.

    Args:
        monkeypatch: the test's fixture; it puts the deadlines back.
        fault: the simulator's name of the fault.
        seconds: the deadline for an answer, in seconds.
    """
    if fault.endswith("_drip"):
        monkeypatch.setattr("prefect_genmedia._transport.api.API_SECONDS", seconds)
        monkeypatch.setattr("prefect_genmedia._transport.api.SUBMIT_SECONDS", seconds)
    bounds = BodyBounds(seconds=seconds + 1, window=seconds / 2, min_rate=1000.0)
    if fault in ("content_drip", "content_endless"):
        monkeypatch.setattr("prefect_genmedia._transport.bodies.DOWNLOAD_BOUNDS", bounds)
    if fault.startswith("mask_"):
        monkeypatch.setattr("prefect_genmedia._inputs.inspect.PICTURE_BOUNDS", bounds)
