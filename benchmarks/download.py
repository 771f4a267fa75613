"""Downloading a large result against curl, from loopback to disk: `make bench BENCH=download`.

What is measured is what stands between a provider's answer and the verification: receiving, hashing and writing, as
`deliver` does it, through a client with the same guards. The file is 500 MB of noise. curl hashes nothing.
"""

from __future__ import annotations

import asyncio
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

MEGABYTE = 1_000_000
SIZE = 500 * MEGABYTE
ROUNDS = 5
OUTPUT = Path("bench-output")


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(asyncio.run(receive(sys.argv[1], Path(sys.argv[2])))))
        return
    curl = shutil.which("curl")
    if curl is None:
        raise SystemExit("curl is not installed: there is nothing to compare with")
    with tempfile.TemporaryDirectory(prefix="genmedia-bench-") as folder:
        source = Path(folder) / "source.mp4"
        with Path("/dev/urandom").open("rb") as noise, source.open("wb") as file:
            for _ in range(SIZE // MEGABYTE):
                file.write(noise.read(MEGABYTE))
        with serving(source) as url:
            ours, theirs = [], []
            for _ in range(ROUNDS):  # in turns, so that whatever else the machine does meets both
                theirs.append(timed([curl, "--silent", "--fail", "-o", f"{folder}/curl.mp4", url])[0])
                ours.append(measured(url, Path(folder)))
    report(theirs, ours)


def report(theirs: list[float], ours: list[dict[str, float]]) -> None:
    speed = {
        "curl": SIZE / MEGABYTE / statistics.median(theirs),
        "ours": SIZE / MEGABYTE / statistics.median(each["seconds"] for each in ours),
    }
    ratio = speed["ours"] / speed["curl"]
    memory = max(each["extra_mb"] for each in ours)
    print("\n| | MB/s | extra memory, MB |")
    print("| --- | --- | --- |")
    print(f"| curl -o | {speed['curl']:.0f} | |")
    print(f"| download of a result, with its digest | {speed['ours']:.0f} | {memory:.0f} |")
    print(f"\nours / curl = {ratio:.2f}")
    OUTPUT.mkdir(exist_ok=True)
    reported = {"bytes": SIZE, "mb_per_second": speed, "ratio": ratio, "extra_memory_mb": memory}
    (OUTPUT / "download.json").write_text(json.dumps(reported, indent=2) + "\n")


def timed(command: list[str]) -> tuple[float, str]:
    begun = time.monotonic()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return time.monotonic() - begun, done.stdout


def measured(url: str, folder: Path) -> dict[str, float]:
    _, reported = timed([sys.executable, __file__, url, str(folder)])
    figures: dict[str, float] = json.loads(reported)
    return figures


async def receive(url: str, folder: Path) -> dict[str, float]:
    """Download as `deliver` does; the process's start is not counted, since a worker's is not."""
    from prefect_genmedia._media.staged import StagedDownload
    from prefect_genmedia._media.storage import LocalFolder
    from prefect_genmedia._transport import FetchRules
    from prefect_genmedia.providers.results import open_url

    download = StagedDownload(LocalFolder(folder))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.monotonic()
    try:
        async with open_url(url, FetchRules(allow_private=True)) as stream:
            await download.receive(stream)
        download.settle()
        seconds = time.monotonic() - begun
    finally:
        download.close()
    extra = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"seconds": seconds, "extra_mb": extra * 1024 / MEGABYTE}


class serving:  # noqa: N801 - used as a context manager
    """Serves one file on a loopback port, from the kernel."""

    def __init__(self, path: Path) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "video/mp4")
                self.send_header("Content-Length", str(path.stat().st_size))
                self.end_headers()
                with path.open("rb") as file:
                    self.connection.sendfile(file)

            def log_message(self, *words: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> str:
        self._thread.start()
        return f"http://127.0.0.1:{self._server.server_port}/result.mp4"

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


if __name__ == "__main__":
    main()
