"""Decoder processes: media files are opened outside of the worker's process, in one that can be limited and ended.

A process is started when it is first needed and reused for further files, so that a batch does not start one a file.
"""

from __future__ import annotations

import atexit
import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

MEMORY_BYTES = 264 * 1024**2
"""What a decoder process may allocate: a 4K video in HEVC takes most of it."""

MAX_PROCESSES = max(1, min(4, os.cpu_count() or 1))
"""How many files are decoded at once by this process."""

MAX_ANSWER_BYTES = 4 * 1024**2
"""The largest answer that is read: facts, and a poster frame."""

SCRIPT = Path(__file__).with_name("decoder.py")

CANCELLED = "the download was cancelled"

Work = Literal["video", "frames", "recording", "streams", "picture", "convert"]

Level = Literal["full", "structure", "none"]
"""How a result is verified: every frame is decoded, the container is walked through, or the file is only opened."""


NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})


class DecodingFailed(Exception):
    """A file was not decoded: it is not what it must be, or the decoder crashed or was ended. The text says which."""


@dataclass(frozen=True)
class DecodeLimits:
    """What decoding one file may take.

    Args:
        pixels: of one frame.
        frames: the most frames of one stream.
        seconds: the longest that the file may play.
        cpu_seconds: CPU time of the decoder process.
        wall_seconds: time until the decoder process is ended.
    """

    pixels: int = 4096 * 2304
    frames: int = 120 * 3600
    seconds: float = 4 * 3600.0
    cpu_seconds: float = 60.0
    wall_seconds: float = 120.0


class Decoding:
    """One file's decoding, which another thread can end: closing a download ends it, and `stop` may come early."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: DecoderProcess | None = None
        self._stopped = False

    @property
    def is_stopped(self) -> bool:
        """Whether it was cancelled: what is said of the file then is not the file's fault."""
        return self._stopped

    def begin(self, process: DecoderProcess | None) -> None:
        """Remember the process that decodes now; None when it has answered."""
        with self._lock:
            self._process = process
            if process is not None and self._stopped:
                process.end(CANCELLED)

    def stop(self) -> None:
        """End the process that decodes, if there is one."""
        with self._lock:
            self._stopped = True
            if self._process is not None:
                self._process.end(CANCELLED)


