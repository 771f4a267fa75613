"""Writes `suspended/`: runs that the code of this commit has suspended, as a Prefect server and a ledger keep them.

`python tests/golden/make_suspended.py` writes them anew, into `golden-out/suspended/` of the present folder: the
server's whole database, the ledger, and the persisted results of the runs' tasks. The committed ones stay as they are.
"""

from __future__ import annotations

import asyncio
import json
import lzma
import os
import shutil
import sqlite3
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
FLOWS = "prefect_genmedia.flows"
MEDIA = "https://media.example.com"
PORTRAIT = {
    "image_url": "http://provider.golden.test/assets/portrait.jpg?X-Amz-Signature=00",
    "audio_url": f"{MEDIA}/speech.mp3",
    "preflight": False,
}
LAKE = {"prompt": "a lake at dawn", "model": "jimeng-video-3.0-720P", "preflight": False}

RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "omnihuman, waiting": (
        "omnihuman.omnihuman_video",
        {**PORTRAIT, "subject": "largest", "suspend_while_waiting": True},
    ),
    "omnihuman, asking": (
        "omnihuman.omnihuman_video",
        {**PORTRAIT, "subject": "ask", "suspend_while_asking": True, "ask_fallback": "largest"},
    ),
    "omnihuman, asking and then waiting": (
        "omnihuman.omnihuman_video",
        {**PORTRAIT, "subject": "ask", "suspend_while_asking": True, "suspend_while_waiting": True},
    ),
    "jimeng, waiting": ("jimeng.jimeng_video", {**LAKE, "suspend_while_waiting": True}),
    "jimeng, waiting with a key": (
        "jimeng.jimeng_video",
        {**LAKE, "suspend_while_waiting": True, "idempotency_key": "golden", "output": "memory://golden/keyed"},
    ),
}
"""The suspended runs: flow and parameters."""


ENDED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "delivered": ("", "jimeng.jimeng_video", {**LAKE, "output": "memory://golden"}),
    "failed": ("fail_input", "jimeng.jimeng_video", {**LAKE, "seed": 7}),
}
"""Runs that have ended: what goes wrong, flow and parameters."""


async def suspend(entrypoint: str, parameters: dict[str, Any]) -> Any:
    """Start a run of a deployment in this process; it suspends. Returns the run."""
    import access
    from prefect.client.orchestration import get_client
    from prefect.exceptions import Pause
    from prefect.flow_engine import run_flow_async

    flow = access.flow_at(entrypoint)
    async with get_client() as client:
        flow_id = await client.create_flow(flow)
        deployment = await client.create_deployment(
            flow_id, name="golden", entrypoint=entrypoint, enforce_parameter_schema=False
        )
        run = await client.create_flow_run_from_deployment(
            deployment, parameters={**parameters, "credentials": "golden"}
        )
    try:
        await run_flow_async(flow, flow_run=run, parameters=run.parameters)
    except Pause:
        async with get_client() as client:
            return await client.read_flow_run(run.id)
    raise AssertionError(f"{entrypoint} did not suspend")


async def make(simulator: Any) -> dict[str, Any]:
    """Suspend every run; returns what is to be known about it."""
    import access
    from ledger_items import ACCOUNTS

    simulator.world.settings.subjects = 2
    account = dict(ACCOUNTS["tokenops"])
    await access.BLOCKS[account.pop("block")](**account).save("golden", overwrite=True)
    reported = {}
    for name, (flow, parameters) in RUNS.items():
        before = simulator.accepted
        run = await suspend(f"{FLOWS}.{flow}", parameters)
        reported[name] = {
            "run": str(run.id),
            "entrypoint": f"{FLOWS}.{flow}",
            "parameters": run.parameters,
            "pause_key": run.state.state_details.pause_key,
            "posts_before": simulator.accepted - before,
        }
    return {"suspended": reported, "ended": {name: await end(simulator, *ended) for name, ended in ENDED.items()}}


async def end(simulator: Any, fault: str, entrypoint: str, parameters: dict[str, Any]) -> dict[str, str]:
    """Run a flow to its end; what it returns, or raises, is persisted. Returns the run's id and what that is."""
    import access
    from contents import contents

    if fault:
        simulator.order(fault)
    state = await access.flow_at(f"{FLOWS}.{entrypoint}")(**parameters, credentials="golden", return_state=True)
    value = await state.aresult(raise_on_failure=False)
    return {"run": str(state.state_details.flow_run_id), "contents": contents(value)}


def main() -> None:
    """Write everything into `golden-out/suspended/`."""
    sys.path.insert(0, str(HERE))
    out = Path("golden-out").absolute() / "suspended"
    shutil.rmtree(out, ignore_errors=True)
    (out / "results").mkdir(parents=True)
    home = Path("/tmp/golden-home")
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    os.environ |= {  # read when tasks are defined
        "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "true",
        "PREFECT_LOCAL_STORAGE_PATH": str(home / "results"),
        "PREFECT_LOGGING_TO_API_ENABLED": "false",
    }
    import make_ledger

    with make_ledger.environment(home), make_ledger.provided() as simulator:
        import access
        from prefect.settings import (
            PREFECT_API_URL,
            temporary_settings,
        )

        with access.local_server(home / "home") as server, temporary_settings({PREFECT_API_URL: server.api}):
            reported = asyncio.run(make(simulator))
    for record in sorted((home / "results").iterdir()):
        shutil.copy(record, out / "results" / record.name)
    for name, source in {"prefect": home / "home" / "prefect.db", "ledger": home / "ledger.db"}.items():
        with sqlite3.connect(source) as database:
            database.execute("VACUUM INTO ?", [str(out / f"{name}.sqlite")])
    rows = make_ledger.rows_of(out / "ledger.sqlite")
    (out / "suspended.json").write_text(
        json.dumps({**reported, "rows": rows}, ensure_ascii=False, indent=1) + "\n", "utf-8"
    )
    whole = out / "prefect.sqlite"
    (out / "prefect.sqlite.xz").write_bytes(lzma.compress(whole.read_bytes(), preset=9 | lzma.PRESET_EXTREME))
    whole.unlink()


if __name__ == "__main__":
    main()
