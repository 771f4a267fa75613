"""A Prefect server of one's own: a process on a free loopback port, on SQLite, stopped by whoever started it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

START_SECONDS = 240.0
"""How long a server may take until it answers, in seconds; one that has ended is told at once."""

STOP_SECONDS = 15.0
"""How long it may take to end by itself, in seconds."""


@dataclass(frozen=True)
class LocalServer:
    """A running server.

    Args:
        url: its root, such as `http://127.0.0.1:41200`; the UI is there.
        env: the environment for processes that shall use it.
        log: what it prints.
    """

    url: str
    env: Mapping[str, str]
    log: Path

    @property
    def api(self) -> str:
        """The API's URL."""
        return f"{self.url}/api"


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def local_server(home: Path, settings: Mapping[str, str] | None = None) -> Iterator[LocalServer]:
    """Run a server until the block ends.

    Args:
        home: its folder for database and settings.
        settings: further environment variables for it and its clients.

    Raises:
        RuntimeError: it does not come up.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    env = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    env |= {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"{url}/api",
        # The UI asks the browser to talk to this address; the default names port 4200.
        "PREFECT_UI_API_URL": f"{url}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "DO_NOT_TRACK": "1",
        **(settings or {}),
    }
    home.mkdir(parents=True, exist_ok=True)
    log = home / "server.log"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and words
            command, env=env, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
        )
    try:
        _until_healthy(process, f"{url}/api/health", log)
        yield LocalServer(url, env, log)
    finally:
        _stop(process)


def _until_healthy(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    with httpx.Client(timeout=2.0) as client:
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(httpx.HTTPError):
                if client.get(url).is_success:
                    return
            time.sleep(0.2)
    raise RuntimeError(f"The Prefect server did not come up:\n{log.read_text(errors='replace')[-2000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the process and the children it started: they are a session of their own."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    with contextlib.suppress(ProcessLookupError, PermissionError):  # mostly nothing is left
        os.killpg(process.pid, signal.SIGKILL)
