"""The verification of a result, in a decoder process: decoded as a whole, walked through, or only opened.

Imported by `decoder.py` in its process: nothing of this package may be imported here.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import av
import av.error

if TYPE_CHECKING:
    from prefect_genmedia._media.decoder_files import check_is_video_file, check_size, is_cover, opened
    from prefect_genmedia._media.decoder_structure import Boxes, Unusual, Walk, read_boxes
    from prefect_genmedia._media.decoder_tracks import Refused, Track, jpeg_of, presented, shown_size
else:
    from decoder_files import check_is_video_file, check_size, is_cover, opened
    from decoder_structure import Boxes, Unusual, Walk, read_boxes
    from decoder_tracks import Refused, Track, jpeg_of, presented, shown_size

RESULT_CODECS = "h264,hevc,av1,libdav1d,vp9,libvpx-vp9,mpeg4,aac,aac_fixed,mp3,mp3float,opus,libopus,ac3,eac3,flac,alac"
"""Decoders of what may be in a result."""

CODECS = frozenset(RESULT_CODECS.split(","))

RESULT = {"format_whitelist": "mov", "codec_whitelist": RESULT_CODECS, "enable_drefs": "0"}
"""With what a result is opened."""

UNPROBED = RESULT | {"codec_whitelist": "none", "probesize": "32", "analyzeduration": "0"}
"""The same without decoding frames to find out what is in them: the tables say it."""

POSTER_WIDTH = 480
"""Pixels; wide enough to recognize a face, small enough for a card in the UI."""

FEW_FRAMES = 48
"""Up to so many frames, starting decoder threads takes longer than what they save."""

THREADED_PIXELS = 2560 * 1440
"""Larger frames are decoded by one thread: each further thread holds frames of its own."""

CHEAP_SHARE = 50
"""A second key frame is decoded if it has at most this part of the picture's bytes: its decoding costs as much."""


def verified_video(path: str, limits: dict[str, Any]) -> dict[str, Any]:
    """The facts of a result, with a poster, and the level that it was verified at.

    Parameters:
        path: the file.
        limits: what decoding it may take; and `verify`, the level that is wanted.

    Raises:
        Refused: it is not whole, or no video.
    """
    check_is_video_file(path)
    level = limits.get("verify", "full")
    if level == "none":
        return _described(path, limits) | {"verified": level}
    boxes = read_boxes(path)
    if level == "structure":
        try:
            return _walked(path, limits, boxes) | {"verified": level}
        except (Unusual, av.error.FFmpegError):
            pass  # decoding decides
    return _decoded_whole(path, limits, boxes) | {"verified": "full"}


def frame_strip(path: str, limits: dict[str, Any]) -> dict[str, Any]:
    """Small pictures of a result, at the middles of equal parts of its time; what was verified is decoded once more.

    Parameters:
        path: the file.
        limits: what decoding it may take; `count` pictures, of `width` pixels at most.

    Raises:
        Refused: it is no video.
    """
    check_is_video_file(path)
    with opened(path, limits, RESULT, "mov") as container:
        stream = picture_of(container, limits)
        part = _promised(container) / limits["count"]
        track, pictures = Track(), list[str]()
        for frame in container.decode(stream):
            track.add(frame)
            if track.last - track.start >= part * (len(pictures) + 0.5):
                pictures.append(base64.b64encode(jpeg_of(frame, limits["width"])).decode())
            if len(pictures) == limits["count"] or track.frames > limits["frames"]:
                break
    return {"frames": pictures}


def picture_of(container: av.container.InputContainer, limits: dict[str, Any]) -> Any:
    """The stream of the picture, whose size is checked.

    Parameters:
        container: the file.
        limits: what decoding it may take.

    Raises:
        Refused: it has no picture, or a larger one.
    """
    streams = [each for each in container.streams.video if not is_cover(each)]
    if not streams:
        raise Refused("it has no video stream")
    check_size(streams[0], limits)
    return streams[0]


