"""Damaged videos by the thousand: whether `structure` says of each what `full` says.

    make verify-corpus
    make verify-corpus FILES=120 SEED=7

Each clip is encoded here, damaged in one way and verified at both levels in decoder processes. The figures go to
`bench-output/verify-corpus.json`, and as a table to the terminal. It fails if a class agrees in less than 99.9 % of its
files, if a truncated or zero-filled file is accepted, or if an intact file is refused.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import math
import multiprocessing
import os
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import av.filter
import av.logging

from prefect_genmedia._media.decoding import Level
from prefect_genmedia._media.verify import examine_video
from prefect_genmedia.errors import ResultInvalid
from prefect_genmedia.providers.protocol import MediaExpectation

os.environ.setdefault("SVT_LOG", "1")  # errors only
av.logging.set_level(None)  # a log of an encoder's thread may wait for the interpreter, which waits for the encoder

FRAGMENTED = "frag_keyframe+empty_moov+default_base_moof"
LAYOUTS = {"faststart": "faststart", "fragmented": FRAGMENTED}
ENCODERS: Mapping[str, tuple[str, dict[str, str]]] = {
    "h264": ("libx264", {"preset": "veryfast", "crf": "26", "g": "24"}),
    "hevc": ("libx265", {"preset": "ultrafast", "crf": "28", "x265-params": "log-level=none:keyint=24"}),
    "av1": ("libsvtav1", {"preset": "10", "crf": "40", "g": "24"}),
}
INTACT: Mapping[str, tuple[str, dict[str, str]]] = ENCODERS | {
    "vp9": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}),
    "mpeg4": ("mpeg4", {}),
}
EXPECTED = MediaExpectation(seconds=5)
MAX_RANGE = 1 << 20
PAGE = (
    b"<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head><body><center><h1>502 Bad Gateway</h1></center>"
    b"<hr><center>nginx</center></body></html>\r\n"
)
BOXES = (
    b"moov trak mdia minf stbl stsd stts stsz stsc stco ctts elst edts mdhd tkhd mvhd hdlr avc1 avcC hev1 hvcC av01 "
    b"av1C stss moof traf trun tfhd tfdt mdat ftyp mp4a esds mvex trex mfhd vmhd smhd dref dinf"
).split()


@dataclass(frozen=True)
class Picture:
    """What is encoded: a moving test picture with noise, and noise as its sound."""

    width: int = 320
    height: int = 180
    frames: int = 48
    rate: int = 24
    noise: int = 12
    has_sound: bool = True


def encoded(codec: str, options: Mapping[str, str], picture: Picture, flags: str) -> bytes:
    """A clip as an mp4 file."""
    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:  # not in memory: `faststart` opens the file again
        _encode(file.name, codec, options, picture, flags)
        return Path(file.name).read_bytes()


def _encode(path: str, codec: str, options: Mapping[str, str], picture: Picture, flags: str) -> None:
    with av.open(path, "w", format="mp4", options={"movflags": flags} if flags else {}) as container:
        stream = container.add_stream(codec, rate=picture.rate, options=dict(options))
        stream.width, stream.height, stream.pix_fmt = picture.width, picture.height, "yuv420p"
        sound = container.add_stream("aac", rate=44100, layout="mono") if picture.has_sound else None
        pictures, sounds, at = _pictures(picture), _sounds(), 0
        for number in range(picture.frames):
            frame = next(pictures)
            frame.pts, frame.time_base, frame.pict_type = number, Fraction(1, picture.rate), 0
            container.mux(stream.encode(frame))
            while sound is not None and at * picture.rate < (number + 1) * 44100:
                heard = next(sounds)
                at += heard.samples
                container.mux(sound.encode(heard))
        container.mux(stream.encode(None))
        if sound is not None:
            container.mux(sound.encode(None))


def _pictures(picture: Picture) -> Iterator[av.VideoFrame]:
    graph = av.filter.Graph()
    source = graph.add("testsrc2", f"size={picture.width}x{picture.height}:rate={picture.rate}")
    noise = graph.add("noise", f"alls={picture.noise}:allf=t")
    form, sink = graph.add("format", "yuv420p"), graph.add("buffersink")
    source.link_to(noise)
    noise.link_to(form)
    form.link_to(sink)
    graph.configure()
    while True:
        yield graph.pull()


def _sounds() -> Iterator[av.AudioFrame]:
    graph = av.filter.Graph()
    source, sink = (
        graph.add("anoisesrc", "amplitude=0.3:sample_rate=44100:nb_samples=1024:seed=1"),
        graph.add("abuffersink"),
    )
    form = graph.add("aformat", "sample_fmts=fltp:channel_layouts=mono")
    source.link_to(form)
    form.link_to(sink)
    graph.configure()
    while True:
        yield graph.pull()


@functools.cache
def clips() -> dict[tuple[str, str], bytes]:
    """The clips that are damaged, by codec and layout."""
    return {
        (codec, layout): encoded(*ENCODERS[codec], Picture(), flags)
        for codec in ENCODERS
        for layout, flags in LAYOUTS.items()
    }


def _range(chance: random.Random, size: int) -> tuple[int, int]:
    """Where a damaged range begins, and its length: log-uniform from 16 bytes to 1 MB, at most a third of the file."""
    length = min(int(math.exp(chance.uniform(math.log(16), math.log(MAX_RANGE)))), size // 3)
    return chance.randrange(size - length), length


def truncated(clip: bytes, chance: random.Random) -> bytes:
    if chance.random() < 0.5:
        return clip[: chance.randrange(1, len(clip))]
    return clip[: -_range(chance, len(clip))[1]]


def zeroed(clip: bytes, chance: random.Random) -> bytes:
    at, length = _range(chance, len(clip))
    return clip[:at] + bytes(length) + clip[at + length :]


def dropped(clip: bytes, chance: random.Random) -> bytes:
    at, length = _range(chance, len(clip))
    return clip[:at] + clip[at + length :]


def swapped(clip: bytes, chance: random.Random) -> bytes:
    at, length = _range(chance, len(clip))
    other = chance.randrange(len(clip) - length)
    length = min(length, abs(at - other)) or 1
    first, second = sorted((at, other))
    between = clip[first + length : second]
    return (
        clip[:first] + clip[second : second + length] + between + clip[first : first + length] + clip[second + length :]
    )


def repeated(clip: bytes, chance: random.Random) -> bytes:
    """A range again: behind itself, or over what follows it."""
    at, length = _range(chance, len(clip))
    again = clip[: at + length] + clip[at : at + length]
    return again + clip[at + length :] if chance.random() < 0.5 else (again + clip[at + 2 * length :])[: len(clip)]


def page(clip: bytes, chance: random.Random) -> bytes:
    """An error page of a gateway: in between, over what was there, or instead of the rest."""
    at, kind = chance.randrange(64, len(clip)), chance.randrange(3)
    return clip[:at] + PAGE + (clip[at:], clip[at + len(PAGE) :], b"")[kind]


def edited(clip: bytes, chance: random.Random) -> bytes:
    """A box with another length, another type, or another value in it."""
    places = [at - 4 for name in BOXES for at in _places(clip, name)]
    at, data, kind = chance.choice(places), bytearray(clip), chance.random()
    size = int.from_bytes(clip[at : at + 4], "big")
    inside = at + 8 + chance.randrange(max(1, min(size, 400) - 8))
    if kind < 0.25:
        lengths = [0, 1, 7, size - 1, size + 1, size + 8, size * 2, chance.randrange(1 << 32)]
        data[at : at + 4] = (chance.choice(lengths) % (1 << 32)).to_bytes(4, "big")
    elif kind < 0.4:
        data[at + 4 + chance.randrange(4)] = chance.randrange(256)
    elif kind < 0.8:
        data[min(inside, len(data) - 1)] = chance.randrange(256)
    else:
        number = chance.choice([0, 1, 0x7FFFFFFF, 0xFFFFFFFF, chance.randrange(1 << 32)])
        data[inside : inside + 4] = number.to_bytes(4, "big")
    return bytes(data)


def _places(clip: bytes, name: bytes) -> Iterator[int]:
    at = clip.find(name)
    while at >= 4:
        yield at
        at = clip.find(name, at + 4)


def emptied(clip: bytes, chance: random.Random) -> bytes:
    """An `mdat` box that is empty, zero or gone."""
    at = chance.choice(list(_places(clip, b"mdat"))) - 4
    size = int.from_bytes(clip[at : at + 4], "big")
    empty = b"\0\0\0\x08mdat"
    kind = chance.randrange(4)
    if kind == 3:
        return clip[:at] + clip[at + size :]
    return (
        clip[:at]
        + (empty, clip[at : at + 8] + bytes(size - 8), empty + clip[at + 8 : at + size])[kind]
        + clip[at + size :]
    )


def mixed(clip: bytes, chance: random.Random) -> bytes:
    """A part, or the rest, of another clip."""
    other = chance.choice([each for each in clips().values() if each[:2000] != clip[:2000]])
    at, length = _range(chance, min(len(clip), len(other)))
    return clip[:at] + (other[at : at + length] + clip[at + length :] if chance.random() < 0.5 else other[at:])


def flipped(clip: bytes, chance: random.Random) -> bytes:
    """One bit of what is in an `mdat` box."""
    at = chance.choice(list(_places(clip, b"mdat")))
    size, data = int.from_bytes(clip[at - 4 : at], "big"), bytearray(clip)
    data[at + 4 + chance.randrange(size - 8)] ^= 1 << chance.randrange(8)
    return bytes(data)


CLASSES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "truncated": truncated,
    "zeroed": zeroed,
    "dropped": dropped,
    "swapped": swapped,
    "repeated": repeated,
    "HTML in the middle": page,
    "edited boxes": edited,
    "empty mdat": emptied,
    "another clip": mixed,
    "one bit in slice data": flipped,
}
NEVER_ACCEPTED = ("truncated", "zeroed")
OWN_ROW = "one bit in slice data"


@dataclass(frozen=True)
class Case:
    """One damaged file: how it is made again."""

    kind: str
    codec: str
    layout: str
    seed: str

    def content(self) -> bytes:
        """The file; never what the clip is without damage."""
        clip, chance = (
            clips()[self.codec, self.layout],
            random.Random(f"{self.kind} {self.codec} {self.layout} {self.seed}"),
        )
        while (content := CLASSES[self.kind](clip, chance)) == clip:
            continue
        return content


@dataclass(frozen=True)
class Verdicts:
    """What the two levels say of a file: None where it is accepted."""

    full: str | None
    structure: str | None
    is_decoded: bool

    @property
    def agree(self) -> bool:
        """Whether both accept the file, or both refuse it."""
        return (self.full is None) == (self.structure is None)


def cases(files: int, seed: str, kinds: Mapping[str, object] = CLASSES) -> list[Case]:
    """So many damaged files of each class, over all codecs and layouts in turn."""
    cells = list(clips())
    return [Case(kind, *cells[number % len(cells)], f"{seed}-{number}") for kind in kinds for number in range(files)]


def verdicts(content: bytes, folder: Path) -> Verdicts:
    """Verify a file at both levels."""
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        file.write(content)
        file.flush()
        full, _ = _verdict(Path(file.name), "full")
        structure, level = _verdict(Path(file.name), "structure")
    return Verdicts(full, structure, level == "full")


def _verdict(path: Path, level: Level) -> tuple[str | None, str]:
    try:
        return None, examine_video(path, EXPECTED, level=level).verified
    except ResultInvalid as error:
        return error.message, level


def intact(number: int, seed: str) -> bytes:
    """A clip that no one damaged, with an encoder, a layout and options by chance."""
    chance = random.Random(f"intact {seed} {number}")
    codec, options = INTACT[list(INTACT)[number % len(INTACT)]]
    size = chance.choice([(64, 64), (128, 96), (176, 144), (320, 180), (180, 320)])
    picture = Picture(*size, chance.randrange(8, 32), chance.choice([12, 24, 25, 30]), chance.choice([1, 12, 40]))
    picture = Picture(**(vars(picture) | {"has_sound": chance.random() < 0.7}))
    more = {"g": str(chance.choice([1, 6, 12, 250]))}
    if codec == "libx264":
        more |= {
            "bf": str(chance.randrange(4)),
            "slices": str(chance.choice([1, 1, 4])),
            "crf": str(chance.randrange(51)),
        }
        more |= {
            "preset": chance.choice(["ultrafast", "veryfast", "medium"]),
            "tune": chance.choice(["film", "zerolatency"]),
        }
    flags = chance.choice(
        ["", "faststart", FRAGMENTED, "frag_every_frame+empty_moov", "faststart+negative_cts_offsets"]
    )
    return encoded(codec, options | more, picture, flags)


def intact_clips(files: int, seed: str) -> Iterator[bytes]:
    """So many intact clips. Encoders run in a process of their own: after hundreds of clips, one may stand still."""
    done = 0
    while done < files:
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=25) as encoders:
            made = encoders.imap(functools.partial(intact, seed=seed), range(done, files))
            with contextlib.suppress(multiprocessing.TimeoutError):
                while done < files:
                    clip = made.next(timeout=60)
                    done += 1
                    yield clip


def measure(files: int, seed: str, folder: Path, workers: int = 2) -> dict[str, object]:
    """Verify the whole corpus; returns its figures."""
    every = cases(files, seed)
    with ThreadPoolExecutor(workers) as pool:
        clips()
        found = list(pool.map(lambda case: verdicts(case.content(), folder), every))
        whole = [verdicts(content, folder) for content in intact_clips(files, seed)]
    rows = [
        {"class": kind, "codec": codec}
        | _row([one for case, one in zip(every, found, strict=True) if _is(case, kind, codec)])
        for kind in CLASSES
        for codec in ("all", *ENCODERS)
    ]
    odd = [vars(case) | vars(one) for case, one in zip(every, found, strict=True) if not one.agree]
    return {
        "seed": seed,
        "rows": rows,
        "disagreements": odd,
        "accepted": {kind: _accepted(kind, every, found) for kind in NEVER_ACCEPTED},
        "intact": {"files": len(whole), "refused": sum(one.structure is not None for one in whole)}
        | {"refused by full": sum(one.full is not None for one in whole)},
    }


def _accepted(kind: str, every: list[Case], found: list[Verdicts]) -> list[dict[str, str]]:
    pairs = zip(every, found, strict=True)
    return [vars(case) for case, one in pairs if case.kind == kind and (one.structure is None or one.full is None)]


def _is(case: Case, kind: str, codec: str) -> bool:
    return case.kind == kind and codec in ("all", case.codec)


def _row(found: list[Verdicts]) -> dict[str, float]:
    counts = Counter((one.full is None, one.structure is None) for one in found)
    return {
        "files": len(found),
        "refused by both": counts[False, False],
        "accepted by both": counts[True, True],
        "accepted by structure alone": counts[False, True],
        "refused by structure alone": counts[True, False],
        "agreement %": round(100 * (counts[True, True] + counts[False, False]) / max(len(found), 1), 2),
    }


def failures(figures: dict[str, object]) -> list[str]:
    """What of the aims is not reached, in words."""
    rows: list[dict[str, float]] = figures["rows"]  # type: ignore[assignment]
    problems = [
        f"{row['class']}: {row['agreement %']} %"
        for row in rows
        if row["codec"] == "all" and row["class"] != OWN_ROW and row["agreement %"] < 99.9  # type: ignore[comparison-overlap]
    ]
    accepted: dict[str, list[object]] = figures["accepted"]  # type: ignore[assignment]
    problems += [f"{len(each)} {kind} files are accepted" for kind, each in accepted.items() if each]
    refused = figures["intact"]["refused"]  # type: ignore[index]
    return problems + ([f"{refused} intact files are refused"] if refused else [])


def main() -> int:
    """Measure, write the figures, print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=1200)
    parser.add_argument("--seed", default="1")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(options.files, options.seed, Path(folder))
    output = Path("bench-output/verify-corpus.json")
    output.parent.mkdir(exist_ok=True)
    output.write_text(json.dumps(figures, indent=1), "utf-8")
    names = list(figures["rows"][0])  # type: ignore[index]
    print("| " + " | ".join(names) + " |\n|" + " --- |" * len(names))
    for row in figures["rows"]:  # type: ignore[attr-defined]
        if row["codec"] == "all" or row["class"] == OWN_ROW:
            print("| " + " | ".join(str(row[name]) for name in names) + " |")
    print(f"intact: {figures['intact']}")
    for problem in (problems := failures(figures)):
        print("missed:", problem)
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
