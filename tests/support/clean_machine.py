"""Somebody who has a copy of this repository, a terminal, Python, pip and make: nothing else, and no settings."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATIENCE = 1200.0
"""Seconds that a command may take: it may install everything, on a slow machine."""
TOOLS = ("bash", "cat", "env", "ls", "make", "mkdir", "rm", "sh", "touch", "uname")
"""All that is on the path beside Python: no git, no curl, no compiler."""
FOR_THE_REGISTRY = ("PIP_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")


def files_of_git() -> list[str]:
    """What a clone has, or would have after the next commit."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("the list of files comes from git")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def copy_of_the_repository(folder: Path) -> Path:
    """A checkout with nothing in it that git does not know."""
    for name in files_of_git():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    return folder


@dataclass
class CleanMachine:
    """A home, a folder to work in, and terminals.

    Args:
        folder: the copy of the repository.
        home: an empty home.
        settings: environment variables that keep what runs on ports of its own.
    """

    folder: Path
    home: Path
    settings: dict[str, str]
    typed: list[str] = field(default_factory=list)
    """What holds for each terminal: `source`, `export`."""
    terminals: int = 0

    @cached_property
    def environment(self) -> dict[str, str]:
        """All that the terminals know."""
        path = self.home / "bin"
        path.mkdir(parents=True)
        for tool in TOOLS:
            (path / tool).symlink_to(shutil.which(tool) or f"/bin/{tool}")
        python = path / "python3"
        python.write_text(f'#!/bin/sh\nexec "{sys._base_executable}" "$@"\n')
        python.chmod(0o755)
        cache = subprocess.run(
            [sys.executable, "-m", "pip", "cache", "dir"], capture_output=True, text=True, check=True
        )
        passed_on = {name: value for name, value in os.environ.items() if name.upper().startswith(FOR_THE_REGISTRY)}
        return {
            **passed_on,
            "PIP_CACHE_DIR": cache.stdout.strip(),
            "PATH": str(path),
            "HOME": str(self.home),
            "SHELL": "/bin/bash",
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
            "DO_NOT_TRACK": "1",
            **self.settings,
        }

    def run(self, command: str, allowed: int = 0) -> str:
        """Type a command, wait for it, and return what it printed."""
        with self.terminal(command) as (process, log):
            code = process.wait(PATIENCE)
            said = log.read_text("utf-8", errors="replace")
        assert code == allowed, f"$ {command}\n{said}"
        return said

    @contextmanager
    def terminal(self, command: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
        """Type a command into a terminal of its own; Ctrl-C ends it."""
        environment = self.environment
        self.terminals += 1
        log = self.home / f"terminal-{self.terminals}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["bash", "-c", "\n".join([*self.typed, command])],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            yield process, log
        finally:
            control_c(process)


def control_c(process: subprocess.Popen[bytes]) -> None:
    """Interrupt all that runs in a terminal, as Ctrl-C does, and see that it ends."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(PATIENCE / 5)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def until_it_says(words: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait for words in what a command prints."""
    deadline = time.monotonic() + PATIENCE
    while words not in (said := log.read_text("utf-8", errors="replace")):
        assert process.poll() is None, f"it ended:\n{said}"
        assert time.monotonic() < deadline, f"not within {PATIENCE:.0f} s: {words!r} in\n{said}"
        time.sleep(0.1)