def _check_amount(picture: Track, sound: Track, limits: dict[str, Any]) -> None:
    if picture.frames > limits["frames"] or max(picture.seconds, sound.seconds) > limits["seconds"]:
        raise Refused(f"it has more than {limits['frames']} frames, or plays longer than {limits['seconds']:.0f} s")


def _promised(container: av.container.InputContainer) -> float:
    """How long a file plays by its own words, in seconds."""
    return float(container.duration / av.time_base) if container.duration else 0.0


def _decoded_whole(path: str, limits: dict[str, Any], boxes: Boxes) -> dict[str, Any]:
    """Walk through a result, and decode every frame of it and its sound; the poster is from a third into it."""
    with opened(path, limits, RESULT, "mov") as container:
        stream = picture_of(container, limits)
        found, is_whole = _decoded(container, stream, limits, boxes)
        promised = stream.frames
    if not is_whole:
        _check_is_whole(path, limits, promised)
    return found


def _check_is_whole(path: str, limits: dict[str, Any], promised: int) -> None:
    """Check that each promised frame is in the file: those that an edit list leaves out are there all the same.

    Raises:
        Refused: the file ends before.
    """
    with opened(path, limits, RESULT | {"ignore_editlist": "1"}, "mov") as container:
        stream = next(each for each in container.streams.video if not is_cover(each))
        stored = sum(1 for packet in container.demux(stream) if packet.size and not packet.is_corrupt)
    if stored < promised:
        raise Refused(f"it promises {promised} frames, but only {stored} are in it")


def _decoded(
    container: av.container.InputContainer, stream: Any, limits: dict[str, Any], boxes: Boxes
) -> tuple[dict[str, Any], bool]:
    """The facts of a decoded video; and whether as many frames were read as it promises."""
    context = stream.codec_context
    is_small = 0 < stream.frames <= FEW_FRAMES or context.width * context.height > THREADED_PIXELS
    context.thread_type, context.thread_count = "AUTO", 1 if is_small else 2
    walk, picture, sound = Walk(stream), Track(), Track()
    tracks = {stream.index: picture} | {each.index: sound for each in container.streams.audio[:1]}
    promised = _promised(container)
    poster: bytes | None = None
    shown: av.VideoFrame | None = None
    for packet in _packets(container):
        walk.read(packet)
        track = tracks.get(packet.stream.index)
        if track is None:
            continue
        track.read(packet)
        for frame in packet.decode():
            track.add(frame)
            if isinstance(frame, av.VideoFrame):
                shown = frame
                if poster is None and picture.last - picture.start >= promised / 3:
                    poster = jpeg_of(frame, POSTER_WIDTH)
            _check_amount(picture, sound, limits)
    walk.finish(boxes)
    if shown is None:
        raise Refused("it has no picture that decodes")
    found = _facts(stream, shown, picture, sound, presented(picture, sound, promised))
    return found | _poster(poster or jpeg_of(shown, POSTER_WIDTH)), picture.packets >= stream.frames


def _walked(path: str, limits: dict[str, Any], boxes: Boxes) -> dict[str, Any]:
    """Walk through a result, read the header of each frame, and decode its sound and one or two key frames.

    Raises:
        Refused: it is damaged; decoding it would say the same.
        Unusual: only decoding can decide.
    """
    with opened(path, limits, UNPROBED, "mov") as container:
        stream = picture_of(container, limits)
        walk, picture, sound = Walk(stream), Track(), Track()
        if walk.unusual:
            raise Unusual(walk.unusual)
        if any(each.codec_context.name not in CODECS for each in container.streams.audio[:1]):
            raise Unusual("its sound has an unusual codec")
        promised, keys = _promised(container), KeyFrames()
        headers = av.BitStreamFilterContext("trace_headers", stream)  # FFmpeg's reader of all headers: strict
        heard = container.streams.audio[0].index if container.streams.audio else -1
        for packet in _packets(container):
            walk.read(packet)
            if packet.stream.index == heard:
                sound.read(packet)
                for frame in packet.decode():
                    sound.add(frame)
            elif packet.stream.index == stream.index and packet.size:
                picture.take(packet)
                keys.read(packet, promised / 3)
                headers.filter(packet)
            _check_amount(picture, sound, limits)
        walk.finish(boxes)
        if walk.unusual or picture.packets < stream.frames:
            raise Unusual(walk.unusual or "it has fewer frames than it promises")
        shown = keys.decoded(stream)
        try:
            seconds = presented(picture, sound, promised)
        except Refused as problem:
            raise Unusual(str(problem)) from None
        return _facts(stream, shown, picture, sound, seconds) | _poster(jpeg_of(shown, POSTER_WIDTH))


