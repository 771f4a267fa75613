"""The report's page: one self-contained HTML file in which every value is text.

Values occur in two places. In JSON, they cannot end the script element, and the page's script inserts them as text. In
HTML and SVG, they are escaped. The page's content security policy prevents anything else from running or loading.
"""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from html import escape
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

from prefect_genmedia.prices import CURRENCY
from prefect_genmedia.text import clean_text, counted

GENERATOR = "prefect-genmedia report"
"""The generator named in a report: only files with this generator are replaced by a new report."""

MOST_BARS = 14
"""Maximum number of bars in a chart: the largest values, or the last days."""

_LABEL, _BAR, _HEIGHT = 250, 240, 22
"""Sizes in a chart, in pixels: width of the names, width of the longest bar, height of a line."""


@dataclass(frozen=True)
class ReportPage:
    """What the page shows.

    Parameters:
        batch_id: the batch's name.
        summary: counts and cost in one line.
        made_at: when it was made, as text.
        rows: the result of each row, for the page's script; `charges` are charted: model, day and cost of each job.
        results: path or URL of the table of results.
        columns: names of the user's own columns, as the table of results has them.
    """

    batch_id: str
    summary: str
    made_at: str
    rows: Sequence[Mapping[str, Any]]
    results: str = ""
    columns: Sequence[str] = field(default=())

    def html(self) -> str:
        """Returns the content of the file."""
        script, style = _asset("report.js"), _asset("report.css")
        delivered = sum(bool(row["delivered"]) for row in self.rows)
        waiting = sum(bool(row["review"] and row["review"]["waits"]) for row in self.rows)
        name, hidden = _text(self.batch_id), "" if waiting else " hidden"
        return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="generator" content="{GENERATOR}">
<meta name="genmedia-batch" content="{batch_mark(self.batch_id)}">
<meta http-equiv="Content-Security-Policy" content="{escape(self._policy(script, style))}">
<meta name="referrer" content="no-referrer">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{name}</title>
<style>{style}</style>
</head>
<body>
<header>
<div class="top"><h1>{name}</h1><button id="theme" type="button">Dark</button></div>
<p>{_text(self.summary)}</p>
<p class="quiet">Made {_text(self.made_at)}. Each cost is that of a row's newest jobs: an estimate, not a bill.</p>
<div class="charts">{self._charts()}</div>
</header>
<main>
<div class="tools" role="search">
<button type="button" data-filter="all" aria-pressed="true">All {len(self.rows)}</button>
<button type="button" data-filter="delivered" aria-pressed="false">Delivered {delivered}</button>
<button type="button" data-filter="failed" aria-pressed="false">Without a file {len(self.rows) - delivered}</button>
{self._flawed()}<select id="errors" aria-label="Error"><option value="">Every error</option></select>
<button type="button" data-filter="waiting" aria-pressed="false"{hidden}>To review {waiting}</button>
<button id="review" type="button" aria-pressed="false">Review</button>
<input id="search" type="search" placeholder="Search ids, prompts, columns, errors ( / )" aria-label="Search">
<span id="count" class="quiet" role="status"></span>
</div>
<form id="decide" class="tools decide" hidden>
<label>Reviewer <input id="reviewer" autocomplete="name" maxlength="128"></label>
<button id="others" type="button">Accept the others shown</button>
<button id="export" type="submit">Export decisions</button>
<span id="decided" class="quiet" role="status"></span>
</form>
<noscript><p>The rows need JavaScript. They stand in the table of results, too.</p></noscript>
<div id="grid" class="grid"></div>
<button id="more" class="more" type="button" hidden>Show more</button>
</main>
<footer>
<p>Keys: / search · Esc clears it · arrows or j, k move · Enter or Space plays and pauses · Tab reaches the rest</p>
<p>Keys in a review: a accepts, x rejects, g regenerates</p>
<p>{_text(f"Table of results: {self.results}") if self.results else ""}</p>
</footer>
<script type="application/json" id="data">{self._data()}</script>
<script>{script}</script>
</body>
</html>
"""

    def _flawed(self) -> str:
        """Returns the filter of rows with quality findings; empty if there are none."""
        flawed = sum(bool(row.get("quality")) for row in self.rows)
        button = '<button type="button" data-filter="flawed" aria-pressed="false">With quality findings'
        return f"{button} {flawed}</button>\n" if flawed else ""

    def _data(self) -> str:
        return script_json(
            {"batch": self.batch_id, "results": self.results, "columns": [*self.columns], "rows": [*self.rows]}
        )

    def _policy(self, script: str, style: str) -> str:
        """Returns the content security policy: own script and style, media beside the page or on the links' hosts."""
        links = (str(row[name]) for row in self.rows for name in ("play", "poster") if row.get(name))
        hosts = sorted({f"{parts.scheme}://{parts.netloc}" for each in links if (parts := urlsplit(each)).netloc})
        media = " ".join(["'self'", "file:", *hosts])
        return (
            f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; "
            f"img-src data: {media}; media-src {media}; base-uri 'none'; form-action 'none'"
        )

    def _charts(self) -> str:
        charges = [charge for row in self.rows for charge in row["charges"]]
        by_model = _sums((model, cost) for model, _, cost in charges)
        by_day = _sums((day, cost) for _, day, cost in charges if day)
        largest = dict(sorted(by_model.items(), key=lambda item: -item[1])[:MOST_BARS])
        last = dict(sorted(by_day.items())[-MOST_BARS:])
        return _chart("Cost by model", largest) + _chart("Cost by day (UTC)", last)


