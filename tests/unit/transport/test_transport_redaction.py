"""Secrets and signatures stay out of what people and databases see; everything else of a URL stays in."""

import html
import json
import string
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from prefect_genmedia._transport import MASK, Redactor, excerpt, shown_url, unsigned_text
from prefect_genmedia._transport.urls import read_url

KEY_CHARACTERS = string.ascii_letters + string.digits + "-_.~+/=:"

deterministic = settings(derandomize=True, deadline=None, max_examples=200)


# --- Redactor ---


def test_every_occurrence_of_a_secret_is_replaced() -> None:
    assert Redactor(["sk-12345"]).clean("a sk-12345 b sk-12345") == f"a {MASK} b {MASK}"


def test_a_secret_inside_another_leaves_nothing_of_the_longer_one() -> None:
    assert Redactor(["sk-1", "sk-1-more"]).clean("key sk-1-more!") == f"key {MASK}!"


def test_text_without_a_secret_is_not_changed() -> None:
    assert Redactor(["sk-12345"]).clean("千军万马 sk-1234") == "千军万马 sk-1234"


@pytest.mark.parametrize("short", ["", "a", "abc"])
def test_a_secret_too_short_to_be_one_mangles_no_text(short: str) -> None:
    assert Redactor([short]).clean("abc abc") == "abc abc"


def test_a_redactor_does_not_show_its_secrets() -> None:
    redactor = Redactor(["sk-12345", "sk-67890"])
    assert "sk-" not in repr(redactor)
    assert "2" in repr(redactor)


@deterministic
@given(
    secrets=st.lists(st.text(KEY_CHARACTERS, min_size=4, max_size=20), min_size=1, max_size=3),
    pieces=st.lists(st.text(max_size=10), max_size=6),
    data=st.data(),
)
def test_a_secret_never_survives_cleaning(secrets: list[str], pieces: list[str], data: st.DataObject) -> None:
    assume(not any(secret in MASK for secret in secrets))
    text = "".join(data.draw(st.permutations([*secrets, *secrets, *pieces])))
    cleaned = Redactor(secrets).clean(text)
    assert not any(secret in cleaned for secret in secrets)


@deterministic
@given(st.text(), st.integers(min_value=0, max_value=50))
def test_an_excerpt_begins_like_the_text_and_says_where_it_was_cut(text: str, limit: int) -> None:
    cut = excerpt(text, limit)
    assert cut[:limit] == text[:limit]
    assert cut == text or str(len(text)) in cut


# --- shown_url ---

SIGNED = {
    "S3, version 4": "https://b.s3.amazonaws.com/a.jpg?versionId=7&X-Amz-Algorithm=AWS4-HMAC-SHA256"
    "&X-Amz-Credential=AKIA%2F20260301%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=20260301T120000Z"
    "&X-Amz-Expires=3600&X-Amz-SignedHeaders=host&X-Amz-Security-Token=tokn&X-Amz-Signature=5ec2e7",
    "S3, version 2": "https://b.s3.amazonaws.com/a.jpg?versionId=7&AWSAccessKeyId=AKIA&Expires=1772366400&Signature=5ec2e7%3D",
    "Azure": "https://a.blob.core.windows.net/c/a.jpg?versionId=7&sv=2024-11-04&st=2026-03-01T12%3A00%3A00Z"
    "&se=2026-03-01T13%3A00%3A00Z&sr=b&sp=r&spr=https&sig=5ec2e7%3D",
    "OSS, version 1": "https://b.oss-cn-beijing.aliyuncs.com/a.jpg?versionId=7&OSSAccessKeyId=LTAI"
    "&Expires=1772366400&Signature=5ec2e7%3D&security-token=tokn",
    "OSS, version 4": "https://b.oss-cn-beijing.aliyuncs.com/a.jpg?versionId=7&x-oss-signature-version=OSS4-HMAC-SHA256"
    "&x-oss-credential=LTAI%2F20260301&x-oss-date=20260301T120000Z&x-oss-expires=3600&x-oss-signature=5ec2e7",
    "TOS": "https://b.tos-cn-beijing.volces.com/a.jpg?versionId=7&X-Tos-Algorithm=TOS4-HMAC-SHA256"
    "&X-Tos-Credential=AK&X-Tos-Date=20260301T120000Z&X-Tos-Expires=3600&X-Tos-SignedHeaders=host&X-Tos-Signature=5ec2e7",
    "COS": "https://b.cos.ap-beijing.myqcloud.com/a.jpg?versionId=7&q-sign-algorithm=sha1&q-ak=AKID"
    "&q-sign-time=1%3B2&q-key-time=1%3B2&q-header-list=host&q-url-param-list=&q-signature=5ec2e7",
    "Google, version 4": "https://storage.googleapis.com/b/a.jpg?versionId=7&X-Goog-Algorithm=GOOG4-RSA-SHA256"
    "&X-Goog-Credential=me&X-Goog-Date=20260301T120000Z&X-Goog-Expires=3600&X-Goog-SignedHeaders=host&X-Goog-Signature=5ec2e7",
    "Google, version 2": "https://storage.googleapis.com/b/a.jpg?versionId=7&GoogleAccessId=me&Expires=1&Signature=5ec2e7",
    "CloudFront": "https://d1.cloudfront.net/a.jpg?versionId=7&Policy=eyJ9&Signature=5ec2e7&Key-Pair-Id=K2",
    "a CDN of ByteDance": "https://v1.example-cdn.com/a.jpg?versionId=7&x-expires=1772366400&x-signature=5ec2e7%3D",
    "a CDN of Alibaba": "https://cdn.example.com/a.jpg?versionId=7&auth_key=1772366400-0-0-5ec2e7",
}


