"""The faults that can be ordered, and the broken answers they give."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse

from prefect_genmedia.simulator import hostile
from prefect_genmedia.simulator.gateways import BROKEN
from prefect_genmedia.simulator.hostile import hostile_answer, picture_bomb

STAGES: dict[str, dict[str, str]] = {
    "input": {
        "input_404": "answer 404 to a GET of a shipped input, such as `/assets/portrait.jpg`",
        "input_410": "answer 410 to a GET of a shipped input",
        "input_403": "answer 403 to a GET of a shipped input",
        "input_500": "answer 500 to a GET of a shipped input",
        "input_drop": "close the connection of a GET of a shipped input without an answer",
    },
    "upload": {
        "upload_403": "answer 403 to a PUT to `/inbox/`; nothing is kept",
        "upload_500": "answer 500 to a PUT to `/inbox/`; nothing is kept",
        "upload_drop": "close the connection of a PUT to `/inbox/` without an answer; nothing is kept",
        "upload_lost": "answer 201 to a PUT to `/inbox/`, and keep nothing",
    },
    "submit": {
        "refuse_invalid": "answer the documented refusal of a parameter; nothing is accepted",
        "refuse_key": "answer that the key is not valid",
        "refuse_balance": "answer that the account has no balance",
        "rate_limited": "answer 429 with Retry-After (`retry_after`, default 1)",
        "drop_before_accept": "close the connection without an answer; nothing is accepted",
        "accept_then_drop": "accept, and close the connection without an answer",
        "accept_then_500": "accept, and answer 500",
        "accept_then_502": "accept, and answer 502 with HTML",
        "accept_then_504": "accept, and answer 504",
        "accept_then_garbage": "accept, and answer 200 with a body that is no JSON",
        "accept_slowly": "accept, and answer after `seconds` (default 2)",
        "accept_odd_id": "accept under an id with `../`, `?`, `#`, `%2f`, quotes, line break, ANSI and bidi characters",
        "accept_long_id": "accept under an id of 4 KiB",
        "accept_huge_id": "accept under an id of 10 KiB",
        "accept_nul_id": "accept under an id with NUL in it",
        "accept_surrogate_id": "accept under an id with a lone surrogate in it",
        "accept_same_id": "accept under an id that is the same each time",
        "refuse_hostile": "refuse with a code of 100 characters and a hostile text; nothing is accepted",
        "refuse_quota": "answer 429 with the code `insufficient_quota`, as gateways do; nothing is accepted",
        "refuse_no_channel": "answer 503 `model_not_found`, as a gateway without a channel; nothing is accepted",
        "refuse_moved": "answer 308 with another URL; nothing is accepted",
        "refuse_slash": "answer 302 with the same URL and a slash; nothing is accepted",
        "refuse_in_200": "answer 200 with an error and no id; nothing is accepted",
        "refuse_firewall": "answer 403 with HTML, as a firewall does; nothing is accepted",
        "accept_then_no_channel": "accept, and answer 503 `get_channel_failed`, as a gateway after a retry",
        "accept_then_see_other": "accept, and answer 303 with another URL",
        "accept_then_error_in_200": "accept, and answer 200 with an error beside the id",
        "accept_empty_error": "accept, and answer with empty errors and zeros beside the id",
        "accept_integer_id": "accept under an id that is a number",
        "accept_then_drip": "accept, and answer one byte every `seconds` (default 1) without end",
        "accept_then_endless": "accept, and answer without end",
        "accept_then_gzip_bomb": "accept, and answer a little gzip that decodes to `mib` (default 512)",
    },
    "job": {
        "stuck": "the job never leaves its running state",
        "fail_input": "the job fails: the input was refused by moderation",
        "fail_output": "the job fails: the output was refused by moderation",
        "fail_internal": "the job fails: internal error",
        "fail_hostile": "the job fails with a code of 100 characters and a hostile text",
        "silent_video": "the finished video has no sound",
        "short_video": "the finished video is half as long as it should be",
        "small_video": "the finished video is 480p",
    },
    "poll": {
        "poll_503": "answer 503",
        "poll_html": "answer 200 with HTML",
        "poll_unknown_status": "answer a status that no document knows",
        "poll_status_nul": "answer a status with NUL in it",
        "poll_status_surrogate": "answer a status with a lone surrogate in it",
        "poll_status_ansi": "answer a status with ANSI escapes, line breaks, bidi and invisible characters",
        "poll_status_long": "answer a status of 10 kB",
        "poll_status_nested": "answer a status that is a list, nested 900 deep",
        "poll_likely_success": "answer READY, which no document knows, whether there is a file or not",
        "poll_likely_failure": "answer FAILURE, which no document knows, while the job goes on",
        "poll_not_exist": "answer 400 with the code `task_not_exist`",
        "poll_firewall": "answer 403 with HTML",
        "poll_drop": "close the connection without an answer",
        "poll_404": "answer that the job is not known",
        "poll_key_revoked": "answer that the key is not valid",
        "poll_drip": "answer one byte every `seconds` (default 1) without end",
        "poll_endless": "answer without end",
        "poll_gzip_bomb": "answer a little gzip that decodes to `mib` (default 512)",
        "poll_encoded_twice": "answer with the Content-Encoding `gzip, gzip`",
        "poll_nested": "answer JSON that is nested 500,000 levels deep",
    },
    "content": {
        "content_502": "answer 502",
        "content_html": "answer 200 with HTML",
        "content_empty": "answer 200 with no bytes",
        "content_truncated": "promise the whole file, send half, close the connection",
        "content_truncated_chunked": "send half of the file without a Content-Length, and end cleanly",
        "content_corrupt": "send a file of the right length whose middle is overwritten",
        "content_slow": "send the file in pieces over `seconds` (default 1)",
        "content_json": "answer JSON with a URL of the file",
        "content_json_expired": "answer JSON with a URL that has expired",
        "content_redirect": "answer 302 with a signed URL of the file",
        "content_playlist": "send a text that names other files for a demuxer to open, as a video",
        "content_picture": "send a PNG picture as a video",
        "content_bomb": "send a small mp4 whose frame has 8192×8192 pixels",
        "content_frames": "send a small mp4 whose index claims 4 billion frames",
        "content_gzip": "send the file compressed with gzip, followed by a gigabyte of zeros",
        "content_oversized": "promise a file of 5 GiB, and send bytes until the connection is closed",
        "content_not_ready": "answer 400 `video_not_ready`",
        "content_json_text": "answer JSON with a nested, relative URL, as text/plain, with `expires_at` 0",
        "content_gone": "answer that the file is no longer there",
        "content_drip": "send one byte every `seconds` (default 1) without end",
        "content_endless": "send 64 KiB every `seconds` (default 0) without end",
        "content_gzip_bomb": "send a little gzip that decodes to `mib` (default 512)",
    },
    "detect": {
        "detect_429": "answer 429 with Retry-After (`retry_after`, default 1)",
        "detect_503": "answer 503",
        "detect_none": "answer that the picture contains no subject",
        "detect_many": "answer with `count` (default 40) masks",
        "detect_drip": "answer one byte every `seconds` (default 1) without end",
        "detect_gzip_bomb": "answer a little gzip that decodes to `mib` (default 512)",
    },
    "mask": {
        "mask_drip": "send one byte of the mask every `seconds` (default 1) without end",
        "mask_endless": "send a mask without end",
        "mask_pixel_bomb": "send a small PNG of 30,000 by 30,000 pixels",
    },
    "token": {
        "token_drip": "answer one byte every `seconds` (default 1) without end",
        "token_gzip_bomb": "answer a little gzip that decodes to `mib` (default 512)",
    },
}
"""Every fault by the stage it strikes at, with what it does."""

FAILURES = ("fail_input", "fail_output", "fail_internal", "fail_hostile")
"""The faults that let a job fail."""

HOSTILE_TEXT = (
    "first\r\nsecond \x1b[31mred\x1b[0m \x1b]0;title\x07 \u202ereversed\u2066 zero\u200bwidth NUL\x00 half\ud800 "
    "tab\t DEL\x7f C1\x9b31m line\u2028end =HYPERLINK(1)"
)
"""What must reach no terminal, log, table or database as it is."""

HOSTILE_CODE = "code\n\x00\ud800" + "9" * 100

STATUSES: dict[str, Any] = {
    "poll_unknown_status": "reticulating_splines",
    "poll_likely_success": "READY",
    "poll_likely_failure": "FAILURE",
    "poll_status_nul": "working\x00on it",
    "poll_status_surrogate": "working\ud800on it",
    "poll_status_ansi": HOSTILE_TEXT.replace("\x00", "").replace("\ud800", ""),
    "poll_status_long": "working " * 1250,
    "poll_status_nested": json.loads("[" * 900 + "]" * 900),
}
"""The status that each of these faults answers."""

ODD_IDS: dict[str, Callable[[str], str]] = {
    "accept_odd_id": lambda own: f"../..//{own}?a=1&b=2#c%2f%00;'\"`|<b>[x](y)\n\x1b[31m\u202e\u200b 中",
    "accept_long_id": lambda own: (own + "-" + "0123456789abcdef" * 256)[:4096],
    "accept_huge_id": lambda own: own + "-0123456789abcdef" * 640,
    "accept_nul_id": lambda own: f"{own}\x00end",
    "accept_surrogate_id": lambda own: f"{own}\ud800end",
    "accept_same_id": lambda own: "the-same-id-for-all",
    "accept_integer_id": lambda own: str(int.from_bytes(own.encode()[-8:], "big") + 10**19),
}
"""What each of these faults makes of the id that a job would have had."""


@dataclass
class Fault:
    """One ordered fault.

    Args:
        name: one of `STAGES`.
        provider: the dialect it strikes; None for any.
        times: how often it strikes before it is used up.
        options: numbers such as `retry_after` and `seconds`.
    """

    name: str
    provider: str | None = None
    times: int = 1
    options: dict[str, float] = field(default_factory=dict)

    @property
    def stage(self) -> str:
        """The stage at which it strikes."""
        for stage, names in STAGES.items():
            if self.name in names:
                return stage
        raise KeyError(self.name)


class FaultQueue:
    """The ordered faults, first come first served at each stage."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []

    def order(self, fault: Fault) -> None:
        """Let a fault strike from now on.

        Raises:
            KeyError: there is no such fault.
        """
        _ = fault.stage
        self._faults.append(fault)

    def take(self, provider: str, stage: str) -> Fault | None:
        """The fault that strikes now, if any."""
        for fault in self._faults:
            if fault.stage == stage and fault.provider in (None, provider) and fault.times > 0:
                fault.times -= 1
                return fault
        return None

    def clear(self) -> None:
        """Forget every fault."""
        self._faults.clear()

    def pending(self) -> list[Fault]:
        """The faults that are not used up."""
        return [fault for fault in self._faults if fault.times > 0]


