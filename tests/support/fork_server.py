"""A process that has everything imported and forks a fresh one for each flow run, so that runs start in no time.

Reads one JSON object a line from standard input, `{"flow_run_id": …}`, and answers with `{"pid": …}`. The child runs
that flow run, as a worker's process would, and can be killed at any moment.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow_async

from prefect_genmedia._core import submit
from prefect_genmedia.flows.omnihuman import omnihuman_video

submit.STALE_SENDING_SECONDS = 0.5  # nobody waits minutes for a dead process here


async def run(flow_run_id: str) -> None:
    async with get_client() as client:
        flow_run = await client.read_flow_run(UUID(flow_run_id))
    await run_flow_async(omnihuman_video, flow_run=flow_run, parameters=flow_run.parameters, return_type="state")


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the dead need no burial
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            asyncio.run(run(order["flow_run_id"]))
            os._exit(0)
        sys.stdout.write(json.dumps({"pid": pid}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
