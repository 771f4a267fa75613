"""The demo's flow run, in a process of its own: saves the Block, runs the flow, prints what was delivered.

Reads the job as JSON from standard input and writes the result as JSON to standard output; the log goes to the error
stream.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from prefect import State
from prefect.flows import load_flow_from_entrypoint

from prefect_genmedia import TokenOpsCredentials


async def run(job: dict[str, Any]) -> int:
    """Do what a user does: store the credentials once, then call the flow with the Block's name."""
    credentials = TokenOpsCredentials(api_key=job.pop("api_key"), base_url=job.pop("base_urls")["tokenops"])
    await credentials.asave("default", overwrite=True)
    omnihuman_video: Any = load_flow_from_entrypoint("prefect_genmedia.flows.omnihuman.omnihuman_video")
    state: State[Any] = await omnihuman_video(
        image_url=job["portrait"],
        audio_url=job["recording"],
        prompt="自然说话,面带微笑",
        output_resolution=job["short_side"],
        output=job["output"],
        credentials="default",
        return_state=True,
    )
    if not state.is_completed():
        return 1
    delivery = await state.aresult()
    json.dump({"flow_run_id": str(state.state_details.flow_run_id), "delivery": delivery.model_dump()}, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(run(json.load(sys.stdin))))
