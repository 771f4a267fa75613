"""Writes `pickles/*.json`: values as Prefect stores them, pickled by the code of this commit.

Run it to add a value. What is there already is never written again: a pickle of today says nothing about whether one of
a year ago still loads.
"""

from __future__ import annotations

import base64
import json
import pickle
import pickletools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import access
import cloudpickle
from contents import contents

PICKLES = Path(__file__).parent / "pickles"
PROTOCOL = 4
"""The newest one that every supported Python reads."""

FACTS: dict[str, Any] = {
    "job_key": "7f3a00112233",
    "provider_job_id": "10762451179911711518",
    "code": "2004",
    "http_status": 400,
    "body": '{"error": "千军万马"}',
    "paid": "half of it",
    "next_step": "do this with {job}.",
    "retryable": True,
    "outcome": "refused",
}


def named_in(pickled: bytes) -> list[str]:
    """Every class and function that a pickle names, as `module:name`; these paths must stay importable."""
    found, texts = set(), []
    for code, argument, _ in pickletools.genops(pickled):
        if code.name == "STACK_GLOBAL":
            found.add(":".join(texts[-2:]))
        elif code.name == "GLOBAL":
            found.add(":".join(str(argument).split(" ", 1)))
        elif isinstance(argument, str):
            texts.append(argument)
        elif code.name in ("BINGET", "LONG_BINGET"):
            texts.append(_memo(pickled)[int(argument)])
    return sorted(found)


def _memo(pickled: bytes) -> dict[int, str]:
    """The texts that a pickle remembers, by their numbers."""
    memo: dict[int, str] = {}
    count, last = 0, ""
    for code, argument, _ in pickletools.genops(pickled):
        if code.name == "MEMOIZE":
            memo[count] = last
            count += 1
        last = argument if isinstance(argument, str) else ""
    return memo


def values() -> dict[str, dict[str, Any]]:
    """Everything that is pickled, by file and name."""
    return {"requests": _requests(), "errors": _errors(), "values": _values()}


def _requests() -> dict[str, Any]:
    media = "https://media.example.com"
    omnihuman = access.REQUESTS["omnihuman"](
        image_url=f"{media}/anna.jpg?X-Amz-Signature=00",
        audio_url=f"{media}/anna.mp3",
        prompt="挥手",
        subject="largest",
        mask_urls=(f"{media}/mask.png?sig=1&se=2",),
        seed=7,
    )
    made = {
        "omnihuman": omnihuman,
        "jimeng": access.REQUESTS["jimeng"](
            model="jimeng-video-3.0-720P",
            image_urls=(f"{media}/first.png",),
            seconds=10,
            template_id="crane_push",
            camera_strength="weak",
        ),
        "jimeng with content": access.REQUESTS["jimeng"](
            content=[
                {"type": "text", "text": "a lake"},
                {"type": "image_url", "image_url": {"url": f"{media}/first.png"}},
            ]
        ),
        "poster": access.REQUESTS["poster"](image_url=f"{media}/anna.jpg", scene="firework"),
        "stylize": access.REQUESTS["stylize"](video_url=f"{media}/clip.mp4", style="ink_wash", prompt="darker"),
        "stylize with base64": access.REQUESTS["stylize"](video_base64="YSBjbGlw", style="anime"),
    }
    prepared = {
        f"{name}, prepared": access.prepared(each, {one.url: "a" * 64 for one in each.inputs()})
        for name, each in made.items()
    }
    selection = access.VALUES["SubjectSelection"](subject="0.5,0.4", mask_urls=(f"{media}/other.png",))
    return {**made, **prepared, "omnihuman with a subject": omnihuman.with_subject(selection)}


def _errors() -> dict[str, Any]:
    made = {}
    for name, kind in access.every_error().items():
        made[name] = kind("It went wrong.", **FACTS)
        made[f"{name}, plain"] = kind("It went wrong.")
    made["RateLimited"].after(2.5)
    made["InvalidRequest"].problems = (
        access.ERRORS.FieldProblem("prompt", "is too long"),
        access.ERRORS.FieldProblem("", "does not fit"),
    )
    return made


