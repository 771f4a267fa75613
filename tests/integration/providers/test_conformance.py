"""The shipped providers pass the conformance suite."""

from __future__ import annotations

from prefect_genmedia.providers.hidream import StylizedVideo
from prefect_genmedia.providers.jenius import LivePoster
from prefect_genmedia.providers.plugin import kinds
from prefect_genmedia.providers.tokenops import JimengVideo, OmniHumanVideo
from prefect_genmedia.testing import FOLLOWED_LINKS, NOT_AS_ASKED, ConformanceSuite, Ending, JobState, ProviderCase
from prefect_genmedia.testing.cases import ENDINGS, FAULTS

PORTRAIT, SPEECH, CLIP = (f"https://example.com/{name}" for name in ("portrait.jpg", "speech.mp3", "clip.mp4"))

TOKENOPS = {
    "fail_input": Ending("InputRefused", JobState.FAILED),
    "fail_output": Ending("OutputRefused", JobState.FAILED),
    **FOLLOWED_LINKS,
}
"""TokenOps says what was refused, and its content may be JSON with a URL."""


class TestShippedProviders(ConformanceSuite):
    cases = {  # noqa: RUF012 - a constant
        "omnihuman": ProviderCase(
            OmniHumanVideo(image_url=PORTRAIT, audio_url=SPEECH, output_resolution=720),
            endings=TOKENOPS | {"silent_video": NOT_AS_ASKED, "small_video": NOT_AS_ASKED},
        ),
        "jimeng": ProviderCase(
            JimengVideo(prompt="a horse", model="jimeng-video-3.0-720P"),
            endings=TOKENOPS | {"short_video": NOT_AS_ASKED, "small_video": NOT_AS_ASKED},
        ),
        "jenius": ProviderCase(LivePoster(image_url=PORTRAIT, scene="youqian")),
        "hidream": ProviderCase(
            StylizedVideo(video_url=CLIP, style="ink_wash"),
            credentials={"user_id": "the same", "submissions_per_minute": None},
            key_field="token",
        ),
    }


def test_every_shipped_kind_has_a_case() -> None:
    tested = {case.request.kind for case in TestShippedProviders.cases.values()}
    assert {kind for kind, model in kinds().items() if model.__module__.startswith("prefect_genmedia.")} <= tested


def test_every_fault_has_an_ending() -> None:
    assert set(ENDINGS) == set(FAULTS)
