"""The gallery of a batch in the Prefect UI: each delivered file's poster frame, linked to the file and its row.

It is divided into pages of bounded size.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from anyio import to_thread
from prefect.artifacts import acreate_markdown_artifact
from prefect.utilities.urls import url_for

from prefect_genmedia._prefect.cards import DESCRIPTION_CHARACTERS
from prefect_genmedia._prefect.frames import thumbnail
from prefect_genmedia._prefect.markdown import code, escape, link, linked
from prefect_genmedia._prefect.targets import read_file
from prefect_genmedia.batch.results import Result, words_of
from prefect_genmedia.text import cut_at_word

KEY = "genmedia-batch-gallery"
"""Artifact key of the first page; the key of the second page ends in -2, and so on."""

PAGE_FRAMES = 48
"""Poster frames per page: the page's text contains the pictures, about 12 kB each."""

PAGE_BYTES = 1_000_000
"""Maximum size of a page's text; further pictures go to the next page."""

MOST_PAGES = 21
"""Limits the gallery to a thousand frames: nobody views more, and the server stores them all."""

COLUMNS = 3
SIDE = 240
"""Maximum width and height of a frame in pixels: three frames fit into a 1440-pixel window in both UIs."""

_LINE = 34
"""Characters per line below a frame: the first UI does not wrap text in tables."""

_SHOWN_NAME = 16
"""Characters of a row's id below its frame; the picture's name contains the full id."""

_SHOWN_COLUMNS = 3
"""How many of the user's own columns are shown below a frame."""

_READ_AT_ONCE = 8


async def publish_gallery(
    batch_id: str, summary: str, delivered: Sequence[Result], location: str | None, report: str | None = None
) -> None:
    """Publish the poster frames of the delivered files, one artifact per page.

    Args:
        batch_id: the batch's name.
        summary: one line about the batch's outcome.
        delivered: the rows with a file, in display order.
        location: where the table of results is.
        report: path or URL of the report page, if one was written.
    """
    shown, number = 0, 0
    async for page in _pages(delivered):
        number += 1
        first, shown = shown + 1, shown + len(page)
        lines = [f"# {escape(batch_id)}", "", escape(summary), "", f"Files {first} to {shown} of {len(delivered)}.", ""]
        if report:
            lines[4] += f" The report plays them: {link(report)}."
        if number == MOST_PAGES and shown < len(delivered):
            lines[4] += f" This is the last page; all of them stand in {code(location)}."
        await acreate_markdown_artifact(
            key=KEY if number == 1 else f"{KEY}-{number}",
            markdown="\n".join([*lines, *_table(page)]) + "\n",
            description=escape(
                cut_at_word(f"{batch_id} · files {first} to {shown} of {len(delivered)}", DESCRIPTION_CHARACTERS)
            ),
        )
        if number == MOST_PAGES:
            return


async def _pages(delivered: Sequence[Result]) -> AsyncIterator[list[str]]:
    page: list[str] = []
    size = 0
    async for frame in _cells(delivered):
        if page and (len(page) == PAGE_FRAMES or size + len(frame) > PAGE_BYTES):
            yield page
            page, size = [], 0
        page.append(frame)
        size += len(frame)
    if page:
        yield page


async def _cells(delivered: Sequence[Result]) -> AsyncIterator[str]:
    for begin in range(0, len(delivered), _READ_AT_ONCE):
        for frame in await asyncio.gather(*map(_cell, delivered[begin : begin + _READ_AT_ONCE])):
            yield frame


async def _cell(result: Result) -> str:
    content = await read_file(result.poster_uri) if result.poster_uri else None
    picture = await to_thread.run_sync(thumbnail, content, SIDE, SIDE) if content else None
    frame = f"![{escape(result.id)}]({picture})" if picture else ""
    words = [escape(cut_at_word(result.id, _SHOWN_NAME)), f"{result.seconds or 0.0:.1f} s"]
    if result.watch_url:  # beside the picture: the first UI does not show pictures inside links
        words.append(linked("play", result.watch_url))
    if page := _page_of(result):
        words.append(linked("row", page))
    own = [words_of({name: value}) for name, value in result.extra.items()]
    lines = [f"not sent: {own[0]}", *own[1:_SHOWN_COLUMNS]] if own else []
    return "<br>".join(
        [*filter(None, [frame, " · ".join(words)]), *(escape(cut_at_word(each, _LINE)) for each in lines)]
    )


def _page_of(result: Result) -> str | None:
    """Returns the page of the row's task run in the Prefect UI; None if this run did not process the row."""
    return url_for("task-run", obj_id=result.task_run_id) if result.task_run_id else None


def _table(page: Sequence[str]) -> list[str]:
    first, *others = (page[begin : begin + COLUMNS] for begin in range(0, len(page), COLUMNS))
    # The first files form the table's header: an empty header is shown as a bar.
    return [_line(first), _line(["---"] * len(first)), *map(_line, others)]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
