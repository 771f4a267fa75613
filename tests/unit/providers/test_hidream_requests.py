"""What can be asked of HiDream: the document's own bodies, only its styles, and what makes a request the same."""

import base64
import contextlib
import hashlib
import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_genmedia.errors import InvalidRequest
from prefect_genmedia.flows.stylize import stylize_video
from prefect_genmedia.providers.hidream import StylizedVideo, catalog
from prefect_genmedia.providers.plugin import plugin_named, request_type

VIDEO = "https://media.hidreamai.com/42c6c363-c20e-47a5-aa92-18c17c798793.mp4"
CALLBACK = "https://example.com/api/callback"

# The body of the command on the provider's page, with its two placeholders filled in.
CURL = """{
"prompt": "a pig is eating",
"video_name": "https://media.hidreamai.com/42c6c363-c20e-47a5-aa92-18c17c798793.mp4",
"style": "ink_wash",
"request_id": "b146d886-5c57-11ee-bf2b-f6f8d60dadec",
"notify_url": "https://example.com/api/callback"
}"""
# Of the Python example, whose request_id is a new UUID at each call.
PYTHON = {
    "style": "ink_wash",
    "video_name": "https://media.hidreamai.com/42c6c363-c20e-47a5-aa92-18c17c798793.mp4",
    "request_id": "b146d886-5c57-11ee-bf2b-f6f8d60dadec",
}
STYLES = """
barbie_doll | 芭比 |
ink_wash | 水墨 |
van_goph | 梵高 |
hayao_miyazaki | 宫崎骏 |
cyber_punk | 赛博朋克 |
cartoon | 卡通 |
anime | 动漫 |
vector_art | 矢量艺术 |
abstract | 抽象 |
watercolor | 水彩 |
"""

styles = st.sampled_from(get_args(catalog.StyleName))
bytes_in_base64 = st.binary(min_size=1, max_size=200).map(lambda content: base64.b64encode(content).decode())


def stylized(**changes: Any) -> StylizedVideo:
    return StylizedVideo(**{"video_url": VIDEO, "style": "ink_wash"} | changes)


# --- The document ---


def test_the_body_of_the_documents_command_is_produced_exactly() -> None:
    request = stylized(prompt="a pig is eating", request_id="b146d886-5c57-11ee-bf2b-f6f8d60dadec", notify_url=CALLBACK)
    assert list(request.body().items()) == list(json.loads(CURL).items())


def test_the_body_of_the_documents_python_example_is_produced_exactly() -> None:
    assert stylized(request_id="b146d886-5c57-11ee-bf2b-f6f8d60dadec").body() == PYTHON


def test_the_styles_are_those_of_the_document_in_its_words() -> None:
    rows = [[cell.strip() for cell in row.split("|")] for row in STYLES.strip().splitlines()]
    assert {row[0]: row[1] for row in rows} == catalog.STYLES
    assert list(get_args(catalog.StyleName)) == list(catalog.STYLES)


def test_the_run_form_tells_each_style_in_chinese_and_describes_every_parameter() -> None:
    properties = stylize_video.parameters.model_dump()["properties"]
    described = " ".join(properties["style"]["description"].split())
    for name, chinese in catalog.STYLES.items():
        assert f"{name} {chinese}" in described
    assert all(parameter.get("description") for parameter in properties.values())


# --- What is taken ---


@given(st.none() | styles, st.text(max_size=20))
def test_a_style_or_a_prompt_or_both_are_needed(style: catalog.StyleName | None, prompt: str) -> None:
    try:
        request = stylized(style=style, prompt=prompt)
    except InvalidRequest:
        assert style is None
        assert prompt == ""
    else:
        assert ("style" in request.body(), "prompt" in request.body()) == (style is not None, prompt != "")


@given(st.text(max_size=20).filter(lambda name: name not in catalog.STYLES))
def test_a_style_that_is_not_documented_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="style"):
        stylized(style=name)


