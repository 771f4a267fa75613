"""A gateway that answers as a test says, over real HTTP: one script for each endpoint of the videos API."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from prefect_genmedia.simulator.media import Recipe, render

KEY = "sk-field"


@dataclass(frozen=True)
class Said:
    """One answer: bytes and text as they are, all else as JSON."""

    status: int = 200
    body: Any = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def content(self) -> bytes:
        if isinstance(self.body, bytes):
            return self.body
        return (self.body if isinstance(self.body, str) else json.dumps(self.body)).encode()

    @property
    def media_type(self) -> str:
        return "application/json" if isinstance(self.body, dict | list) else "text/html"


def page(status: int = 200) -> Said:
    return Said(status, "<!DOCTYPE html><html><title>Welcome</title><body>Welcome</body></html>")


@cache
def video() -> bytes:
    """What `jimeng-video-3.0-720P` makes from a text."""
    return render(Recipe(None, short_side=720, ratio=16 / 9, rate=24, frames=121, tint=7))


def file() -> Said:
    return Said(200, video(), {"Content-Type": "video/mp4"})


class Gateway:
    """Answers `submit`, `poll` and `content`, each from its script; the last answer of a script stays."""

    def __init__(self, **scripts: Said | list[Said]) -> None:
        self.scripts: dict[str, list[Said]] = {"content": [file()], "files": [file()]}
        self.scripts |= {name: each if isinstance(each, list) else [each] for name, each in scripts.items()}
        self.asked: list[tuple[str, str, str | None]] = []
        self.url = ""

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    def count(self, name: str) -> int:
        return sum(asked == name for asked, _, _ in self.asked)

    def answer(self, method: str, path: str, key: str | None) -> Said:
        name = "submit" if method == "POST" else "content" if path.endswith("/content") else "poll"
        if path.startswith(("/files/", "/v1/files/")):
            name = "files"
        self.asked.append((name, path, key))
        script = self.scripts.get(name) or [Said(404, {"error": {"message": "not found"}})]
        return script.pop(0) if len(script) > 1 else script[0]


@contextmanager
def gateway(**scripts: Said | list[Said]) -> Iterator[Gateway]:
    """A running gateway.

    Args:
        **scripts: the answers of `submit`, `poll`, `content` and `files`.
    """
    scripted = Gateway(**scripts)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.respond()

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.respond()

        def respond(self) -> None:
            said = scripted.answer(self.command, self.path, self.headers.get("authorization"))
            self.send_response(said.status)
            for name, value in {"Content-Type": said.media_type, **said.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(said.content)))
            self.end_headers()
            self.wfile.write(said.content)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    scripted.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield scripted
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