@pytest.mark.parametrize("url", SIGNED.values(), ids=SIGNED.keys())
def test_a_signature_goes_and_the_rest_stays(url: str) -> None:
    assert shown_url(url) == f"{url.split('?')[0]}?versionId=7"


@pytest.mark.parametrize("url", SIGNED.values(), ids=SIGNED.keys())
def test_a_url_signed_again_is_the_same_url(url: str) -> None:
    again = url.replace("5ec2e7", "0ther").replace("1772366400", "1772377777").replace("20260301T12", "20260302T09")
    assert again != url
    assert shown_url(again) == shown_url(url)


@pytest.mark.parametrize(
    "query",
    [
        "id=7&size=large",
        "expires=soon",
        "sp=1&st=2&sv=3",
        "name=%E4%BD%A0%E5%A5%BD&empty=",
        "tag=a&tag=b",
        "signed=yes&monkey=1&design=2&authority=3",
    ],
)
def test_a_plain_query_stays_as_it_is(query: str) -> None:
    url = f"https://example.com/a.jpg?{query}"
    assert shown_url(url) == url


@pytest.mark.parametrize(
    "query",
    ["x-oss-process=image%2Fcrop%2Cw_300", "x-tos-process=image%2Fresize%2Cw_300"],
)
def test_a_parameter_that_changes_the_picture_is_no_signature(query: str) -> None:
    assert shown_url(f"https://b.oss-cn-beijing.aliyuncs.com/a.jpg?{query}").endswith(f"?{query}")


def test_two_names_in_another_encoding_than_utf8_stay_two() -> None:
    # 你 and 好 as GBK: neither is UTF-8.
    first, second = "https://example.com/a.jpg?name=%C4%E3", "https://example.com/a.jpg?name=%BA%C3"
    assert shown_url(first) != shown_url(second)


def test_user_name_password_and_fragment_go() -> None:
    assert shown_url("https://me:pass@example.com:8443/a.jpg?b=1#top") == "https://example.com:8443/a.jpg?b=1"


@pytest.mark.parametrize("name", ["token", "access_token", "api_key", "apikey", "Authorization", "API_KEY"])
def test_a_parameter_that_is_a_credential_goes(name: str) -> None:
    assert shown_url(f"https://example.com/a?x=1&{name}=5ec2e7") == "https://example.com/a?x=1"


def test_a_data_uri_is_cut_to_its_media_type() -> None:
    assert shown_url("data:image/jpeg;base64,/9j/4AAQSkZJRg") == "data:image/jpeg;base64,…"


_NAMES = st.text(string.ascii_lowercase + "你好", min_size=1, max_size=8).map(lambda name: f"p_{name}")
_PLAIN = _NAMES.filter(lambda name: not read_url(f"https://example.com/?{quote(name)}=1").credentials)
"""Names that say nothing of a credential, as `p_auth` does."""
_PAIRS = st.lists(st.tuples(_PLAIN, st.text(max_size=12)), max_size=5)
_SIGNATURES = st.sampled_from([parse_qsl(urlsplit(url).query, keep_blank_values=True)[1:] for url in SIGNED.values()])