def _delivery() -> Any:
    one = {
        "sha256": "b" * 64,
        "bytes": 123456,
        "seconds": 5.04,
        "width": 1280,
        "height": 720,
        "codec": "h264",
        "has_audio": True,
        "job_key": "7f3a00112233",
        "provider_job_id": "10762451179911711518",
    }
    kind = access.VALUES["Delivery"]
    other = kind(uri="s3://bucket/a~2.mp4", **one)
    return kind(
        uri="s3://bucket/a.mp4",
        poster_uri="s3://bucket/a.mp4.jpg",
        sidecar_uri="s3://bucket/a.mp4.json",
        others=(other,),
        **one,
    )


def _values() -> dict[str, Any]:
    kinds, delivery = access.VALUES, _delivery()
    job = access.Job(
        key="7f3a00112233",
        identity="c" * 64,
        attempt=2,
        scope="key:batch:golden:row 1",
        variant=1,
        provider="tokenops",
        account="tokenops:00112233@https://api.tokenops.ai/v1",
        kind="jimeng",
        model="jimeng-video-3.0-720P",
        label="湖",
        request={"prompt": "a lake", "image_urls": ["https://media.example.com/a.png"]},
        expectation=kinds["MediaExpectation"](seconds=5.0, resolution_class=720, aspect_ratio=1.5, has_audio=False),
        state=access.JobState.DELIVERED,
        provider_job_id="10762451179911711518",
        provider_status="completed",
        outputs=2,
        delivery=delivery,
        **{name: 1_790_000_000.0 + number for number, name in enumerate(_TIMES)},
        error_kind="ResultInvalid",
        error_message="It was cut.",
        error_code="7",
        took_seconds=61.5,
        flow_run_id="0b6c8a2e-1111-4222-8333-444455556666",
        root_run_id="0b6c8a2e-1111-4222-8333-444455556667",
        output="s3://bucket",
        estimated_cost=1.4,
        currency="CNY",
        price=10.0,
        points_remaining=990.0,
        note="2026-09-01 10:00 UTC, anna: adopt 1076",
    )
    mask = "https://media.example.com/mask.png"
    return {
        "Delivery with others": delivery,
        "Job": job,
        "Job of defaults": access.Job(key="7f3a00112233", identity="c" * 64, provider="hidream"),
        "JobState": access.JobState.SUBMITTED,
        "list of Finding": [kinds["Finding"](job, "delivered"), kinds["Finding"](job, "left as it is", "adopt it.")],
        "Detection": kinds["Detection"](found=True, mask_urls=(mask,), request_id="r-1"),
        "Recognition": kinds["Recognition"](found=True, task_id="1076", request_id="r-2"),
        "SubjectSelection": kinds["SubjectSelection"](subject="0.5,0.4", mask_urls=(mask,)),
        "BatchReport": kinds["BatchReport"](
            batch_id="lakes",
            rows=3,
            states={"delivered": 2, "failed": 1},
            estimated_cost=2.8,
            results="s3://bucket/lakes.results.csv",
        ),
        "Shard": kinds["Shard"](number=1, of=2, ledger="0011223344556677", unfit=frozenset({"row 1", "row 9"})),
        "Price": kinds["Price"](per_second=0.5, per_job=2.0, as_of="today"),
        "TokenOpsCredentials": access.BLOCKS["tokenops"](
            api_key="sk-golden-one", base_url="https://gateway.example/v1", max_in_flight=3
        ),
        "JeniusCredentials": access.BLOCKS["jenius"](api_key="sk-golden-one", submissions_per_minute=30.0),
        "HiDreamCredentials": access.BLOCKS["hidream"](
            token="golden-token", user_id="user-7", concurrency_limit="genmedia-hidream"
        ),
    }


_TIMES = (
    "created_at not_before sent_at submitted_at running_at notified_at succeeded_at delivered_at updated_at expires_at"
).split()


def recorded(value: Any) -> dict[str, Any]:
    """One entry of a file."""
    plain, cloud = pickle.dumps(value, PROTOCOL), cloudpickle.dumps(value, PROTOCOL)
    return {
        "names": sorted({*named_in(plain), *named_in(cloud)}),
        "contents": contents(value),
        "pickle": base64.b64encode(plain).decode(),
        "cloudpickle": base64.b64encode(cloud).decode(),
    }


def main() -> None:
    """Add what is missing."""
    for name, made in values().items():
        file = PICKLES / f"{name}.json"
        known: Mapping[str, Any] = json.loads(file.read_text("utf-8")) if file.exists() else {}
        entries = {**known, **{key: recorded(value) for key, value in made.items() if key not in known}}
        file.write_text(json.dumps(entries, ensure_ascii=False, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
