"""TokenOps' documented values. Sources: TokenOps' page, and what docs/providers/tokenops.md names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prefect_genmedia.prices import Price
from prefect_genmedia.providers.inputs import PictureLimits
from prefect_genmedia.providers.statuses import StatusWords

BASE_URL = "https://api.tokenops.ai/v1"

# --- OmniHuman 1.5 (TokenOps' page, "即梦 OmniHuman 数字人") ---

OMNIHUMAN_MODEL = "OmniHuman_1.5"
OMNIHUMAN_REQ_KEY = "jimeng_realman_avatar_picture_omni_v15"
DETECTION_REQ_KEY = "jimeng_realman_avatar_object_detection"
RECOGNITION_REQ_KEY = "jimeng_realman_avatar_picture_create_role_omni_v15"

OutputResolution = Literal[720, 1080]
MAX_MASKS = 5
MAX_TOLERATED_MASKS = 16
"""More masks than this in one answer are not believed; each one may be fetched and decoded."""
MAX_MASK_BYTES = 4 * 1024**2
MAX_AUDIO_SECONDS = 60.0
"""The recording must be shorter than this."""

# --- Jimeng video 3.0 (TokenOps' page, "支持的参数"; docs/providers/tokenops.md) ---

JimengModel = Literal["jimeng-video-3.0-pro", "jimeng-video-3.0-720P", "jimeng-video-3.0-1080P"]
AspectRatio = Literal["16:9", "4:3", "1:1", "3:4", "9:16", "21:9"]
Frames = Literal[121, 241]
CameraStrength = Literal["weak", "medium", "strong"]
CameraTemplate = Literal[
    "hitchcock_dolly_in",
    "hitchcock_dolly_out",
    "robo_arm",
    "dynamic_orbit",
    "central_orbit",
    "crane_push",
    "quick_pull_back",
    "counterclockwise_swivel",
    "clockwise_swivel",
    "handheld",
    "rapid_push_pull",
]
JIMENG_PROMPT_LIMIT = 800
"""Characters; 400 are recommended."""
JIMENG_PICTURES = PictureLimits(
    formats=("JPEG", "PNG"),
    # 4.7 MB are documented, and not whether MB or MiB: what only one reading forbids is the provider's to judge.
    max_bytes=int(4.7 * 1024**2),
    max_side=4096,
    min_side=320,
    max_ratio=3.0,
)
"""Pictures of Jimeng (docs/providers/tokenops.md)."""


@dataclass(frozen=True)
class ReqKey:
    """One way to use a Jimeng model: its req_key and the number of pictures it takes, from `images[0]` to `[1]`."""

    model: JimengModel
    name: str
    images: tuple[int, int]
    purpose: str
    camera: bool = False


REQ_KEYS: tuple[ReqKey, ...] = (
    ReqKey("jimeng-video-3.0-pro", "jimeng_ti2v_v30_pro", (0, 1), "text or first frame"),
    ReqKey("jimeng-video-3.0-720P", "jimeng_t2v_v30", (0, 0), "text"),
    ReqKey("jimeng-video-3.0-720P", "jimeng_i2v_first_v30", (1, 1), "first frame"),
    ReqKey("jimeng-video-3.0-720P", "jimeng_i2v_first_tail_v30", (2, 2), "first and last frame"),
    ReqKey("jimeng-video-3.0-720P", "jimeng_i2v_recamera_v30", (1, 1), "camera movement", camera=True),
    ReqKey("jimeng-video-3.0-1080P", "jimeng_t2v_v30_1080p", (0, 0), "text"),
    ReqKey("jimeng-video-3.0-1080P", "jimeng_i2v_first_v30_1080", (1, 1), "first frame"),
    ReqKey("jimeng-video-3.0-1080P", "jimeng_i2v_first_tail_v30_1080", (2, 2), "first and last frame"),
)
JIMENG_RESOLUTION: dict[JimengModel, int] = {
    "jimeng-video-3.0-pro": 1080,
    "jimeng-video-3.0-720P": 720,
    "jimeng-video-3.0-1080P": 1080,
}

# --- Prices (docs/providers/tokenops.md). TokenOps's own prices are not known: these are the upstream's. ---

_LIST_PRICE = "the upstream's list price, 2026-11"
PRICES: dict[str, Price] = {
    "jimeng-video-3.0-pro": Price(per_second=1.0, as_of=_LIST_PRICE),
    "jimeng-video-3.0-1080P": Price(per_second=0.63, as_of=_LIST_PRICE),
    "jimeng-video-3.0-720P": Price(per_second=0.28, as_of=_LIST_PRICE),
    OMNIHUMAN_MODEL: Price(per_second=1.2, as_of="reported by others, 2026-11"),
}
"""CNY by model."""

# --- Job states (TokenOps' page, "任务状态说明"; the tolerant ones: docs/providers/tokenops.md) ---

STATUS_WORDS = StatusWords(
    queued=frozenset({"in_queue", "queued", "pending", "created"}),
    running=frozenset({"processing", "in_progress", "running", "generating"}),
    succeeded=frozenset({"completed", "succeeded", "success", "done"}),
    failed=frozenset({"failed", "cancelled", "canceled", "expired", "not_found", "error"}),
)

# --- Lifetimes, in seconds (docs/providers/tokenops.md, "Status, errors, lifetimes") ---

RESULT_LIFETIME_SECONDS = 3600.0
JOB_LIFETIME_SECONDS = 12 * 3600.0
MASK_LIFETIME_SECONDS = 3600.0
