"""Writes the tables of docs/performance.md about batches from bench-output/: `make bench BENCH=batch` ends with it.

What stands between the two marks in the document is replaced, and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "performance.md"
OUTPUT = Path("bench-output")
BEGIN, END = "<!-- batch tables: written by benchmarks/report.py -->", "<!-- end of batch tables -->"
BATCH, TRACED_BATCH = "batch", "batch, a task run a row"
CLIPS = ("flat", "ordinary", "rich")

Figures = dict[str, dict[str, Any]]


def main() -> None:
    found = [
        json.loads(path.read_text())
        for clip in CLIPS
        for path in sorted(OUTPUT.glob(f"batch-{clip}-*.json"))
        if "default-server" not in path.name
    ]
    if not found:
        print(f"{OUTPUT}/ has no figures of batches: {DOCUMENT.name} stays as it is")
        return
    text = DOCUMENT.read_text()
    head, _, rest = text.partition(BEGIN)
    _, mark, tail = rest.partition(END)
    if not mark:
        raise SystemExit(f"{DOCUMENT} has lost the marks that the tables stand between")
    tables = "\n".join(line for measured in found for line in table_of(measured))
    DOCUMENT.write_text(f"{head}{BEGIN}\n\n{tables}\n{aims_of(found)}\n\n{END}{tail}")
    print(f"{len(found)} tables written to {DOCUMENT.relative_to(ROOT)}")


def table_of(measured: dict[str, Any]) -> Iterator[str]:
    """One table: what each program took for the same jobs."""
    figures, jobs = measured["figures"], measured["jobs"]
    gate = f"{measured['gate']} in flight" if measured["gate"] else "no limit"
    yield f"**{measured['clip']}**; {jobs} jobs of {measured['job_seconds']:g} s, {gate}; {measured['cpus']} CPUs"
    yield ""
    yield "| | time, s | × bare | CPU a job, ms | decoders, ms | Prefect's server, ms | requests a job | memory, MB |"
    yield "| --- " * 8 + "|"
    for name, row in figures.items():
        cells = (
            name + level_of(row),
            f"{row['recorded_seconds']:.1f}",
            ratio(figures, name, "bare", "recorded_seconds"),
            f"{1000 * row['own_cpu_seconds'] / jobs:.1f}",
            f"{1000 * row['helpers_cpu_seconds'] / jobs:.1f}" if "options" in row else "",
            f"{1000 * row['server_cpu_seconds'] / jobs:.1f}" if "server_cpu_seconds" in row else "",
            f"{row['requests_per_job']:.1f}",
            str(row["memory_mb"]),
        )
        yield f"| {' | '.join(cells)} |"
    yield ""


def level_of(row: dict[str, Any]) -> str:
    """How a batch verified; nothing for programs that verify nothing."""
    return f" (`{row['options'].get('verify', 'full')}`)" if "options" in row else ""


def ratio(figures: Figures, name: str, other: str, what: str) -> str:
    if name not in figures or other not in figures:
        return ""
    return f"{figures[name][what] / figures[other][what]:.2f}"


def aims_of(found: list[dict[str, Any]]) -> str:
    """Each aim beside what was measured with the ordinary clip."""
    lines = ["| ordinary clips | aim | measured |", "| --- | --- | --- |"]
    for measured in found:
        if not measured["clip"].startswith("ordinary"):
            continue
        figures, jobs = measured["figures"], measured["jobs"]
        gate = f"{measured['gate']} in flight" if measured["gate"] else "no limit"
        most = "1.25" if measured["gate"] else "2.00"
        rows = [
            ("batch / bare", most, ratio(figures, BATCH, "bare", "recorded_seconds")),
            ("batch / DBOS", "1.00", ratio(figures, BATCH, "dbos", "recorded_seconds")),
            ("batch / DBOS, CPU of all processes", "1.00", cpu_ratio(figures, BATCH, "dbos")),
            ("batch / naive", "0.45", ratio(figures, BATCH, "naive", "recorded_seconds")),
            ("CPU a job, ms", "14", own_cpu(figures, BATCH, jobs)),
            ("CPU a job with a task run a row, ms", "25", own_cpu(figures, TRACED_BATCH, jobs)),
            ("news late by", "8 %", late(figures)),
            ("requests a job", "4.0", f"{figures[BATCH]['requests_per_job']:.1f}" if BATCH in figures else ""),
        ]
        lines += [f"| {what}, {gate} | {aim} or less | {value} |" for what, aim, value in rows if value]
    return "\n".join(lines)


def cpu_ratio(figures: Figures, name: str, other: str) -> str:
    if name not in figures or other not in figures:
        return ""
    return f"{whole_cpu(figures[name]) / whole_cpu(figures[other]):.2f}"


def whole_cpu(row: dict[str, Any]) -> float:
    """CPU seconds of a program, of its decoders and of the Prefect server that it needs."""
    return float(row["own_cpu_seconds"] + row["helpers_cpu_seconds"] + row.get("server_cpu_seconds", 0.0))


def own_cpu(figures: Figures, name: str, jobs: int) -> str:
    return f"{1000 * figures[name]['own_cpu_seconds'] / jobs:.1f}" if name in figures else ""


def late(figures: Figures) -> str:
    return f"{100 * figures[BATCH]['late']:.0f} %" if "late" in figures.get(BATCH, {}) else ""


if __name__ == "__main__":
    main()
