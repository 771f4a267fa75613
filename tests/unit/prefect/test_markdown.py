"""Escaped text renders as the text itself: checked with a renderer that shares no code with the escaping."""

from __future__ import annotations

import re
import unicodedata
from html.parser import HTMLParser

import pytest
from hostile import HOST, TEXTS
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from prefect_genmedia._prefect.markdown import cell, code, escape, link, prose, read_cell, verbatim

RENDERER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])

MARKS = st.sampled_from([*"\\`*_{}[]()#+-.!|~<>&:/@=\"' \n\tab1界", "http://", "www.", "x@y.zz", "&lt;", "![", "]("])
ARBITRARY = st.one_of(st.text(), st.lists(MARKS, max_size=30).map("".join))


class Page(HTMLParser):
    """What a browser would make of the HTML: the tags, the text, and what of it is not code."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, list[tuple[str, str | None]]]] = []
        self.text = ""
        self.outside_code = ""
        self._in_code = False
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, attrs))
        self._in_code = tag == "code"

    def handle_endtag(self, tag: str) -> None:
        self._in_code = False

    def handle_data(self, data: str) -> None:
        self.text += data
        self.outside_code += " " if self._in_code else data

    def handle_comment(self, data: str) -> None:
        self.tags.append(("comment", []))

    def unknown_decl(self, data: str) -> None:
        self.tags.append(("declaration", []))


def plain(text: str) -> str:
    """The text as a reader expects it: one line, nothing hidden. Compared without blanks, which HTML collapses."""
    shown = (each for each in text if unicodedata.category(each) not in ("Cc", "Cs", "Cf", "Zl", "Zp"))
    return re.sub(r"\s+", "", "".join(shown))


def same(shown: str, text: str) -> bool:
    """Whether the page shows the text; U+FFFD stands for what cannot be shown, and a text may have its own."""
    return plain(shown).replace("\ufffd", "") == plain(text).replace("\ufffd", "")


def check(markdown: str, text: str, wrapper: set[str]) -> None:
    page = Page(RENDERER.render(markdown))
    assert {tag for tag, _ in page.tags} - wrapper <= {"code"}, markdown
    assert not any(attrs for _, attrs in page.tags)
    assert same(page.text, text), markdown
    # GitHub's extensions make links of these wherever they stand in a text that is no code, escaped or not.
    assert not re.search(r"://|www\.|@", page.outside_code, re.IGNORECASE), markdown


def check_everywhere(text: str) -> None:
    for write in (escape, code, prose):
        shown = write(text)
        expected = text
        if write is prose:  # its backticks are marks
            expected = Page(RENDERER.render(shown)).text
            assert same(expected.replace("`", ""), text.replace("`", ""))
        assert "\n" not in shown
        check(shown, expected, {"p"})
        check(f"# {shown}", expected, {"h1"})
        check(f"a {shown} z", f"a{expected}z", {"p"})
        cells = {"table", "thead", "tbody", "tr", "th", "td"}
        check(f"| h | i |\n| --- | --- |\n| {shown} | z |", f"hi{expected}z", cells)


@given(ARBITRARY)
def test_any_text_renders_as_itself_and_as_nothing_else(text: str) -> None:
    check_everywhere(text)


@pytest.mark.parametrize("name", TEXTS)
def test_a_hostile_text_renders_as_itself_and_as_nothing_else(name: str) -> None:
    check_everywhere(TEXTS[name])


@given(ARBITRARY)
def test_a_cell_of_a_table_artifact_is_no_markdown_or_no_text(text: str) -> None:
    """A text cell is Markdown in one UI, and shown as it is in the other one; a list is neither's Markdown."""
    assert read_cell(verbatim(text)) == text
    shown = cell(text)
    if isinstance(shown, str):
        check(shown, Page(RENDERER.render(shown)).text, {"p"})
        assert same(shown, text)


@pytest.mark.parametrize(
    "text", ["", "row-7", "InvalidRequest", "portrait_2.jpg · 5.0 s", "let `reconcile_jobs` collect it."]
)
def test_a_harmless_text_is_a_plain_cell(text: str) -> None:
    assert cell(text) == text


@given(ARBITRARY)
def test_a_link_leads_to_the_web_or_is_none(text: str) -> None:
    for uri in (text, f"http://{text}", f"https://files.example/{text}", f"/media/{text}.mp4", f"javascript:{text}"):
        page = Page(RENDERER.render(f"| h | i |\n| --- | --- |\n| {link(uri)} | z |"))
        targets = [value or "" for tag, attrs in page.tags if tag == "a" for name, value in attrs if name == "href"]
        assert len(targets) <= 1
        assert {tag for tag, _ in page.tags} <= {"table", "thead", "tbody", "tr", "th", "td", "a", "code"}
        assert all(target.startswith(("http://", "https://")) for target in targets)
        assert same(page.text, f"hi{uri}z")


@pytest.mark.parametrize(
    ("uri", "target"),
    [
        ("https://files.example/a b.mp4", "https://files.example/a%20b.mp4"),
        (
            "http://files.example:8080/%E5%9B%BE/x_(1).mp4?v=1&copy;=2",
            "http://files.example:8080/%E5%9B%BE/x_%281%29.mp4?v=1&copy%3B=2",
        ),
        ("https://files.example/图.mp4", "https://files.example/%E5%9B%BE.mp4"),
    ],
)
def test_the_link_to_a_delivered_file_leads_there(uri: str, target: str) -> None:
    page = Page(RENDERER.render(link(uri)))
    assert [attrs for tag, attrs in page.tags if tag == "a"] == [[("href", target)]]
    assert page.text.strip() == uri


@pytest.mark.parametrize(
    "uri",
    [
        "javascript:alert(1)",
        "JAVASCRIPT://x/%0aalert(1)",
        "data:text/html,x",
        "file:///etc/passwd",
        "//evil.example/x",
        "s3://bucket/x.mp4",
        f"https://user:password@{HOST}/x",
        f"https://files.example@{HOST}/x",
        "https:///no-host",
        "https://[::1]:80]/x",
        "https://files.example/\u202egpj.mp4",
        "https://files.example/\nx",
    ],
)
def test_what_a_browser_should_not_open_is_no_link(uri: str) -> None:
    assert not [tag for tag, _ in Page(RENDERER.render(link(uri))).tags if tag == "a"]
