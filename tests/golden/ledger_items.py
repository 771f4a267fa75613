"""The accounts, single results, batches and tables of the golden ledger; `make_ledger.py` runs them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

KEYS = ("sk-golden-one", "sk-golden-two", "golden-key")
EXCHANGED = "exchanged"
"""Stands for a HiDream token that the provider has just given for `golden-key`; each one is another."""

HOST = "http://provider.golden.test"
ACCOUNTS: dict[str, dict[str, Any]] = {
    "tokenops": {"block": "tokenops", "api_key": "sk-golden-one", "base_url": f"{HOST}/tokenops/v1"},
    "tokenops, another key": {"block": "tokenops", "api_key": "sk-golden-two", "base_url": f"{HOST}/tokenops/v1"},
    "tokenops, capitals": {
        "block": "tokenops",
        "api_key": "sk-golden-one",
        "base_url": "http://Provider.Golden.test/tokenops/v1/",
    },
    "tokenops, a port": {"block": "tokenops", "api_key": "sk-golden-one", "base_url": f"{HOST}:80/tokenops/v1"},
    "jenius": {"block": "jenius", "api_key": "sk-golden-one", "base_url": f"{HOST}/jenius"},
    "hidream": {
        "block": "hidream",
        "api_key": "golden-key",
        "base_url": f"{HOST}/hidream",
        "submissions_per_minute": None,
    },
    "hidream, a user's token": {
        "block": "hidream",
        "token": EXCHANGED,
        "user_id": "user-7",
        "base_url": f"{HOST}/hidream",
        "submissions_per_minute": None,
    },
}

MEDIA = "https://media.example.com"
STUCK = {"fault": "stuck"}
"""The job stays at the provider, and the run times out."""


@dataclass(frozen=True)
class Item:
    """One wanted result.

    Args:
        name: what it shows.
        flow: the flow, by module and name.
        account: one of `ACCOUNTS`.
        parameters: of the flow.
        faults: what goes wrong, in this order; each with how often and its options.
        then: what is done with the job afterwards: a person's decision, or what a dead process has left.
        again: what a new run of the same request must end with: `delivered`, or an error's name.
        posts: how many submissions that run may send.
        keyed: whether it has an idempotency key; else it belongs to its run, and only reconciling goes on with it.
    """

    name: str
    flow: str
    parameters: dict[str, Any]
    account: str = "tokenops"
    faults: tuple[dict[str, Any], ...] = (STUCK,)
    then: str = ""
    again: str = "delivered"
    posts: int = 0
    keyed: bool = True


def lake(words: str, **more: Any) -> dict[str, Any]:
    """A text for Jimeng."""
    return {"prompt": f"a lake, {words}", "model": "jimeng-video-3.0-720P", **more}


JIMENG, POSTER, STYLIZE = "jimeng.jimeng_video", "poster.live_poster", "stylize.stylize_video"
OMNIHUMAN = "omnihuman.omnihuman_video"
FAILED_DOWNLOADS = {"fault": "content_502", "times": 9}
UNANSWERED = {"fault": "accept_then_drop"}
SLOW_DOWN = {"fault": "rate_limited", "times": 9, "retry_after": 0.02}

ITEMS = (
    # --- Who pays ---
    Item("two fingerprints, the first", JIMENG, lake("paid by two")),
    Item("two fingerprints, the second", JIMENG, lake("paid by two"), "tokenops, another key"),
    Item("three spellings, plain", JIMENG, lake("spelled")),
    Item("three spellings, capitals and a slash", JIMENG, lake("spelled"), "tokenops, capitals"),
    Item("three spellings, a port", JIMENG, lake("spelled"), "tokenops, a port"),
    Item(
        "HiDream by token with user_id",
        STYLIZE,
        {"video_url": f"{MEDIA}/clip.mp4", "style": "ink_wash"},
        "hidream, a user's token",
    ),
    Item("HiDream by key", STYLIZE, {"video_url": f"{MEDIA}/clip.mp4", "prompt": "an oil painting"}, "hidream"),
    Item("a repeated provider id, the first", JIMENG, lake("an id, 1"), faults=({"id": "10700000000000000007"}, STUCK)),
    Item(
        "a repeated provider id, the second", JIMENG, lake("an id, 2"), faults=({"id": "10700000000000000007"}, STUCK)
    ),
    # --- Inputs ---
    Item(
        "a lone token in a URL",
        POSTER,
        {"image_url": f"{MEDIA}/anna.jpg?token=golden-token", "scene": "firework"},
        "jenius",
    ),
    Item(
        "signed URLs",
        JIMENG,
        lake(
            "signed",
            image_urls=[
                f"{MEDIA}/first.png?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=00",
                f"{MEDIA}/last.png?OSSAccessKeyId=id&Expires=1790000000&Signature=00&x-oss-process=image%2Fresize",
            ],
        ),
    ),
    Item("own local files", JIMENG, lake("own files", image_urls=["own/first.png", "own/last.png"])),
    Item("an own local video", STYLIZE, {"video_url": "own/clip.mp4", "style": "anime"}, "hidream"),
    Item(
        "masks of a chosen subject",
        OMNIHUMAN,
        {"image_url": f"{MEDIA}/two.jpg", "audio_url": f"{MEDIA}/speech.mp3", "subject": "largest"},
    ),
    Item(
        "a new attempt after a refused output",
        JIMENG,
        lake("variant", seed=7, resubmit_on_output_refusal=1),
        faults=({"fault": "fail_output"}, STUCK),
    ),
    Item("a run's own", JIMENG, lake("of one run"), keyed=False),
    # --- States ---
    Item("succeeded", JIMENG, lake("succeeded"), faults=(FAILED_DOWNLOADS,)),
    Item("delivered", JIMENG, lake("delivered"), faults=()),
    Item("delivered, and the file is lost", JIMENG, lake("lost"), faults=(), then="lose"),
    Item("delivered, a poster", POSTER, {"image_url": f"{MEDIA}/bea.jpg", "scene": "youqian"}, "jenius", faults=()),
    Item("undeliverable, in quarantine", JIMENG, lake("cut"), faults=({"fault": "content_corrupt", "times": 9},)),
    # Earlier versions gave a job up that was not found, and asked for it again; now that takes its expiry, or a person.
    Item("undeliverable, expired", JIMENG, lake("expired"), then="expire", again="JobExpired"),
    Item("failed", JIMENG, lake("failed"), faults=({"fault": "fail_internal"},), posts=1),
    Item(
        "failed, input refused",
        JIMENG,
        lake("refused input"),
        faults=({"fault": "fail_input"},),
        again="InputRefused",
    ),
    Item("failed, output refused", JIMENG, lake("refused output"), faults=({"fault": "fail_output"},), posts=1),
    Item("rejected, no balance", JIMENG, lake("no balance"), faults=({"fault": "refuse_balance"},), posts=1),
    Item("rejected, a parameter", JIMENG, lake("a parameter"), faults=({"fault": "refuse_invalid"},), posts=1),
    Item("reserved", JIMENG, lake("reserved"), faults=(SLOW_DOWN,), posts=1),
    Item("sending", JIMENG, lake("sending"), faults=(SLOW_DOWN,), then="send", again="SubmissionUnknown"),
    Item("unknown", JIMENG, lake("unknown"), faults=(UNANSWERED,), again="SubmissionUnknown"),
    Item("abandoned", JIMENG, lake("abandoned"), faults=(UNANSWERED,), then="abandon", again="SubmissionUnknown"),
    Item("adopted", JIMENG, lake("adopted"), faults=(UNANSWERED,), then="adopt"),
    Item("to be resubmitted", JIMENG, lake("resubmitted"), faults=(UNANSWERED,), then="resubmit", posts=1),
)


@dataclass(frozen=True)
class Batch:
    """A table, and what went wrong with its rows.

    Args:
        table: the table's file.
        options: of the flow `generate_batch`.
        faults: what goes wrong, for one provider where it is named.
        first: the provider whose first row goes well: its faults are held back until then.
        left: the state that each row is left in, in the table's order.
        again: the state that a new run brings each row to.
        posts: how many submissions that run may send.
        reserved: how many jobs of each budget are reserved after it, by how the budget's name begins.
    """

    table: str
    options: dict[str, Any]
    faults: tuple[str, ...]
    first: str
    left: list[str]
    again: list[str]
    posts: int
    reserved: dict[str, int]


BATCHES = (
    Batch(
        "lakes.csv",
        {"kind": "jimeng", "max_jobs": 20, "max_cost": 50.0, "budget": "golden budget"},
        # One submission and one job after another; what is accepted and then unanswered takes the first job fault.
        ("accept_then_drop", "refuse_balance", "stuck", "fail_internal", "stuck", "stuck", "stuck"),
        first="tokenops",
        left="delivered unknown rejected failed submitted submitted submitted".split(),
        again="delivered unknown delivered delivered delivered delivered delivered".split(),
        posts=2,
        reserved={"golden budget": 7},
    ),
    Batch(
        "mixed.parquet",
        {"max_jobs": 9, "budget_per_account": True},
        ("jenius stuck", "hidream stuck", "tokenops stuck", "tokenops fail_internal"),
        first="jenius",
        left="delivered submitted submitted submitted failed".split(),
        again=["delivered"] * 5,
        posts=1,
        reserved={
            "golden mixed.parquet · hidream": 1,
            "golden mixed.parquet · jenius": 2,
            "golden mixed.parquet · tokenops": 2,
        },
    ),
)


def make_tables(folder: Path) -> None:
    """Write the two tables."""
    import pyarrow
    from pyarrow import parquet

    signed = f"{MEDIA}/a.png?X-Amz-Signature=00 {MEDIA}/b.png?token=golden-token"
    lakes = [
        "id,prompt,model,seed,frames,image_urls",
        "delivered,a lake in spring,jimeng-video-3.0-720P,,,",
        "unknown,a lake in winter,jimeng-video-3.0-720P,,,",
        "rejected,a lake at night,jimeng-video-3.0-720P,,,",
        "failed,a lake in autumn,jimeng-video-3.0-720P,,,",
        "submitted,a lake in summer,jimeng-video-3.0-720P,5,121,",
        "own file,a lake of my own,jimeng-video-3.0-720P,,,own/first.png",
        f"signed,a lake far away,jimeng-video-3.0-720P,,,{signed}",
    ]
    (folder / "lakes.csv").write_text("\n".join(lakes) + "\n", "utf-8")
    columns = "id kind image_url audio_url video_url scene style prompt mask_urls seed".split()
    rows: list[dict[str, Any]] = [
        {"id": "poster", "kind": "poster", "image_url": f"{MEDIA}/anna.jpg", "scene": "youqian"},
        {
            "id": "poster, token",
            "kind": "poster",
            "image_url": f"{MEDIA}/b.jpg?token=golden-token",
            "scene": "firework",
        },
        {
            "id": "omnihuman, masks",
            "kind": "omnihuman",
            "image_url": f"{MEDIA}/two.jpg",
            "audio_url": f"{MEDIA}/speech.mp3",
            "mask_urls": [f"{MEDIA}/mask.png?sig=00&se=2026-01-01"],
        },
        {"id": "stylize", "kind": "stylize", "video_url": f"{MEDIA}/clip.mp4", "style": "anime"},
        {"id": "jimeng", "kind": "jimeng", "prompt": "a lake", "seed": 7.0},
    ]
    table = pyarrow.table({name: [row.get(name) for row in rows] for name in columns})
    parquet.write_table(table, folder / "mixed.parquet")