def _described(path: str, limits: dict[str, Any]) -> dict[str, Any]:
    """What a result says of itself, and its first picture; nothing else of it is checked."""
    with opened(path, limits, UNPROBED, "mov") as container:
        stream = picture_of(container, limits)
        if stream.codec_context.name not in CODECS:
            raise Refused("it has a video stream that no decoder here reads")
        keys = KeyFrames()
        for packet in container.demux(stream):
            if packet.size and keys.read(packet, 0.0):
                break
        try:
            shown = keys.decoded(stream)
        except Unusual:
            raise Refused("it has no picture that decodes") from None
        sounds = container.streams.audio[:1]
        picture, sound, seconds = Track(), Track(), _promised(container)
        found = _facts(stream, shown, picture, sound, seconds)
        named = {"frames": stream.frames, "has_audio": bool(sounds), "audio_seconds": round(seconds, 3)}
        return found | (named if sounds else named | {"audio_seconds": 0.0}) | _poster(jpeg_of(shown, POSTER_WIDTH))


def _packets(container: av.container.InputContainer) -> Any:
    """All samples of a file but its cover pictures, which are among its tables."""
    return container.demux([each for each in container.streams if not (each.type == "video" and is_cover(each))])


class KeyFrames:
    """The key frames of a walk that are decoded: the one before the poster's time, and the last."""

    def __init__(self) -> None:
        self._poster: av.Packet[Any] | None = None
        self._last: av.Packet[Any] | None = None
        self._bytes = 0

    def read(self, packet: Any, wanted: float) -> bool:
        """Keep a copy of a packet, if it is a key frame; returns whether it is.

        Parameters:
            packet: a sample of the picture.
            wanted: when the poster's frame is presented, in seconds.
        """
        self._bytes += packet.size
        if not packet.is_keyframe or packet.is_discard or packet.pts is None:
            return False
        copy = av.Packet(bytes(packet))
        copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
        self._last = copy
        if self._poster is None or float(packet.pts * packet.time_base) <= wanted:
            self._poster = copy
        return True

    def decoded(self, stream: Any) -> av.VideoFrame:
        """Decode them; returns the poster's frame.

        Parameters:
            stream: the stream of the picture.

        Raises:
            Unusual: there is none, or one does not decode without errors.
        """
        if self._poster is None or self._last is None:
            raise Unusual("it has no key frame")
        context, frames = stream.codec_context, list[av.VideoFrame]()
        context.thread_count = 1
        context.options = context.options | {"skip_loop_filter": "all"}  # a third of the time, and a little of the look
        is_cheap = self._last is not self._poster and self._last.size * CHEAP_SHARE <= self._bytes
        for packet in (self._poster, *([self._last] if is_cheap else [])):
            found = [*context.decode(packet), *context.decode(None)]
            context.flush_buffers()
            if not found or found[0].is_corrupt:
                raise Unusual("a key frame of it does not decode")
            frames.append(found[0])
        return frames[0]


def _facts(stream: Any, shown: av.VideoFrame, picture: Track, sound: Track, seconds: float) -> dict[str, Any]:
    """The facts of a video, but for its poster."""
    width, height = shown_size(shown, stream)
    return {
        "seconds": round(seconds, 3),
        "width": width,
        "height": height,
        "codec": stream.codec_context.name,
        "frames": picture.frames,
        "has_audio": sound.seconds > 0,
        "audio_seconds": round(max(sound.end - picture.end + seconds, 0.0), 3) if sound.frames else 0.0,
    }


def _poster(picture: bytes) -> dict[str, Any]:
    return {"poster": base64.b64encode(picture).decode()}