@deterministic
@given(plain=_PAIRS, signature=_SIGNATURES, data=st.data())
def test_parameters_beside_a_signature_survive_in_their_order(
    plain: list[tuple[str, str]], signature: list[tuple[str, str]], data: st.DataObject
) -> None:
    position = data.draw(st.integers(min_value=0, max_value=len(plain)))
    query = urlencode([*plain[:position], *signature, *plain[position:]])
    left = parse_qsl(urlsplit(shown_url(f"https://example.com/a.jpg?{query}")).query, keep_blank_values=True)
    assert left == plain


@deterministic
@given(
    scheme=st.sampled_from(["http", "https", "HTTPS"]),
    user=st.sampled_from(["", "me@", "me:pass@", "a@b:c@"]),
    host=st.sampled_from(["example.com", "EXAMPLE.com:8080", "[2606:4700::1]", "例え.jp"]),
    path=st.text(string.ascii_letters + "/.%20你~:@", max_size=12).map(lambda path: f"/{path}"),
    query=st.text(string.ascii_letters + string.digits + "&=+;%/?:@你", max_size=30),
    signature=st.one_of(st.just([]), _SIGNATURES),
    fragment=st.sampled_from(["", "#", "#top", "#a?b=c"]),
)
def test_unsigning_twice_changes_nothing_more(
    scheme: str, user: str, host: str, path: str, query: str, signature: list[tuple[str, str]], fragment: str
) -> None:
    once = shown_url(f"{scheme}://{user}{host}{path}?{query}&{urlencode(signature)}{fragment}")
    assert shown_url(once) == once


# --- unsigned_text ---


@pytest.mark.parametrize("url", SIGNED.values(), ids=SIGNED.keys())
@pytest.mark.parametrize(
    "sentence",
    [
        "Cannot fetch {}.",
        "无法下载 {}\uff0c请检查。",
        "无法下载{}\uff08403\uff09",
        'Error while fetching "{}", got 403.',
        "<img src='{}'> and more",
        "see ({}), please",
    ],
)
def test_a_quoted_url_loses_its_signature_and_the_sentence_nothing(sentence: str, url: str) -> None:
    assert unsigned_text(sentence.format(url)) == sentence.format(f"{url.split('?')[0]}?versionId=7")


@pytest.mark.parametrize("url", SIGNED.values(), ids=SIGNED.keys())
def test_a_url_in_json_and_in_json_inside_json_loses_its_signature_and_stays_json(url: str) -> None:
    inner = json.dumps({"url": url, "code": 7}).replace("&", "\\u0026")
    for reported in ({"detail": inner, "url": url}, {"detail": html.escape(url)}):
        cleaned = unsigned_text(json.dumps(reported, separators=(",", ":")))
        assert json.loads(cleaned).keys() == reported.keys()
        for part in ("5ec2e7", "AKIA", "LTAI", "tokn"):
            assert part not in cleaned


@pytest.mark.parametrize(
    "text",
    ["千军万马", "a: b", "https://example.com/a.jpg?id=7, twice", "POST /videos answered 400", "http://[::1", ""],
)
def test_a_text_with_nothing_secret_is_not_changed(text: str) -> None:
    assert unsigned_text(text) == text


def test_megabytes_of_base64_beside_a_url_are_read_once() -> None:
    base64 = "iVBORw0KGgo" * 200_000
    assert unsigned_text(f"{base64} https://h/a?sig=5ec2e7 {base64}") == f"{base64} https://h/a {base64}"


def test_what_looks_like_a_url_and_cannot_be_read_shows_nothing() -> None:
    assert unsigned_text("at https://me:hunter2@[bad/x now") == f"at https://{MASK} now"


def test_a_redactor_takes_signatures_and_passwords_of_urls_too() -> None:
    said = Redactor(["sk-1/2"]).clean("sftp://me:hunter2@h/a and https://h/a?k=sk-1%2F2&X-Amz-Signature=5ec2e7")
    assert said == "sftp://h/a and https://h/a?k=sk-1%2F2"
