"""Runs the flow once for each fault named in the arguments, and says how each run ended and how much memory it took.

A process of its own, so that what is measured is what the flows need, and not what the tests and their servers do.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path

import httpx

from prefect_genmedia import TokenOpsCredentials, tasks
from prefect_genmedia.flows.omnihuman import omnihuman_video


def peak_mib() -> float:
    """The most memory that this process has held at once; `ru_maxrss` would count that of its parent, too."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


async def main(url: str, faults: list[str]) -> None:
    for name in tasks.__all__:
        getattr(tasks, name).retry_delay_seconds = 0.02
    credentials = TokenOpsCredentials(api_key="sk-simulator", base_url=f"{url}/tokenops/v1")
    async with httpx.AsyncClient(timeout=120) as control:
        for fault in faults:
            await control.post(f"{url}/control/reset")
            # Twice, and longer than it takes the flow to give up where nothing was paid yet.
            times = 20 if fault.startswith(("detect_", "mask_")) else 2
            await control.post(f"{url}/control/faults", json={"fault": fault, "times": times})
            state = await omnihuman_video(
                f"{url}/assets/portrait.jpg",
                f"{url}/assets/speech.mp3",
                subject="leftmost",
                output_resolution=720,
                credentials=credentials,
                return_state=True,
            )
            accepted = (await control.get(f"{url}/control/report")).json()["accepted"].get("tokenops", 0)
            facts = {"fault": fault, "state": state.name, "message": state.message, "accepted": accepted}
            sys.stdout.write(json.dumps({**facts, "peak": peak_mib()}) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2:]))