class DecoderProcess:
    """One running decoder process; used by one thread at a time, and ended by any."""

    def __init__(self, memory_bytes: int | None = None) -> None:
        self._why_ended = ""
        self.files = 0
        self._process = subprocess.Popen(  # noqa: S603 - our own script
            [sys.executable, "-I", "-S", "-B", str(SCRIPT), str(memory_bytes or MEMORY_BYTES), *_library_folders()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # libraries quote what is in the file
            env=_bare_environment(),
            start_new_session=True,  # Ctrl-C reaches the worker only, which ends its decoders
        )

    @property
    def is_alive(self) -> bool:
        """Whether it can be asked."""
        return not self._why_ended and self._process.poll() is None

    def ask(
        self, work: Work, path: Path, limits: DecodeLimits, options: Mapping[str, Any] = NO_OPTIONS
    ) -> dict[str, Any] | None:
        """Ask about one file; None if the process ended without an answer.

        Args:
            work: as what the file is opened.
            path: the file.
            limits: what decoding it may take.
            options: what else the work needs to know.
        """
        self.files += 1
        request = {"do": work, "path": str(path.absolute()), "limits": asdict(limits), "options": dict(options)}
        watchdog = threading.Timer(limits.wall_seconds, self.end, (f"it took longer than {limits.wall_seconds:g} s",))
        watchdog.daemon = True
        watchdog.start()
        try:
            assert self._process.stdin is not None  # tells the type checker
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline(MAX_ANSWER_BYTES)
            answer = json.loads(line)
        except (OSError, ValueError):
            return None
        finally:
            watchdog.cancel()
        return answer if isinstance(answer, dict) else None

    def end(self, why: str) -> None:
        """Kill it; `why` is what its current file's error says."""
        self._why_ended = self._why_ended or why
        self._process.kill()

    def close(self) -> str:
        """Kill it, release what it holds, and return why it ended, in words."""
        self._process.kill()
        code = self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None  # tells the type checker
            try:
                pipe.close()
            except OSError:  # what was not written to it
                continue
        if self._why_ended:
            return f"the decoder was ended: {self._why_ended}"
        if code == -_SIGXCPU:
            return "the decoder was ended: it used too much CPU time"
        return f"the decoder crashed with code {code}"


_SIGXCPU = 24
"""The signal's number on Linux and macOS."""


class DecoderPool:
    """The decoder processes of this process, each reused while it lives.

    Args:
        memory_bytes: what each may allocate; None for `MEMORY_BYTES`.
        processes: how many there are at once.
    """

    def __init__(self, memory_bytes: int | None = None, processes: int = MAX_PROCESSES) -> None:
        self._memory_bytes = memory_bytes
        self._idle: list[DecoderProcess] = []
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(processes)

    def ask(
        self,
        work: Work,
        path: Path,
        limits: DecodeLimits | None = None,
        decoding: Decoding | None = None,
        options: Mapping[str, Any] = NO_OPTIONS,
    ) -> dict[str, Any]:
        """What a file holds. Blocks; run it in a thread.

        Args:
            work: as what the file is opened.
            path: the file.
            limits: what decoding it may take.
            decoding: lets another thread end it.
            options: what else the work needs to know.

        Raises:
            DecodingFailed: it is not what it must be, exceeds a limit, or the decoder crashed.
            OSError: no process could be started.
        """
        limits, decoding = limits or DecodeLimits(), decoding or Decoding()
        with self._slots:
            while True:
                process = self._take()
                is_reused = process.files > 0
                decoding.begin(process)
                answer = process.ask(work, path, limits, options)
                decoding.begin(None)
                if answer is not None and "spent" not in answer:
                    self._give_back(process)
                    break
                problem = process.close()
                if is_reused and not problem.startswith("the decoder was ended"):
                    continue  # it had ended while nobody asked, or earlier files had used up its memory
                if answer is None:
                    raise DecodingFailed(problem)
                break
        if "problem" in answer:
            raise DecodingFailed(str(answer["problem"]))
        found: dict[str, Any] = answer["found"]
        return found

    def close(self) -> None:
        """End the idle processes."""
        with self._lock:
            idle, self._idle = self._idle, []
        for process in idle:
            process.close()

    def _take(self) -> DecoderProcess:
        while True:
            with self._lock:
                process = self._idle.pop() if self._idle else None
            if process is None:
                return DecoderProcess(self._memory_bytes)
            if process.is_alive:
                return process
            process.close()

    def _give_back(self, process: DecoderProcess) -> None:
        with self._lock:
            self._idle.append(process)


CONVERTER_BYTES = 768 * 1024**2
"""What a process that converts a picture may allocate: Pillow takes four bytes a pixel, twice while it converts."""

_pool = DecoderPool()
_converters = DecoderPool(CONVERTER_BYTES, processes=1)


def pool() -> DecoderPool:
    """The decoder processes of this process."""
    return _pool


def converters() -> DecoderPool:
    """The process that converts pictures."""
    return _converters


def _forget() -> None:
    """After a fork: the parent's decoders answer the parent."""
    global _pool, _converters
    _pool = DecoderPool()
    _converters = DecoderPool(CONVERTER_BYTES, processes=1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def _close() -> None:
    _pool.close()
    _converters.close()


atexit.register(_close)


@lru_cache(maxsize=1)
def _library_folders() -> tuple[str, ...]:
    """Folders of PyAV, Pillow and what reads HEIC, if it is there, found without importing them."""
    specs = [importlib.util.find_spec(name) for name in ("av", "PIL", "pillow_heif")]
    folders = [str(Path(spec.origin).parents[1]) for spec in specs if spec is not None and spec.origin]
    return tuple(dict.fromkeys(folders))


def _bare_environment() -> dict[str, str]:
    """What a program needs to start; no keys of the worker."""
    needed = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "TEMP", "LANG", "LC_ALL")
    return {name: os.environ[name] for name in needed if name in os.environ} | {"MALLOC_ARENA_MAX": "2"}
