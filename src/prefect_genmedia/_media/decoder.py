"""The decoder process: opens media files that somebody else made, and says what is in them.

`jobs/decoding.py` runs this file by its path in a process of its own, which can be ended and has limits on memory and
CPU time. It imports nothing of this package but the
modules `decoder_…` beside it, so that it starts in a twentieth of a second and holds no secret.

It reads one JSON request a line from stdin and writes one JSON answer a line to stdout:

    {"do": "video", "path": "/…/staged", "limits": {"pixels": …, "frames": …, "seconds": …, "cpu_seconds": …}}
    {"found": {…}} or {"problem": "the file has no video stream"}

"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

# Where PyAV and Pillow are, and the modules beside this file: the process is started without `site`, and isolated.
sys.path += [*sys.argv[2:], os.path.dirname(__file__)]  # noqa: PTH120 - pathlib is not imported here

import av
import av.error
import av.logging

if TYPE_CHECKING:
    from prefect_genmedia._media.decoder_pictures import Inconvertible, convert, read_header
    from prefect_genmedia._media.decoder_tracks import Loudness, Refused, Track, jpeg_of, presented, shown_size
else:
    from decoder_pictures import Inconvertible, convert, read_header
    from decoder_tracks import Loudness, Refused, Track, jpeg_of, presented, shown_size

try:
    import resource
except ImportError:  # Windows: the parent's deadline is the only limit
    resource = None  # type: ignore[assignment]

POSTER_WIDTH = 480
"""Pixels; wide enough to recognize a face, small enough for a card in the UI."""

FEW_FRAMES = 48
"""Up to so many frames, starting decoder threads takes longer than what they save."""

THREADED_PIXELS = 2560 * 1440
"""Larger frames are decoded by one thread: each further thread holds frames of its own."""

IDLE_SECONDS = 60.0
"""A process that is not asked for this long ends itself."""

FILES = 500
"""A process ends after so many files: what a decoder leaks stays small."""

VIDEO_BRANDS = frozenset(
    "isom iso2 iso3 iso4 iso5 iso6 iso7 iso8 iso9 isoa isob isoc mp41 mp42 mp71 avc1 hvc1 hev1 av01 dash cmfc cmf2 "
    "MSNV 3gp4 3gp5 3gp6 3gp7 3gp8 3gp9 3gg6 3g2a 3g2b 3g2c M4V M4VH M4VP f4v qt".split()
)
"""Brands of the `ftyp` box that mp4 and mov files have (blanks at the end are left out)."""

PICTURE_BRANDS = frozenset("heic heix heim heis hevc hevx hevm hevs mif1 mif2 msf1 miaf avif avis crx jp2 jpx".split())
"""Brands of pictures and bursts of pictures: a file whose major brand is one of these is no video."""

RESULT_CODECS = "h264,hevc,av1,libdav1d,vp9,libvpx-vp9,mpeg4,aac,aac_fixed,mp3,mp3float,opus,libopus,ac3,eac3,flac,alac"
"""Decoders of what may be in a result."""

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


def _check_is_video_file(path: str) -> None:
    """Check the `ftyp` box, which an mp4 or mov file begins with.

    Raises:
        Refused: there is none, or it is one of another kind of file.
    """
    with open(path, "rb") as file:  # noqa: PTH123 - pathlib is not imported here
        size, kind = int.from_bytes(file.read(4), "big"), file.read(4)
        if kind != b"ftyp" or not 16 <= size <= 4096 or size % 4:
            raise Refused("it is not an mp4 or mov file: it does not begin with an ftyp box")
        body = file.read(size - 8).decode("latin-1")
    brands = [body[at : at + 4].rstrip() for at in range(0, len(body), 4) if at != 4]
    if len(body) != size - 8 or brands[0] in PICTURE_BRANDS or not VIDEO_BRANDS.intersection(brands):
        raise Refused(f"it is not an mp4 or mov file: its brand is {brands[0]!r}")


def _video(path: str, limits: dict[str, Any]) -> dict[str, Any]:
    """Decode every frame of a result and its sound; gives its facts and a poster from a third into it."""
    _check_is_video_file(path)
    options = {"format_whitelist": "mov", "codec_whitelist": RESULT_CODECS, "enable_drefs": "0"}
    with _opened(path, limits, options, "mov") as container:
        streams = [each for each in container.streams.video if not _is_cover(each)]
        if not streams:
            raise Refused("it has no video stream")
        _check_size(streams[0], limits)
        found, is_whole = _decoded(container, streams[0], limits)
        promised = streams[0].frames
    if not is_whole:
        _check_is_whole(path, limits, options, promised)
    return found


def _check_is_whole(path: str, limits: dict[str, Any], options: dict[str, str], promised: int) -> None:
    """Check that each promised frame is in the file: those that an edit list leaves out are there all the same.

    Raises:
        Refused: the file ends before.
    """
    with _opened(path, limits, options | {"ignore_editlist": "1"}, "mov") as container:
        stream = next(each for each in container.streams.video if not _is_cover(each))
        stored = sum(1 for packet in container.demux(stream) if packet.size and not packet.is_corrupt)
    if stored < promised:
        raise Refused(f"it promises {promised} frames, but only {stored} are in it")


@contextlib.contextmanager
def _opened(
    path: str, limits: dict[str, Any], options: dict[str, str], kind: str | None = None
) -> Iterator[av.container.InputContainer]:
    """Open a file, and nothing but this file, with the demuxers that the options allow."""
    common = {"protocol_whitelist": "file", "max_streams": "16", "max_pixels": str(limits["pixels"])}
    # `file:` keeps a path from being read as a URL of another protocol.
    with av.open(f"file:{path}", format=kind, options=common | options) as container:
        for stream in container.streams:
            if stream.codec_context is not None:  # a data stream has none
                stream.codec_context.options = {"max_pixels": str(limits["pixels"])}
        yield container


def _is_cover(stream: Any) -> bool:
    """Whether a video stream is a cover picture: that plays no time."""
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def _check_size(stream: Any, limits: dict[str, Any]) -> None:
    """Check what the file promises, before anything is decoded."""
    context = stream.codec_context
    if context is None:
        raise Refused("it has a video stream that no decoder here reads")
    if context.width * context.height > limits["pixels"]:
        raise Refused(f"its frames have {context.width}×{context.height} pixels, more than {limits['pixels']} in all")
    if stream.frames > limits["frames"]:
        raise Refused(f"it promises {stream.frames} frames, more than {limits['frames']}")


def _decoded(
    container: av.container.InputContainer, stream: Any, limits: dict[str, Any]
) -> tuple[dict[str, Any], bool]:
    """The facts of a video, see `_video`; and whether as many frames were read as it promises."""
    context = stream.codec_context
    is_small = 0 < stream.frames <= FEW_FRAMES or context.width * context.height > THREADED_PIXELS
    context.thread_type, context.thread_count = "AUTO", 1 if is_small else 2
    picture, sound = Track(), Track()
    tracks = {stream.index: picture} | {each.index: sound for each in container.streams.audio[:1]}
    promised = float(container.duration / av.time_base) if container.duration else 0.0
    poster: bytes | None = None
    shown: av.VideoFrame | None = None
    for packet in container.demux([stream, *container.streams.audio[:1]]):
        track = tracks[packet.stream.index]
        track.read(packet)
        for frame in packet.decode():
            track.add(frame)
            if isinstance(frame, av.VideoFrame):
                shown = frame
                if poster is None and picture.last - picture.start >= promised / 3:
                    poster = jpeg_of(frame, POSTER_WIDTH)
            if picture.frames > limits["frames"] or max(picture.seconds, sound.seconds) > limits["seconds"]:
                most = f"{limits['frames']} frames, or plays longer than {limits['seconds']:.0f} s"
                raise Refused(f"it has more than {most}")
    if shown is None:
        raise Refused("it has no picture that decodes")
    seconds = presented(picture, sound, promised)
    width, height = shown_size(shown, stream)
    found = {
        "seconds": round(seconds, 3),
        "width": width,
        "height": height,
        "codec": context.name,
        "frames": picture.frames,
        "has_audio": sound.seconds > 0,
        "audio_seconds": round(max(sound.end - picture.end + seconds, 0.0), 3),
        "poster": base64.b64encode(poster or jpeg_of(shown, POSTER_WIDTH)).decode(),
    }
    return found, picture.packets >= stream.frames


def _frames(path: str, limits: dict[str, Any]) -> dict[str, Any]:
    """Small pictures of a result, at the middles of equal parts of its time; what was verified is decoded once more."""
    _check_is_video_file(path)
    options = {"format_whitelist": "mov", "codec_whitelist": RESULT_CODECS, "enable_drefs": "0"}
    with _opened(path, limits, options, "mov") as container:
        stream = next((each for each in container.streams.video if not _is_cover(each)), None)
        if stream is None or not container.duration:
            raise Refused("it has no video stream")
        _check_size(stream, limits)
        part = float(container.duration / av.time_base) / limits["count"]
        track = Track()
        pictures: list[str] = []
        for frame in container.decode(stream):
            track.add(frame)
            if track.last - track.start >= part * (len(pictures) + 0.5):
                pictures.append(base64.b64encode(jpeg_of(frame, limits["width"])).decode())
            if len(pictures) == limits["count"] or track.frames > limits["frames"]:
                break
    return {"frames": pictures}


def _recording(path: str, limits: dict[str, Any]) -> dict[str, Any]:
    """Whether there is sound in an input, and how long it plays: decoded rather than believed."""
    with _opened(path, limits, {"format_whitelist": RECORDING_FORMATS, "enable_drefs": "0"}) as container:
        pictures = [each for each in container.streams.video if not _is_cover(each)]
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
        _check_size(stream, limits)
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
    with _opened(path, limits, {"format_whitelist": RECORDING_FORMATS, "enable_drefs": "0"}) as container:
        is_video = any(not _is_cover(each) for each in container.streams.video)
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
    "video": _video,
    "frames": _frames,
    "recording": _recording,
    "streams": _streams,
    "picture": read_header,
    "convert": convert,
}

if __name__ == "__main__":
    main()
