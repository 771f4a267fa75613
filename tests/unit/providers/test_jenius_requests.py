"""What can be asked of Jenius: the document's own example, only its scenes, and what makes a request the same."""

import contextlib
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from prefect_genmedia.errors import InvalidRequest
from prefect_genmedia.flows.poster import live_poster
from prefect_genmedia.providers.jenius import LivePoster, catalog
from prefect_genmedia.providers.plugin import plugin_named, request_type
from prefect_genmedia.providers.protocol import Account

PICTURE = "https://example.com/user-photo.jpg"

# The table on the provider's page, row by row: prompt, title, description.
DOCUMENT = """
youqian春节复古喜庆风格上传人物图片,即可生成人物立于贴春联的大门下、双手持红色福字的春节喜庆画面。必填-
zhongming红金骏马新年风格上传人物图片,即可生成人物立于饰有金色纹样的红色骏马前、红金主调质感厚重的新年华贵画面。必填-
anime_cake卡通蛋糕可爱风格上传人物图片,即可生成工笔彩绘风格的人物手捧蛋糕、身穿居家睡衣的可爱画面。必填-
real_cake真人蛋糕生活风格上传人物图片,即可对人物进行高清真人化处理,生成手捧蛋糕、身穿居家睡衣的可爱生活风画面。必填-
firework新年烟花庆祝风格上传人物图片,即可生成人物戴兔耳帽、系棕白条纹围巾、穿星星图案白毛衣、背景为新年烟花的庆祝画面。必填-
""".strip().splitlines()

scenes = st.sampled_from(get_args(catalog.SceneName))


def test_the_payload_of_the_document_is_produced_exactly() -> None:
    payload = {
        "prompt": "youqian",
        "image_url": "https://example.com/user-photo.jpg",
    }
    body = LivePoster(image_url=PICTURE, scene="youqian").body()
    assert list(body.items()) == list(payload.items())


def test_the_scenes_are_those_of_the_document_in_its_words() -> None:
    assert len(catalog.SCENES) == len(DOCUMENT)
    for (name, scene), row in zip(catalog.SCENES.items(), DOCUMENT, strict=True):
        assert row.startswith(f"{name}{scene.title}上传人物图片,即可")
        assert f"{scene.description}。".removeprefix("工笔彩绘风格的") in row
    assert set(catalog.SCENES) == set(get_args(catalog.SceneName))


def test_the_run_form_tells_each_scene_in_chinese_and_english() -> None:
    scene = live_poster.parameters.model_dump()["properties"]["scene"]
    assert scene["enum"] == list(catalog.SCENES)
    for name, words in catalog.SCENES.items():
        assert f"`{name}` {words.title} · {words.english_title}" in scene["description"]


def test_every_parameter_of_the_run_form_is_described() -> None:
    assert all(parameter.get("description") for parameter in live_poster.parameters.model_dump()["properties"].values())


@given(scenes, st.text(max_size=30))
def test_only_a_fetchable_picture_is_sent(scene: catalog.SceneName, text: str) -> None:
    with contextlib.suppress(InvalidRequest):
        assert LivePoster(image_url=text, scene=scene).body()["image_url"].startswith(("http://", "https://"))


@given(st.text(max_size=20).filter(lambda name: name not in catalog.SCENES))
def test_a_scene_that_is_not_documented_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        LivePoster.model_validate({"image_url": PICTURE, "scene": name})
    assert [problem.field for problem in caught.value.problems] == ["scene"]


def test_every_problem_is_reported_at_once() -> None:
    with pytest.raises(InvalidRequest) as caught:
        LivePoster.model_validate({"image_url": "gopher://example.com/a", "scene": "sunset", "price": 1})
    assert {problem.field for problem in caught.value.problems} == {"image_url", "scene", "price"}


@given(scenes, st.integers(min_value=1, max_value=9**9))
def test_a_picture_whose_url_is_signed_anew_is_the_same_request(scene: catalog.SceneName, number: int) -> None:
    signed = f"{PICTURE}?OSSAccessKeyId=k{number}&Expires={number}&Signature=s{number}"
    assert (
        LivePoster(image_url=signed, scene=scene).identity_inputs()
        == LivePoster(image_url=PICTURE, scene=scene).identity_inputs()
    )


@given(scenes, scenes)
def test_another_scene_is_another_request(one: catalog.SceneName, other: catalog.SceneName) -> None:
    same = (
        LivePoster(image_url=PICTURE, scene=one).identity_inputs()
        == LivePoster(image_url=PICTURE, scene=other).identity_inputs()
    )
    assert same == (one == other)


def test_a_request_cannot_be_changed() -> None:
    request = LivePoster(image_url=PICTURE, scene="youqian")
    with pytest.raises(ValidationError):
        request.scene = "firework"


def test_nothing_undocumented_is_expected_of_the_file() -> None:
    request = LivePoster(image_url=PICTURE, scene="youqian")
    assert request.expectation().model_dump(exclude_none=True) == {}
    assert request.duration_source() is None


def test_the_provider_is_registered() -> None:
    assert request_type("poster") is LivePoster
    assert plugin_named("jenius").requests == (LivePoster,)


def test_the_account_names_the_provider_and_not_the_key() -> None:
    account = str(Account.of("jenius", catalog.BASE_URL + "/", "a-secret-key"))
    assert account.startswith("jenius:")
    assert account.endswith("@https://www.jenius.cn")
    assert "a-secret-key" not in account
