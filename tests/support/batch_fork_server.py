"""A process that has everything imported and forks a fresh one for each batch, so that batches start in no time.

Reads one JSON object of flow parameters a line, and answers with `{"pid": …}`; then, on the line `wait PID`, with the
exit code: 0 for a batch that returned, 3 for one that raised, -9 for one that was killed.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

from prefect_genmedia._core import submit
from prefect_genmedia.batch import row_task
from prefect_genmedia.errors import BatchIncomplete
from prefect_genmedia.flows.batch import generate_batch

submit.STALE_SENDING_SECONDS = 0.5  # nobody waits minutes for a dead process here
row_task.RETRY_DELAYS = [0.02, 0.1, 0.3]


def run(parameters: dict[str, Any]) -> int:
    try:
        asyncio.run(generate_batch(**parameters))
    except BatchIncomplete:
        return 3
    return 0


def main() -> None:
    for line in sys.stdin:
        if line.startswith("wait "):
            _, status = os.waitpid(int(line.split()[1]), 0)
            answer = {"code": os.waitstatus_to_exitcode(status)}
        else:
            pid = os.fork()
            if pid == 0:
                os._exit(run(json.loads(line)))
            answer = {"pid": pid}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
