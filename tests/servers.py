"""Real servers for the tests that need them, on loopback, stopped by whoever started them."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prefect_genmedia.cli.local_server import free_port


def postgres_tools() -> Path | None:
    """The folder of initdb and postgres; Debian keeps them out of the path."""
    found = shutil.which("initdb")
    if found:
        return Path(found).parent
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return installed[-1].parent if installed else None


@contextmanager
def postgres() -> Iterator[str]:
    """A PostgreSQL of one's own; yields its URL. PostgreSQL refuses to run as root, so root becomes `postgres`."""
    tools = postgres_tools()
    assert tools is not None
    user = "postgres" if os.geteuid() == 0 else None
    port = free_port()
    folder = Path(tempfile.mkdtemp(prefix="genmedia-pg-"))
    if user is not None:
        shutil.chown(folder, user)
    data = folder / "data"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "user": user, "cwd": folder}
    subprocess.run([tools / "initdb", "-D", data, "-U", "genmedia", "-A", "trust", "-E", "UTF8"], check=True, **quiet)
    options = ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}", "-c", "fsync=off"]
    server = subprocess.Popen([tools / "postgres", "-D", data, "-p", str(port), *options], **quiet)
    try:
        ready = [tools / "pg_isready", "-h", "127.0.0.1", "-p", str(port), "-t", "1"]
        for _ in range(100):
            if subprocess.run(ready, check=False, **quiet).returncode == 0:
                break
        else:
            raise RuntimeError("PostgreSQL did not come up")
        yield f"postgresql://genmedia@127.0.0.1:{port}/postgres"
    finally:
        server.terminate()
        server.wait(30)
        shutil.rmtree(folder, ignore_errors=True)
