"""The decoder process: opens media files that somebody else made, and says what is in them.

`decoding.py` runs this file by its path in a process of its own, which can be ended and has limits on memory and CPU
time. It imports nothing of this package but the modules `decoder_…` beside it, so that it starts in a twentieth of a
second and holds no secret.

It reads one JSON request a line from stdin and writes one JSON answer a line to stdout:

    {"do": "video", "path": "/…/staged", "limits": {"pixels": …, "frames": …, "seconds": …, "cpu_seconds": …},
     "options": {"verify": "structure"}}
    {"found": {…}} or {"problem": "the file has no video stream"}
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

# Where PyAV and Pillow are, and the modules beside this file: the process is started without `site`, and isolated.
sys.path += [*sys.argv[2:], os.path.dirname(__file__)]  # noqa: PTH120 - pathlib is not imported here

import av
import av.error
import av.logging

if TYPE_CHECKING:
    from prefect_genmedia._media.decoder_files import check_size, is_cover, opened
    from prefect_genmedia._media.decoder_pictures import Inconvertible, convert, read_header
    from prefect_genmedia._media.decoder_quality import measured_quality
    from prefect_genmedia._media.decoder_tracks import Loudness, Refused, Track
    from prefect_genmedia._media.decoder_video import frame_strip, verified_video
else:
    from decoder_files import check_size, is_cover, opened
    from decoder_pictures import Inconvertible, convert, read_header
    from decoder_quality import measured_quality
    from decoder_tracks import Loudness, Refused, Track
    from decoder_video import frame_strip, verified_video

try:
    import resource
except ImportError:  # Windows: the parent's deadline is the only limit
    resource = None  # type: ignore[assignment]

IDLE_SECONDS = 60.0
"""A process that is not asked for this long ends itself."""

FILES = 500
"""A process ends after so many files: what a decoder leaks stays small."""

LOSSLESS_CODECS = frozenset("flac alac wavpack ape tta".split())
"""Codecs beside PCM that keep each sample. All others put some before the sound, or behind it."""

RECORDING_FORMATS = "mov,mp3,wav,flac,ogg,aac,matroska,avi,mpegts,mpeg,flv,asf,aiff,caf,amr,w64"
"""Demuxers that read one file and never another one: no playlists, no image sequences, no scripts, no subtitles."""


def main() -> None:
    """Answer requests until stdin ends, or nothing is asked for a while."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what a library prints must not end up among the answers
    av.logging.set_level(None)
    _limit_memory(int(sys.argv[1]))
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(requests,), daemon=True).start()
    for _ in range(FILES):
        try:
            request = json.loads(requests.get(timeout=IDLE_SECONDS))
        except queue.Empty:
            return
        answer, is_spent = _answered(request)
        answers.write(json.dumps(answer).encode() + b"\n")
        if is_spent:
            return


def _receive(requests: queue.SimpleQueue[bytes]) -> None:
    """Take requests in, and end at once when the parent is gone, whatever is being decoded."""
    for line in sys.stdin.buffer:
        requests.put(line)
    os._exit(0)


def _answered(request: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """The answer to one request, and whether the process should end after it."""
    limits = request["limits"]
    _limit_cpu(limits["cpu_seconds"])
    try:
        return {"found": WORK[request["do"]](request["path"], limits | request.get("options", {}))}, False
    except (Refused, Inconvertible) as error:
        return {"problem": str(error)}, False
    except (MemoryError, av.error.MemoryError, av.error.BlockingIOError):  # the last one: no memory for a thread
        return {"problem": "decoding it takes more memory than is allowed", "spent": True}, True
    except av.error.FFmpegError as error:
        return {"problem": f"it does not decode: {error.strerror or type(error).__name__}"}, False
    except Exception as error:  # Pillow and PyAV raise whatever they meet
        return {"problem": f"it does not decode: {type(error).__name__}: {error}"[:300]}, False


def _limit_memory(size: int) -> None:
    """Bound what this process may allocate, in bytes.

    On Linux RLIMIT_DATA counts what can be written to, which is close to what is resident; RLIMIT_AS counts reserved
    addresses as well, so it is only the second line there.
    """
    if resource is None:
        return
    for kind, bound in ((resource.RLIMIT_DATA, size), (resource.RLIMIT_AS, 4 * size), (resource.RLIMIT_CORE, 0)):
        with contextlib.suppress(OSError, ValueError):  # a lower limit is set already, or the system knows none
            resource.setrlimit(kind, (bound, bound))


def _limit_cpu(seconds: float) -> None:
    """Let this process use so many further seconds of CPU time; it is killed by SIGXCPU then."""
    if resource is None:
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    bound = int(used.ru_utime + used.ru_stime + seconds) + 1
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CPU, (bound, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def _recording(path: str, limits: dict[str, Any]) -> dict[str, Any]:
    """Whether there is sound in an input, and how long it plays: decoded rather than believed."""
    with opened(path, limits, {"format_whitelist": RECORDING_FORMATS, "enable_drefs": "0"}) as container:
        pictures = [each for each in container.streams.video if not is_cover(each)]
        streams = [*container.streams.audio[:1], *pictures[:1]]
        found: dict[str, Any] = {"sound": bool(container.streams.audio), "seconds": None}
        try:
            for number, stream in enumerate(streams):
                if number:
                    container.seek(container.start_time or 0)
                if _measured(container, stream, limits, found):
                    break
        except (MemoryError, ValueError, av.error.FFmpegError) as error:
            found["problem"] = str(error)
        except Refused as error:
            if not container.streams.audio:
                raise
            found["problem"] = str(error)
        return found


def _measured(
    container: av.container.InputContainer, stream: Any, limits: dict[str, Any], found: dict[str, Any]
) -> bool:
    """Measure one stream of an input; False if nothing in it plays."""
    if stream.type == "video":
        check_size(stream, limits)
    loudness = Loudness()
    track = _played(container, stream, limits, loudness)
    if not track.seconds:  # a header without samples
        found["sound"] = found["sound"] and stream.type != "audio"
        return False
    codec = stream.codec_context.name
    is_exact = codec.startswith("pcm_") or codec in LOSSLESS_CODECS
    found |= {"seconds": round(track.seconds, 3), "is_exact": is_exact}
    found["is_silent"] = stream.type == "audio" and not loudness.is_heard
    return True


def _streams(path: str, limits: dict[str, Any]) -> dict[str, Any]:
    """Whether there is sound in an input, and a picture that plays; nothing is decoded."""
    with opened(path, limits, {"format_whitelist": RECORDING_FORMATS, "enable_drefs": "0"}) as container:
        is_video = any(not is_cover(each) for each in container.streams.video)
        return {"sound": bool(container.streams.audio), "video": is_video}


def _played(container: av.container.InputContainer, stream: Any, limits: dict[str, Any], loudness: Loudness) -> Track:
    """What is presented of a stream of an input."""
    track = Track()
    for packet in container.demux(stream):
        track.read(packet)
        for frame in packet.decode():
            track.add(frame)
            if isinstance(frame, av.AudioFrame):
                loudness.add(frame)
            if track.seconds > limits["seconds"] or track.frames > limits["frames"]:
                most = f"{limits['seconds']:.0f} s, or has more than {limits['frames']} frames"
                raise Refused(f"it plays longer than {most}")
    return track


WORK: dict[str, Callable[[str, dict[str, Any]], dict[str, Any]]] = {
    "video": verified_video,
    "frames": frame_strip,
    "quality": measured_quality,
    "recording": _recording,
    "streams": _streams,
    "picture": read_header,
    "convert": convert,
}

if __name__ == "__main__":
    main()
