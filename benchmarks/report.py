"""Tables of what was measured, from its JSON: for a terminal and for `docs/performance.md`."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.causes import cause_of
from benchmarks.goals import Verdict, judge, ours_of, ratios

COLUMNS = (
    "operation, way",
    "median (range)",
    "time / ours",
    "MB/s",
    "CPU",
    "bytes",
    "requests",
    "peak RSS",
)

Json = Mapping[str, Any]


def stage_table(stage: Json, *, goals: bool = True) -> str:
    """Return what a stage measured as Markdown: a table, goals if asked, skipped ways, notes."""
    if stage.get("failed"):
        return f"**failed**: {stage['failed']}"
    rows = [row for one in stage["comparisons"] for row in rows_of(one)]
    used = [i for i, _ in enumerate(COLUMNS) if any(row[i] for row in rows)]
    lines = [[COLUMNS[i] for i in used], *([row[i] for i in used] for row in rows)]
    parts = [_aligned(lines), *_paragraphs(stage["comparisons"], goals=goals)]
    spent = f"{stage['seconds']:.0f} s in all, peak RSS of the process {size(stage['peak_rss'])}"
    return "\n\n".join([*parts, f"{spent}{_when(stage)}."])


def _when(stage: Json) -> str:
    """When a stage was run, of what and beside what; nothing of one that is run by itself."""
    if "date" not in stage:
        return ""
    return f"; {stage['date']}, commit {stage['commit']}, load before it {stage['load'][0]:.2f}"


def rows_of(comparison: Json) -> list[list[str]]:
    """One operation: its name, then a row for each way, ours first, limits last."""
    ways = comparison["ways"]
    order = {"ours": 0, "peer": 1, "limit": 2}
    timed = sorted((way for way in ways if way["seconds"]), key=lambda way: order[way["kind"]])
    named = [f"{comparison['operation']}:", *[""] * (len(COLUMNS) - 1)]
    return [named, *(_row(comparison, way) for way in timed)]


def _row(comparison: Json, way: Json) -> list[str]:
    took = statistics.median(way["seconds"])
    mark = {"ours": "- **{}**", "peer": "- {}", "limit": "- *{}*"}[way["kind"]]
    return [
        mark.format(way["name"]),
        _spread(way["seconds"]),
        _beside(comparison["ways"], way),
        _digits(comparison["nbytes"] / took / 1e6) if comparison["nbytes"] else "",
        duration(statistics.median(way["cpu"])) if way["cpu"] else "",
        "" if way["nbytes"] is None else size(way["nbytes"]),
        "" if way["requests"] is None else f"{way['requests']:,}",
        "" if way["peak_rss"] is None else size(way["peak_rss"]),
    ]


def _spread(seconds: Sequence[float]) -> str:
    """Median, smallest and greatest, in the unit of the median."""
    middle = statistics.median(seconds)
    if len(seconds) == 1:
        return duration(middle)
    unit, scale = _unit(middle)
    low, high = (_digits(one / scale) for one in (min(seconds), max(seconds)))
    return f"{_digits(middle / scale)} {unit} ({low}-{high})"


def _beside(ways: Sequence[Json], way: Json) -> str:
    """How long beside ours: the median of the rounds' ratios, with the smallest and greatest."""
    if way is ours_of(ways):
        return ""
    found = ratios(ways, way)
    if not found:
        return ""
    middle, low, high = statistics.median(found), min(found), max(found)
    return f"{middle:.3g} ({low:.3g}-{high:.3g})" if len(found) > 1 else f"{middle:.3g}"


def _paragraphs(comparisons: Sequence[Json], *, goals: bool) -> list[str]:
    """Goals, then who was left out and why, then what is to be said of a way."""
    judged = [line for one in comparisons for line in _goals(one)] if goals else []
    skipped: dict[str, list[str]] = {}
    notes: dict[str, None] = {}
    for one in comparisons:
        for way in one["ways"]:
            if way["skipped"]:
                skipped.setdefault(f"{way['name']}: {way['skipped']}", []).append(one["operation"])
            if way["note"]:
                notes[f"{way['name']}: {way['note']}"] = None
    every = len(comparisons)
    left = [
        what if len(where) == every else f"{what} ({_listed(where)})"
        for what, where in skipped.items()
    ]
    named = (("Goals", judged), ("Not measured", left), ("Notes", list(notes)))
    return ["\n".join([f"{what}:", "", *(f"- {line}" for line in x)]) for what, x in named if x]


