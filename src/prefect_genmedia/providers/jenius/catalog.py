"""Jenius' documented values. Sources: Jenius' page, and what docs/providers/jenius.md names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prefect_genmedia.providers.statuses import StatusWords

BASE_URL = "https://www.jenius.cn"
TASKS_PATH = "/api/plugins/poster/tasks"

GOOD_CODE = 200
"""What the body's `code` is where the answer is a yes, beside an HTTP status of its own."""

MODEL = "poster"
"""Jenius names no model; its plugin's name stands in tables and prices."""

# --- Scenes (Jenius' page, "图像特效生成参考列表") ---

SceneName = Literal["youqian", "zhongming", "anime_cake", "real_cake", "firework"]


@dataclass(frozen=True)
class Scene:
    """One scene: title and description as Jenius' page gives them, and in English."""

    title: str
    description: str
    english_title: str
    english_description: str


SCENES: dict[SceneName, Scene] = {
    "youqian": Scene(
        "春节复古喜庆风格",
        "人物立于贴春联的大门下、双手持红色福字的春节喜庆画面",
        "Retro Spring Festival",
        "the person stands under a gate with Spring Festival couplets and holds a red 福 in both hands",
    ),
    "zhongming": Scene(
        "红金骏马新年风格",
        "人物立于饰有金色纹样的红色骏马前、红金主调质感厚重的新年华贵画面",
        "Red and gold New Year steed",
        "the person stands before a red horse with golden ornaments, rich in red and gold",
    ),
    "anime_cake": Scene(
        "卡通蛋糕可爱风格",
        "工笔彩绘风格的人物手捧蛋糕、身穿居家睡衣的可爱画面",
        "Cartoon cake",
        "a cute picture in fine-brush painting: the person holds a cake and wears pyjamas",
    ),
    "real_cake": Scene(
        "真人蛋糕生活风格",
        "对人物进行高清真人化处理,生成手捧蛋糕、身穿居家睡衣的可爱生活风画面",
        "Lifelike cake",
        "a lifelike picture in high definition: the person holds a cake and wears pyjamas",
    ),
    "firework": Scene(
        "新年烟花庆祝风格",
        "人物戴兔耳帽、系棕白条纹围巾、穿星星图案白毛衣、背景为新年烟花的庆祝画面",
        "New Year fireworks",
        "the person wears a hat with rabbit ears, a brown and white scarf and a white jumper with stars, "
        "before New Year fireworks",
    ),
}

SCENE_CHOICES = "; ".join(
    f"{name}: {scene.title}({scene.description}) / {scene.english_title} ({scene.english_description})"
    for name, scene in SCENES.items()
)
"""Every scene in one text, for forms and field descriptions."""

# --- Task states (Jenius' page, "检查任务状态") ---

STATUS_WORDS = StatusWords(
    queued=frozenset({"created", "pending"}),
    running=frozenset({"processing"}),
    succeeded=frozenset({"completed"}),
    failed=frozenset({"failed"}),
)