DropConnection = Callable[[Request], None]


async def broken_answer(  # noqa: C901 - a table of answers
    fault: Fault, request: Request, drop: DropConnection
) -> Response | None:
    """The answer of a fault that does not depend on the dialect; None for a slow one, whose answer is the usual."""
    name = fault.name
    if name in BROKEN:
        return BROKEN[name](request.url.path)
    hostile = await hostile_answer(name, fault.options, "application/json")
    if hostile is not None:
        return hostile
    if name in ("accept_then_drop", "drop_before_accept", "poll_drop", "input_drop", "upload_drop"):
        drop(request)
        return Response(status_code=204)
    if name == "upload_lost":
        return Response(status_code=201)
    if name.startswith(("input_", "upload_")):
        return PlainError(int(name.partition("_")[2]), "the file is not served or taken")
    if name in ("accept_then_502", "content_502"):
        return HTMLResponse("<html><body><h1>502 Bad Gateway</h1></body></html>", 502)
    if name in ("poll_html", "content_html", "accept_then_garbage"):
        return HTMLResponse("<html><body>Please come back later.</body></html>", 200)
    if name in ("poll_503", "detect_503"):
        return PlainError(503, "Service Unavailable")
    if name == "accept_then_500":
        return PlainError(500, "Internal Server Error")
    if name == "accept_then_504":
        return PlainError(504, "Gateway Timeout")
    await asyncio.sleep(fault.options.get("seconds", 2.0))
    return None


