"""Options of the providers' documents, chosen where people choose them: as parameters of the flows."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow

from prefect_genmedia import HiDreamCredentials, TokenOpsCredentials, errors
from prefect_genmedia._core import Delivery
from prefect_genmedia._transport.api import ApiClient
from prefect_genmedia.flows.omnihuman import omnihuman_video
from prefect_genmedia.flows.stylize import stylize_video
from prefect_genmedia.providers.tokenops import OmniHumanVideo
from prefect_genmedia.providers.tokenops.catalog import OMNIHUMAN_MODEL, OMNIHUMAN_REQ_KEY
from prefect_genmedia.providers.tokenops.resolve import resolve
from prefect_genmedia.simulator import RunningSimulator

pytestmark = pytest.mark.usefixtures("prefect_server")


async def speak(simulator: RunningSimulator, credentials: TokenOpsCredentials, **options: Any) -> dict[str, Any]:
    """What was sent for a talking portrait."""
    before = set(simulator.world.jobs)
    await omnihuman_video(
        simulator.portrait_url, simulator.speech_url, credentials=credentials, **{"output_resolution": 720, **options}
    )
    (job,) = (job for key, job in simulator.world.jobs.items() if key not in before)
    body: dict[str, Any] = job.body
    return body


def detections(simulator: RunningSimulator) -> int:
    return sum(count for what, count in simulator.world.requests.items() if "detect" in what)


async def test_without_a_subject_nobody_is_detected_and_no_mask_is_sent(
    simulator: RunningSimulator, credentials: TokenOpsCredentials
) -> None:
    body = await speak(simulator, credentials, subject="none")
    assert "mask_urls" not in body
    assert detections(simulator) == 0


async def test_masks_of_ones_own_are_sent_as_asked_for_and_nobody_is_detected(
    simulator: RunningSimulator, credentials: TokenOpsCredentials
) -> None:
    masks = ["https://example.com/m.png"]
    body = await speak(simulator, credentials, mask_urls=masks, preflight=False)
    assert body["mask_urls"] == masks
    body = await speak(simulator, credentials, mask_urls=masks, masks_as="content", preflight=False)
    assert body["content"][-1] == {"type": "image_url", "role": "mask_image", "image_url": {"url": masks[0]}}
    assert detections(simulator) == 0
    with pytest.raises(errors.InvalidRequest, match="give mask_urls or a subject"):
        await speak(simulator, credentials, mask_urls=masks, subject="largest")


async def test_model_and_service_are_the_users_own(
    simulator: RunningSimulator, credentials: TokenOpsCredentials
) -> None:
    body = await speak(simulator, credentials, subject="none", model="OmniHuman_2.0", req_key=OMNIHUMAN_REQ_KEY)
    assert (body["model"], body["req_key"]) == ("OmniHuman_2.0", OMNIHUMAN_REQ_KEY)


async def test_a_failed_detection_fails_the_run_or_leaves_masks_out_as_the_user_says(
    simulator: RunningSimulator, credentials: TokenOpsCredentials
) -> None:
    simulator.order("detect_many")  # so many masks are not believed, and the call is not repeated
    with pytest.raises(errors.ProviderError, match="40 masks"):
        await speak(simulator, credentials)
    assert simulator.accepted == 0
    simulator.order("detect_many")
    body = await speak(simulator, credentials, on_detection_failure="continue")
    assert "mask_urls" not in body
    assert detections(simulator) == 2


async def test_a_picture_without_a_person_fails_although_a_failed_detection_would_not(
    simulator: RunningSimulator, credentials: TokenOpsCredentials
) -> None:
    simulator.order("detect_none")
    with pytest.raises(errors.NoSubject):
        await speak(simulator, credentials, on_detection_failure="continue")
    with pytest.raises(errors.InvalidRequest, match="a person who is asked"):
        await speak(simulator, credentials, subject="ask", on_detection_failure="continue")
    assert simulator.accepted == 0


def omnihuman(**fields: Any) -> OmniHumanVideo:
    return OmniHumanVideo(image_url="https://example.com/a.jpg", audio_url="https://example.com/a.mp3", **fields)


class Broken:
    """A session whose detection fails."""

    def __init__(self, error: errors.GenMediaError) -> None:
        self.client = self
        self.error = error

    async def public_url(self, url: str, field: str) -> str:
        return url

    async def detect_subjects(self, image_url: str, model: str) -> Any:
        assert model == OMNIHUMAN_MODEL
        raise self.error


async def test_a_row_goes_on_without_masks_too_and_its_identity_does_not_tell() -> None:
    row: Any = omnihuman(subject="largest", on_detection_failure="continue")
    broken: Any = Broken(errors.ProviderError("Down."))
    sent = await resolve(row, broken)
    assert isinstance(sent, OmniHumanVideo)
    assert "mask_urls" not in sent.body()
    assert sent.stale_at() is None
    assert sent.identity() == row.identity() == omnihuman(subject="largest").identity()


@pytest.mark.parametrize(
    ("error", "fields"),
    [
        (errors.ProviderError("Down."), {}),
        (errors.RateLimited("Later."), {"on_detection_failure": "continue"}),
        (errors.CredentialsError("No."), {"on_detection_failure": "continue"}),
        (errors.ProviderError("Down."), {"on_detection_failure": "continue", "mask_urls": ["https://e.com/old.png"]}),
    ],
    ids=["not asked for", "come again", "the account", "a speaker was chosen"],
)
async def test_a_row_does_not_go_on_otherwise(error: errors.GenMediaError, fields: dict[str, Any]) -> None:
    broken: Any = Broken(error)
    with pytest.raises(type(error)):
        await resolve(omnihuman(subject="largest", **fields), broken)


def test_nobody_counts_in_the_identity_and_has_no_masks() -> None:
    identities = [str(omnihuman(subject=subject).identity()) for subject in ("", "none", "auto")]
    assert len(set(identities)) == 3
    assert omnihuman(subject=" None ").identity() == omnihuman(subject="none").identity()
    with pytest.raises(errors.InvalidRequest, match="not both"):
        omnihuman(subject="none", mask_urls=["https://example.com/m.png"])


async def test_the_user_of_a_call_is_sent_with_it_and_with_each_poll_of_its_job(
    simulator: RunningSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    observed: list[tuple[str, str | None]] = []
    made = ApiClient._request

    def request(self: ApiClient, client: httpx.AsyncClient, method: str, path: str, **content: Any) -> httpx.Request:
        built = made(self, client, method, path, **content)
        (flow,) = built.headers.get_list("API-User-ID") or [None]
        observed.append((method, flow))
        return built

    monkeypatch.setattr(ApiClient, "_request", request)
    block = HiDreamCredentials(api_key=simulator.key, base_url=simulator.hidream_url, submissions_per_minute=None)
    delivery: Delivery = await stylize_video(simulator.clip_url, "anime", credentials=block, api_user_id="anna-7")
    assert delivery.sha256
    calls = observed[[method for method, _ in observed].index("POST") :]
    assert {"POST", "GET"} == {method for method, _ in calls}
    assert {user for _, user in calls} == {"anna-7"}


@pytest.mark.parametrize("own", ["Anna's portrait", "determined-hoatzin"])
async def test_a_name_that_the_user_gave_the_run_stays(
    own: str, simulator: RunningSimulator, credentials: TokenOpsCredentials
) -> None:
    inputs = {"image_url": simulator.portrait_url, "audio_url": simulator.speech_url, "subject": "none"}
    parameters: dict[str, Any] = {**inputs, "output_resolution": 720, "credentials": credentials}
    async with get_client() as client:
        created = await client.create_flow_run(omnihuman_video, name=own, parameters=inputs)
        await run_flow(omnihuman_video, flow_run=created, parameters=parameters)  # type: ignore[misc]
        run = await client.read_flow_run(UUID(str(created.id)))
    (job,) = simulator.world.jobs
    assert run.name == (own if own == "Anna's portrait" else f"omnihuman · portrait.jpg · {job}")
