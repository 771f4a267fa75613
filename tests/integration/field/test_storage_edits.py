"""What becomes of outputs on real disks: a user's edits are kept, and names and folders of every kind take files."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from prefect_genmedia import JeniusCredentials, errors
from prefect_genmedia.flows.batch import generate_batch
from prefect_genmedia.flows.poster import live_poster
from prefect_genmedia.simulator import RunningSimulator
from prefect_genmedia.simulator.media import Recipe, render

pytestmark = pytest.mark.usefixtures("prefect_server", "quick")

PHOTO = "https://example.com/a.jpg"


@pytest.fixture
def account(simulator: RunningSimulator) -> JeniusCredentials:
    return JeniusCredentials(api_key=simulator.key, base_url=simulator.jenius_url)


async def poster(account: JeniusCredentials, output: str, **options: Any) -> Any:
    return await live_poster(PHOTO, "firework", account, output=output, idempotency_key="order-7", **options)


async def test_an_edited_file_is_kept_and_a_damaged_one_is_repaired(
    account: JeniusCredentials, simulator: RunningSimulator, tmp_path: Path
) -> None:
    file = tmp_path / "out" / "a.mp4"
    await poster(account, str(file))
    made, edit = file.read_bytes(), render(Recipe(None, short_side=64, ratio=1.0, rate=1, frames=3))
    file.write_bytes(edit)
    await poster(account, str(file))
    assert file.read_bytes() == edit
    await poster(account, str(file), overwrite=True)
    assert file.read_bytes() == made
    file.write_bytes(made[: len(made) // 2])
    await poster(account, str(file))
    assert file.read_bytes() == made
    assert simulator.accepted == 1


async def test_long_names_of_rows_and_escaped_folders_take_files(
    account: JeniusCredentials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush = os.fsync

    def refuses_folders(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        flush(handle)

    monkeypatch.setattr(os, "fsync", refuses_folders)
    rows = [{"id": "湖" * 80, "image_url": PHOTO, "scene": "firework"}]
    output = f"file://{tmp_path}/my%20out "
    report = await generate_batch(rows, kind="poster", credentials=account, batch_id="lakes", output=output)
    assert report.delivered == 1
    assert len([*(tmp_path / "my out").glob("*.mp4")]) == 1


@pytest.mark.parametrize("name", ["clip.mov", "clip.mp4", "x" * 240 + ".mp4"])
async def test_an_output_that_is_no_file_of_ours_is_refused_before_it_is_paid(
    name: str, account: JeniusCredentials, simulator: RunningSimulator, tmp_path: Path
) -> None:
    (tmp_path / "clip.mp4").mkdir()
    with pytest.raises(errors.InvalidRequest, match=r"names a \.mov file|is a folder|its name has 244 bytes"):
        await poster(account, str(tmp_path / name))
    assert simulator.accepted == 0


async def test_a_local_file_goes_through_an_upload_inbox(
    account: JeniusCredentials, simulator: RunningSimulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_INTEGRATIONS_GENMEDIA_PUBLISH_URL", simulator.inbox_url)
    own = tmp_path / "own.jpg"
    own.write_bytes((Path(__file__).parents[3] / "src/prefect_genmedia/simulator/assets/portrait.jpg").read_bytes())
    await live_poster(str(own), "firework", account, output=str(tmp_path / "out"))
    assert len(simulator.world.inbox) == 1
