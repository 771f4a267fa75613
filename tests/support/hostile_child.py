"""A process of its own that delivers what a hostile simulator sends, and measures itself.

Arguments: the simulator's URL, its key, and a folder. Prints one JSON object: what was met, and the
peak memory of this process and of its decoders in megabytes.
"""

from __future__ import annotations

import asyncio
import json
import re
import resource
import sys
from pathlib import Path

from prefect_genmedia import errors
from prefect_genmedia._core import JobSpec, Session, deliver, open_ledger, submit_once, wait_for_job
from prefect_genmedia._media.decoding import pool
from prefect_genmedia._media.storage import target_at
from prefect_genmedia.providers.tokenops import JimengVideo, TokenOpsClient


async def main(url: str, key: str, folder: Path) -> str:
    client = TokenOpsClient(key, url)
    request = JimengVideo(prompt="a horse", model="jimeng-video-3.0-720P")
    async with open_ledger(f"sqlite:///{folder / 'ledger.db'}") as ledger:
        job = await submit_once(Session(client=client, ledger=ledger), JobSpec(request, scope="test"))
        job = await wait_for_job(ledger, client, job, 300.0)
        try:
            await deliver(ledger, client, job, target_at(str(folder / "out")))
        except errors.GenMediaError as error:
            return f"{error.kind}: {error.message}"
        finally:
            await client.aclose()
    return "delivered"


if __name__ == "__main__":
    met = asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
    pool().close()
    # Not RUSAGE_SELF: on Linux that begins with the memory of whoever started this process.
    own = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert own is not None
    decoders = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    sys.stdout.write(json.dumps({"met": met, "worker": int(own[1]) / 1024, "decoder": decoders / 1024}))