def script_json(value: Any) -> str:
    """Returns JSON that is safe in a script element: it cannot end the element or begin a comment.

    Parameters:
        value: a value that `json.dumps` accepts.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def batch_mark(batch_id: str) -> str:
    """Returns the mark of a batch in a report's first bytes: hexadecimal digits for any name."""
    return sha256(batch_id.encode("utf-8", "surrogatepass")).hexdigest()[:32]


@functools.cache
def _asset(name: str) -> str:
    return files("prefect_genmedia.batch").joinpath(name).read_text("utf-8")


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}"


def _text(value: str) -> str:
    return escape(clean_text(value), quote=True)


def _sums(costs: Iterable[tuple[str, float | None]]) -> dict[str, float]:
    sums: dict[str, float] = {}
    for name, cost in costs:
        if cost:
            sums[name] = sums.get(name, 0.0) + cost
    return sums


def _chart(title: str, sums: Mapping[str, float]) -> str:
    """Returns horizontal bars with names and sums, as SVG."""
    heading = f"<h2>{_text(title)}</h2>"
    if not sums:
        return f'<section class="chart">{heading}<p class="quiet">Nothing was paid, or no price is known.</p></section>'
    most = max(sums.values())
    lines = []
    for number, (name, cost) in enumerate(sums.items()):
        top, width = number * _HEIGHT, max(_BAR * cost / most, 2.0)
        lines.append(
            f'<text x="0" y="{top + 15}">{_text(clean_text(name, 36))}<title>{_text(name)}</title></text>'
            f'<rect x="{_LABEL}" y="{top + 4}" width="{width:.1f}" height="{_HEIGHT - 8}" rx="3"></rect>'
            f'<text x="{_LABEL + width + 6:.1f}" y="{top + 15}">{cost:.2f} {CURRENCY}</text>'
        )
    amounts = ", ".join(f"{name}: {cost:.2f} {CURRENCY}" for name, cost in sums.items())
    label = _text(f"{title}, {counted(len(sums), 'bar')}: {amounts}")
    box = f"0 0 {_LABEL + _BAR + 100} {len(sums) * _HEIGHT}"
    svg = f'<svg viewBox="{box}" role="img" aria-label="{label}">{"".join(lines)}</svg>'
    return f'<section class="chart">{heading}{svg}</section>'
