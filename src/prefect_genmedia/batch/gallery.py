"""The batch's gallery: poster frames of the delivered files, on pages whose size is bounded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from anyio import to_thread
from prefect.artifacts import acreate_markdown_artifact

from prefect_genmedia._prefect.cards import thumbnail
from prefect_genmedia._prefect.markdown import code, escape
from prefect_genmedia._prefect.targets import read_file
from prefect_genmedia.batch.results import Result

KEY = "genmedia-batch-gallery"
"""Artifact key of the first page; the second one's ends in -2, and so on."""

PAGE_FRAMES = 48
"""Poster frames on a page: its text holds the pictures, some 8 kB each."""

PAGE_BYTES = 1_000_000
"""A page's text is no larger: pictures that would not fit begin another page."""

MOST_PAGES = 21
"""A thousand frames: nobody looks at more, and the server keeps them all."""

COLUMNS = 4
WIDTH = 200
"""Pixels of a frame; it is twice as high at most."""

_READ_AT_ONCE = 8


async def publish_gallery(batch_id: str, summary: str, delivered: Sequence[Result], location: str | None) -> None:
    """Show the delivered files' poster frames, an artifact a page.

    Parameters:
        batch_id: the batch's name.
        summary: what became of it, in a line.
        delivered: the rows with a file, in the order to show them in.
        location: where the table of results is.
    """
    shown, number = 0, 0
    async for page in _pages(delivered):
        number += 1
        first, shown = shown + 1, shown + len(page)
        lines = [f"# {escape(batch_id)}", "", escape(summary), "", f"Files {first} to {shown} of {len(delivered)}.", ""]
        if number == MOST_PAGES and shown < len(delivered):
            lines[4] += f" This is the last page; all of them stand in {code(location)}."
        await acreate_markdown_artifact(
            key=KEY if number == 1 else f"{KEY}-{number}",
            markdown="\n".join([*lines, *_table(page)]) + "\n",
            description=f"{escape(batch_id)} · files {first} to {shown} of {len(delivered)}",
        )
        if number == MOST_PAGES:
            return


async def _pages(delivered: Sequence[Result]) -> AsyncIterator[list[str]]:
    page: list[str] = []
    size = 0
    async for cell in _cells(delivered):
        if page and (len(page) == PAGE_FRAMES or size + len(cell) > PAGE_BYTES):
            yield page
            page, size = [], 0
        page.append(cell)
        size += len(cell)
    if page:
        yield page


async def _cells(delivered: Sequence[Result]) -> AsyncIterator[str]:
    for begin in range(0, len(delivered), _READ_AT_ONCE):
        for cell in await asyncio.gather(*map(_cell, delivered[begin : begin + _READ_AT_ONCE])):
            yield cell


async def _cell(result: Result) -> str:
    content = await read_file(result.poster_uri) if result.poster_uri else None
    picture = await to_thread.run_sync(thumbnail, content, WIDTH) if content else None
    name = escape(result.id)
    return (f"![{name}]({picture})<br>" if picture else "") + f"{name} · {result.seconds or 0.0:.1f} s"


def _table(page: Sequence[str]) -> list[str]:
    first, *others = (page[begin : begin + COLUMNS] for begin in range(0, len(page), COLUMNS))
    # The first files are the table's head: an empty one shows as a bar.
    return [_line(first), _line(["---"] * len(first)), *map(_line, others)]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
