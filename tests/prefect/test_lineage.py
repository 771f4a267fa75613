"""Delivered files as Prefect assets: the events that a run really emits, and what other tasks make of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect import flow
from prefect.assets import Asset, materialize
from prefect.events import Event
from prefect.events.clients import AssertingEventsClient
from prefect.events.worker import EventsWorker

from prefect_genmedia import TokenOpsCredentials
from prefect_genmedia._core import Delivery
from prefect_genmedia._prefect.assets import MATERIALIZED, asset_key
from prefect_genmedia.flows.batch import generate_batch
from prefect_genmedia.flows.omnihuman import omnihuman_video
from prefect_genmedia.providers.tokenops import JimengVideo
from prefect_genmedia.simulator import RunningSimulator
from prefect_genmedia.simulator.media import ASSETS
from prefect_genmedia.tasks import download_result, submit, wait_for_job


class Events:
    """What was sent to Prefect since the test began."""

    async def named(self, name: str) -> list[Event]:
        sent = EventsWorker.drain_all(timeout=120)
        if sent is not None:
            await sent
        return [event for client in AssertingEventsClient.all for event in client.events if event.event == name]


@pytest.fixture
def events(prefect_server: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Events]:
    EventsWorker.drain_all(timeout=120)
    AssertingEventsClient.reset()
    monkeypatch.setattr(EventsWorker, "_client_override", (AssertingEventsClient, ()))
    yield Events()
    EventsWorker.drain_all(timeout=120)
    AssertingEventsClient.reset()


async def test_a_delivered_file_is_an_asset_with_its_facts_its_sources_and_its_estimated_cost(
    simulator: RunningSimulator, credentials: TokenOpsCredentials, events: Events
) -> None:
    delivery: Delivery = await omnihuman_video(
        f"{simulator.portrait_url}?X-Amz-Signature=deadbeef", simulator.speech_url, credentials=credentials
    )
    (event,) = await events.named(MATERIALIZED)
    assert event.resource.id == f"file://{delivery.uri}"
    assert event.resource.name == "portrait.jpg"
    by_role = {}
    for each in event.related:
        by_role.setdefault(each.role, []).append(each.id)
    assert by_role["asset"] == [simulator.portrait_url, simulator.speech_url]
    (by,) = by_role["asset-materialized-by"]
    assert by.startswith("tokenops/")
    assert {"flow-run", "task-run"} <= by_role.keys(), "Prefect says in which run it was made"
    assert event.payload["sha256"] == delivery.sha256
    assert event.payload["seconds"] == delivery.seconds
    assert event.payload["resolution"] == "1920×1080"
    assert event.payload["provider"] == "tokenops"
    assert event.payload["provider_job_id"] == delivery.provider_job_id
    assert (event.payload["estimated_cost"], event.payload["currency"]) == (pytest.approx(8.5, abs=0.05), "CNY")
    assert "deadbeef" not in event.model_dump_json()
    assert simulator.key not in event.model_dump_json()


async def test_a_file_that_stands_already_is_not_made_again(
    simulator: RunningSimulator, credentials: TokenOpsCredentials, events: Events
) -> None:
    for _ in range(2):
        await omnihuman_video(
            simulator.portrait_url, simulator.speech_url, credentials=credentials, idempotency_key="the same"
        )
    assert len(await events.named(MATERIALIZED)) == 1


async def test_each_delivered_row_of_a_batch_is_an_asset_without_task_runs_of_its_own(
    simulator: RunningSimulator, credentials: TokenOpsCredentials, events: Events
) -> None:
    rows = [{"id": name, "prompt": f"a {name} at dawn"} for name in ("lake", "city", "wood")]
    await generate_batch(rows, kind="jimeng", credentials=credentials, batch_id="assets")
    assert sorted(str(event.resource.name) for event in await events.named(MATERIALIZED)) == ["city", "lake", "wood"]


async def test_what_another_task_makes_of_a_delivery_has_the_file_as_its_upstream(
    simulator: RunningSimulator, credentials: TokenOpsCredentials, events: Events
) -> None:
    @materialize(Asset(key="s3://site/hero.mp4"))
    async def publish(delivery: Delivery) -> str:
        return delivery.uri

    @flow
    async def their_flow() -> str:
        job = await submit(JimengVideo(prompt="a lake at dawn"), credentials=credentials)
        job = await wait_for_job(job, credentials=credentials)
        return await publish(await download_result(job, credentials=credentials))

    uri = await their_flow()
    made = await events.named(MATERIALIZED)
    (theirs,) = (event for event in made if event.resource.id == "s3://site/hero.mp4")
    assert [each.id for each in theirs.related if each.role == "asset"] == [f"file://{uri}"]


async def test_sources_are_reported_although_a_local_one_is_not_on_this_machine(
    simulator: RunningSimulator, credentials: TokenOpsCredentials, events: Events, tmp_path: Path
) -> None:
    first, last = tmp_path / "first.jpg", tmp_path / "last.jpg"
    for picture in (first, last):
        picture.write_bytes((ASSETS / "portrait.jpg").read_bytes())

    @flow
    async def their_flow() -> None:
        request = JimengVideo(model="jimeng-video-3.0-720P", image_urls=(str(first), str(last)), prompt="she smiles")
        job = await submit(request, credentials=credentials)
        first.unlink()
        last.unlink()
        last.mkdir()  # something else has the name here
        await download_result(await wait_for_job(job, credentials=credentials), credentials=credentials)

    await their_flow()
    (event,) = await events.named(MATERIALIZED)
    assert [each.id for each in event.related if each.role == "asset"] == [f"file://{first}", f"file://{last}"]


@pytest.mark.parametrize(
    ("uri", "key"),
    [
        ("/media/a.mp4", "file:///media/a.mp4"),
        ("s3://bucket/头像/a.mp4", "s3://bucket/头像/a.mp4"),
        ("block://s3-bucket/media/a.mp4", "block://s3-bucket/media/a.mp4"),
        ("ftp://me:secret@host/a.mp4", "ftp://host/a.mp4"),
        ("https://host/a.jpg?X-Amz-Signature=deadbeef", "https://host/a.jpg"),
    ],
)
def test_a_key_is_the_files_address_without_secrets(uri: str, key: str) -> None:
    assert asset_key(uri) == key
    Asset(key=key)


@pytest.mark.parametrize("uri", ["/media/a b.mp4", "https://host/a?id=4711", "/media/" + "a" * 600])
def test_what_a_key_may_not_hold_is_left_out_and_keys_stay_apart(uri: str) -> None:
    assert asset_key(uri) != asset_key(uri + "_")
    assert asset_key(uri) == asset_key(uri)
    Asset(key=asset_key(uri))