def _listed(operations: Sequence[str]) -> str:
    """Name a few operations, or say how many they are."""
    return "; ".join(operations) if len(operations) <= 2 else f"{len(operations)} operations"


def _goals(comparison: Json) -> list[str]:
    return [f"{comparison['operation']}: {one.goal}: {_said(one)}" for one in judge(comparison)]


def _said(one: Verdict) -> str:
    """What came out of a goal."""
    if one.found is None:
        return "not measured"
    return f"{_digits(one.found)}, {'reached' if one.reached else '**not reached**'}"


def goals_table(stages: Mapping[str, Json]) -> str:
    """Return all goals of a run: what came out, and why the missed ones are missed."""
    lines, missed = [["operation", "goal", "came out"]], []
    for name, stage in stages.items():
        for one in stage.get("comparisons", ()):
            for verdict in judge(one):
                lines.append([f"{name}: {one['operation']}", verdict.goal, _said(verdict)])
                if verdict.found is not None and not verdict.reached:
                    cause = cause_of(name, one["operation"], verdict.goal)
                    missed.append(f"- {name}, {one['operation']}, {verdict.goal}: {cause}.")
    shown = [_aligned(lines)] if len(lines) > 1 else ["No stage that was run has a goal."]
    return "\n\n".join(shown + (["\n".join(["Why not:", "", *missed])] if missed else []))


def duration(seconds: float) -> str:
    """Seconds as text: three digits, in s, ms or µs."""
    unit, scale = _unit(seconds)
    return f"{_digits(seconds / scale)} {unit}"


def _unit(seconds: float) -> tuple[str, float]:
    """Return the unit that a time is shown in, and its seconds."""
    if seconds >= 1:
        return "s", 1.0
    return ("ms", 1e-3) if seconds >= 1e-3 else ("µs", 1e-6)


def size(nbytes: float) -> str:
    """Bytes as text: three digits, in GB, MB, kB or bytes."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= scale:
            return f"{_digits(nbytes / scale)} {unit}"
    return f"{nbytes:,.0f} B"


def _digits(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table whose columns stand below each other, for who reads the text."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    shown = [
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([shown[0], rule, *shown[1:]])


def header(report: Json) -> str:
    """One paragraph: what was run, where, with which versions; stages say when."""
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    return f"`{report['command']}`, {report['date']}; {report['machine']}; {versions}."


def check_marks(path: Path, stages: Iterable[str]) -> None:
    """Refuse a document that lacks a mark of a stage.

    Raises:
        ValueError: a mark is not there, or more than once.
    """
    text = path.read_text(encoding="utf-8")
    for name in ("run", "goals", *stages):
        if len(re.findall(_pattern(name), text, flags=re.DOTALL)) != 1:
            raise ValueError(f"{path} needs <!-- table: {name} --> and <!-- end --> once")


def update(path: Path, report: Json) -> None:
    """Write the tables between their marks in a document.

    A mark is `<!-- table: read -->`; what stands between it and the next `<!-- end -->` is
    replaced. `<!-- table: run -->` is for the machine, the date and the versions, `goals` for what
    was to be reached. A run of some stages replaces the tables of those, and both of these.

    Raises:
        ValueError: a stage that was measured has no mark; nothing is written then.
    """
    check_marks(path, report["stages"])
    text = path.read_text(encoding="utf-8")
    tables = {name: stage_table(one, goals=False) for name, one in report["stages"].items()}
    own = {"run": header(report), "goals": goals_table(report["stages"])}
    for name, table in (own | tables).items():
        text = re.sub(_pattern(name), _between(table), text, flags=re.DOTALL)
    path.write_text(text, encoding="utf-8")


def _pattern(name: str) -> str:
    return rf"(<!-- table: {name} -->\n).*?(<!-- end -->)"


def _between(table: str) -> Callable[[re.Match[str]], str]:
    return lambda found: f"{found[1]}\n{table}\n\n{found[2]}"