class PlainError(JSONResponse):
    """A gateway's error in a shape that no provider documents."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__({"message": message}, status)


async def _hostile_file(name: str, content: bytes, media_type: str) -> Response | None:
    """The answer of a fault that sends another file than the video; None for any other fault."""
    if name == "mask_pixel_bomb":
        return Response(await asyncio.to_thread(picture_bomb), media_type=media_type)
    if name in hostile.FILES:
        return Response(await asyncio.to_thread(hostile.FILES[name]), media_type=media_type)
    if name == "content_gzip":
        headers = {"Content-Encoding": "gzip"}
        return StreamingResponse(hostile.compressed(content, 1 << 30), media_type=media_type, headers=headers)
    if name == "content_oversized":
        headers = {"Content-Length": str(5 * 1024**3)}
        return StreamingResponse(hostile.endless(), media_type=media_type, headers=headers)
    return None


async def broken_file(
    fault: Fault, content: bytes, media_type: str, request: Request, drop: DropConnection
) -> Response:
    """A file that arrives as the fault says."""
    half = content[: len(content) // 2]
    hostile = await hostile_answer(fault.name, fault.options, media_type) or await _hostile_file(
        fault.name, content, media_type
    )
    if hostile is not None:
        return hostile
    if fault.name == "content_empty":
        return Response(b"", media_type=media_type)
    if fault.name == "content_corrupt":
        third = len(content) // 3
        return Response(content[:third] + b"\xa5" * third + content[2 * third :], media_type=media_type)
    if fault.name == "content_truncated_chunked":
        return StreamingResponse(_pieces(half, 4, 0.0), media_type=media_type)
    if fault.name == "content_slow":
        pieces = _pieces(content, 20, fault.options.get("seconds", 1.0))
        return StreamingResponse(pieces, media_type=media_type, headers={"Content-Length": str(len(content))})
    if fault.name == "content_truncated":

        async def cut() -> AsyncIterator[bytes]:
            yield half
            await asyncio.sleep(0.05)
            drop(request)
            await asyncio.sleep(5.0)  # cancelled at once: ending here would be told as a fault of the simulator

        return StreamingResponse(cut(), media_type=media_type, headers={"Content-Length": str(len(content))})
    broken = await broken_answer(fault, request, drop)
    return broken or Response(content, media_type=media_type)


async def _pieces(content: bytes, count: int, seconds: float) -> AsyncIterator[bytes]:
    size = max(len(content) // count, 1)
    for start in range(0, len(content), size):
        yield content[start : start + size]
        await asyncio.sleep(seconds / count)


def fault_from(order: dict[str, Any]) -> Fault:
    """Read an order: `{"fault": name, "provider"?: …, "times"?: …, further numbers}`.

    Raises:
        KeyError: there is no such fault.
    """
    known = {"fault", "provider", "times"}
    options = {name: float(value) for name, value in order.items() if name not in known}
    fault = Fault(str(order["fault"]), order.get("provider"), int(order.get("times", 1)), options)
    _ = fault.stage
    return fault
