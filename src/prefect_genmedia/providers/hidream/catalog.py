"""HiDream's documented values. Sources: HiDream's page, and what docs/providers/hidream.md names."""

from __future__ import annotations

from typing import Literal

BASE_URL = "https://www.hidreamai.com"
SUBMIT_PATH = "/api-pub/gw/v2/video/video_edit/async"
RESULTS_PATH = f"{SUBMIT_PATH}/results"
BATCH_PATH = f"{RESULTS_PATH}/batch"
USER_HEADER = "API-User-ID"
TOKEN_PATH = "/prod-api/user/apikey2token"  # noqa: S105 - a path

MODEL = "video_edit"
"""HiDream names no model here; the endpoint's name stands in tables and prices."""

GOOD_CODE = 0
"""What the body's `code` is where the answer is a yes; anything else is an error, also with HTTP 200."""
MODEL_UNAVAILABLE_CODE = "2031"

# --- Styles (HiDream's page, "style目前支持"; `van_goph` is spelled so there) ---

StyleName = Literal[
    "barbie_doll",
    "ink_wash",
    "van_goph",
    "hayao_miyazaki",
    "cyber_punk",
    "cartoon",
    "anime",
    "vector_art",
    "abstract",
    "watercolor",
]

STYLES: dict[StyleName, str] = {
    "barbie_doll": "芭比",
    "ink_wash": "水墨",
    "van_goph": "梵高",
    "hayao_miyazaki": "宫崎骏",
    "cyber_punk": "赛博朋克",
    "cartoon": "卡通",
    "anime": "动漫",
    "vector_art": "矢量艺术",
    "abstract": "抽象",
    "watercolor": "水彩",
}
"""Each style with its Chinese name."""

STYLE_CHOICES = ", ".join(f"{name} ({chinese})" for name, chinese in STYLES.items())
"""Every style in one text, for forms and field descriptions."""

# --- States of a sub-task (docs/providers/hidream.md, "On the wire") ---

WAITING, DONE, PROCESSING, FAILED, REFUSED = 0, 1, 2, 3, 4
STATUS_WORDS: dict[int, str] = {
    WAITING: "waiting",
    DONE: "done",
    PROCESSING: "processing",
    FAILED: "failed",
    REFUSED: "refused by moderation",
}
NO_RESULT_FROM = 1000
"""A task_status of this or more: there is no result."""

# --- Limits and lifetimes (docs/providers/hidream.md) ---

SUBMISSIONS_PER_MINUTE = 2.0
"""Stylization tasks that an account may submit in a minute."""
TOKEN_LIFETIME_SECONDS = 24 * 3600.0

MAX_SUB_TASKS = 16
"""The most sub-tasks of a task that are read; a submission is documented to make one."""