@given(bytes_in_base64)
def test_a_video_may_be_base64_text_in_place_of_a_url(text: str) -> None:
    assert stylized(video_url=None, video_base64=text).body()["video_name"] == text
    with pytest.raises(InvalidRequest, match="video_url or video_base64, one of them"):
        stylized(video_base64=text)


def test_a_request_without_a_video_and_a_style_tells_both_problems() -> None:
    with pytest.raises(InvalidRequest) as caught:
        StylizedVideo()
    assert "give video_url or video_base64" in caught.value.message
    assert "give a style, a prompt, or both" in caught.value.message


@pytest.mark.parametrize("text", ["", "not base64!", "AAAA\n", "AAA", "data:video/mp4;base64,AAAA", "水墨"])
def test_text_that_is_no_base64_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="video_base64"):
        stylized(video_url=None, video_base64=text)


@given(st.text(max_size=30))
def test_only_urls_that_others_can_reach_are_sent(text: str) -> None:
    for field, sent_as in (("video_url", "video_name"), ("notify_url", "notify_url")):
        with contextlib.suppress(InvalidRequest):
            sent = stylized(**{field: text}).body().get(sent_as)
            assert sent is None if text == "" else sent.startswith(("http://", "https://"))


@given(
    st.fixed_dictionaries(
        {}, optional={"prompt": st.text(max_size=9), "style": styles, "request_id": st.text(max_size=9)}
    )
)
def test_no_empty_text_is_ever_sent(fields: dict[str, Any]) -> None:
    with contextlib.suppress(InvalidRequest):
        body = StylizedVideo(video_url=VIDEO, **fields).body()
        assert all(isinstance(value, str) and value for value in body.values())


# --- A file in a request is never shown ---


@given(st.binary(min_size=100, max_size=300))
def test_a_files_text_is_neither_in_the_repr_nor_in_what_is_stored(content: bytes) -> None:
    text = base64.b64encode(content).decode()
    request = stylized(video_url=None, video_base64=text)
    assert text not in repr(request)
    assert text not in str(request)
    stored = request.model_dump(mode="json", exclude_none=True)
    assert stored["video_base64"] == f"{len(text)} characters, sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def test_an_error_does_not_repeat_a_files_text() -> None:
    with pytest.raises(InvalidRequest) as caught:
        stylized(video_url=None, video_base64="SECRETFILE!")
    assert "SECRETFILE" not in str(caught.value)


# --- What makes a request the same ---


@given(st.text(max_size=20), st.integers(min_value=1, max_value=9**9))
def test_names_callbacks_and_signatures_do_not_make_another_request(request_id: str, number: int) -> None:
    signed = f"{VIDEO}?Expires={number}&OSSAccessKeyId=k{number}&Signature=s{number}"
    again = stylized(video_url=signed, request_id=request_id, notify_url=f"{CALLBACK}/{number}")
    assert again.identity_inputs() == stylized().identity_inputs()


@given(bytes_in_base64, bytes_in_base64)
def test_files_are_distinguished_by_their_bytes(one: str, other: str) -> None:
    first, second = (stylized(video_url=None, video_base64=text).identity_inputs() for text in (one, other))
    assert (first == second) == (one == other)
    assert one not in first.values()


@pytest.mark.parametrize(
    "change", [{"style": "anime"}, {"prompt": "in the rain"}, {"video_url": "https://example.com/other.mp4"}]
)
def test_another_video_style_or_prompt_is_another_request(change: dict[str, Any]) -> None:
    assert stylized(**change).identity_inputs() != stylized().identity_inputs()


def test_nothing_undocumented_is_expected_of_the_file() -> None:
    assert stylized().expectation().model_dump(exclude_none=True) == {}
    assert stylized().duration_source() is None


def test_the_provider_is_registered() -> None:
    assert request_type("stylize") is StylizedVideo
    assert plugin_named("hidream").requests == (StylizedVideo,)
