"""Real servers for the tests that need them, on loopback, stopped by whoever started them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from prefect_genmedia.cli.local_server import free_port

PATIENCE = 240.0
"""Seconds until something that takes seconds must have happened: a busy machine stands still at times."""

HTTP = httpx.Client(timeout=PATIENCE / 2, limits=httpx.Limits(max_keepalive_connections=0))
"""One for all questions, since each client reads the certificates anew; no connection outlives its server."""


def postgres_tools() -> Path | None:
    """The folder of initdb and pg_ctl; Debian keeps them out of the path."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    found = installed[-1] if installed else shutil.which("pg_ctl")
    return Path(found).parent if found else None


@contextmanager
def postgres() -> Iterator[str]:
    """A PostgreSQL of one's own; yields its URL. PostgreSQL refuses to run as root, so root becomes `postgres`."""
    tools = postgres_tools()
    assert tools is not None
    user = "postgres" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="genmedia-pg-"))
    if user is not None:
        shutil.chown(folder, user)
    data = folder / "data"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "user": user, "cwd": folder}
    subprocess.run([tools / "initdb", "-D", data, "-U", "genmedia", "-A", "trust", "-E", "UTF8"], check=True, **quiet)
    port = free_port()  # only now: another process may take it while the database is made
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
    control = [tools / "pg_ctl", "-D", data, "-w", "-t", f"{PATIENCE:.0f}"]
    subprocess.run([*control, "-o", options, "-l", folder / "log", "start"], check=True, **quiet)
    try:
        yield f"postgresql://genmedia@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([*control, "-m", "fast", "stop"], check=False, **quiet)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def redis() -> Iterator[str]:
    """A Redis of one's own that keeps nothing on disk; yields its URL."""
    program = shutil.which("redis-server")
    assert program is not None
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="genmedia-redis-") as folder:
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", folder]
        process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            _until_listening(process, port)
            yield f"redis://127.0.0.1:{port}"
        finally:
            stop(process)


def _until_listening(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError("redis-server did not come up")


def ask_api(api: str, method: str, path: str, body: Any = None) -> Any:
    """Call a Prefect server's API as patiently as Prefect's own client: on SQLite it is busy at times, and says 503."""
    deadline = time.monotonic() + PATIENCE
    while True:
        answer = HTTP.request(method, f"{api}{path}", json=body)
        if answer.status_code != 503 or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    answer.raise_for_status()
    return answer.json() if answer.content else None


@dataclass
class Member:
    """A process of the team, started by us."""

    process: subprocess.Popen[bytes]
    log: Path

    def kill(self) -> set[int]:
        """SIGKILL it and everything that it started, at once; returns the ids."""
        if self.process.poll() is not None:
            return set()  # its id may be another process's by now
        everyone = {self.process.pid, *descendants(self.process.pid)}
        for pid in everyone:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(PATIENCE)
        return everyone


def stop(process: subprocess.Popen[Any]) -> None:
    """Ask it to end, and see that it does; one that does not is killed."""
    process.terminate()
    try:
        process.wait(PATIENCE / 2)
    finally:
        process.kill()
        process.wait()


def descendants(pid: int) -> set[int]:
    """The ids of all processes that a process started, and of those that they started."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


@contextmanager
def member(name: str, command: list[str], env: Mapping[str, str], logs: Path) -> Iterator[Member]:
    log = logs / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=dict(env), stdout=output, stderr=subprocess.STDOUT)
    started = Member(process, log)
    try:
        yield started
    finally:
        started.kill()  # nothing of it is needed any more


def until(condition: Callable[[], object], what: Callable[[], str] | str) -> None:
    """Wait for something that other processes do; a server that is not there yet is asked again."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except httpx.TransportError:
            pass
        except httpx.HTTPStatusError as error:  # a server that was killed begins with answers of this kind
            if not error.response.is_server_error:
                raise
        time.sleep(0.2)
    raise AssertionError(f"not within {PATIENCE:.0f} s: {what if isinstance(what, str) else what()}")
