"""What a card says, in Markdown. Pure.

Names and provenance come from whoever made the dataset: they are shown as code, in one line each,
so that they are no markup where the card is rendered.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from lazycache.care.card_reading import reading
from lazycache.catalog.computed import COMPUTED, all_sites
from lazycache.catalog.run_info import ADDS_TO
from lazycache.catalog.snapshot import PlacedShard, Snapshot
from lazycache.plain_text import in_one_line
from lazycache.progress import bytes_text
from lazycache.storage.layout import CARD_MARK
from lazycache.types import RunInfo, SiteSpec

_FRONT = """library_name: lazycache
tags:
- activations
- interpretability
---
"""
_MOST_INFO = 20_000  # characters of provenance
_MOST_SHOWN = 200  # characters of one text


def card_text(snapshot: Snapshot) -> str:
    """Return the card of a snapshot.

    Example:
        >>> from lazycache.samples import small_cache
        >>> "# 6 tokens of 3 examples, 1 site" in card_text(small_cache().snapshot)
        True
    """
    parts = [_title(snapshot), _sites(snapshot), _tables(snapshot), _values(snapshot)]
    parts += [_runs(snapshot), reading(snapshot)]
    return CARD_MARK.decode() + _FRONT + "\n" + "\n".join(part for part in parts if part)


def _title(snapshot: Snapshot) -> str:
    sites = all_sites(snapshot)
    size = sum(length for _, length in snapshot.paths())
    identity, count = snapshot.identity, snapshot.rows("tokens")
    tokens = f"{_counted(count, 'token')} of " if count else ""
    return (
        f"# {tokens}{_counted(snapshot.rows('examples'), 'example')}, "
        f"{_counted(len(sites), 'site')}\n\n"
        "Activations of a neural network, stored as Parquet by lazycache: "
        f"{bytes_text(size)} in {_counted(sum(1 for _ in snapshot.paths()), 'file')}, version "
        f"{snapshot.version} of the dataset {code(identity.uuid)}, made {code(identity.created)}.\n"
    )


def _sites(snapshot: Snapshot) -> str:
    rows = [_site(snapshot, spec) for spec in all_sites(snapshot).values()]
    return "## Sites\n\n" + _table(
        ("site", "one row per", "a row", "dtype", "rows", "values"), rows
    )


def _site(snapshot: Snapshot, spec: SiteSpec) -> tuple[str, ...]:
    shape = " × ".join("width" if n < 0 else str(n) for n in spec.shape) or "a number"
    named = (code(spec.name), f"row of {code(spec.table)}", shape, spec.dtype)
    if spec.layout == COMPUTED:
        return (*named, "", "computed when read")
    shards = snapshot.shards(spec.name)
    return (*named, f"{sum(s.ref.rows for s in shards):,}", bytes_text(_bytes(spec, shards)))


def _bytes(spec: SiteSpec, shards: Iterable[PlacedShard]) -> int:
    chunks = [chunk for shard in shards for chunk in shard.ref.chunks]
    return spec.row_bytes * sum(c.rows if c.width is None else c.width for c in chunks)


def _tables(snapshot: Snapshot) -> str:
    rows = []
    for table in snapshot.tables:
        columns = ", ".join(
            code(f"{name} {kind}") for name, kind in snapshot.columns(table).items()
        )
        rows.append((code(table), f"{snapshot.rows(table):,}", columns))
    return "## Rows\n\n" + _table(("table", "rows", "columns"), rows)


def _values(snapshot: Snapshot) -> str:
    if not snapshot.entries:
        return ""
    names = ", ".join(code(name) for name in snapshot.entries)
    return f"## Values beside the sites\n\n{names}\n"


def _runs(snapshot: Snapshot) -> str:
    return "## Where it came from\n\n" + "\n".join(
        _run(run, sealed=run.name in snapshot.sealed) for run in snapshot.runs.values()
    )


def _run(run: RunInfo, *, sealed: bool) -> str:
    adds = run.info.get(ADDS_TO)
    what = "" if adds is None else f", which adds sites to {code(adds)}"
    lines = [f"### Run {code(run.name)}{what}{', complete' if sealed else ''}\n"]
    lines += [f"- {name}: {code(value)}" for name, value in _facts(run.info)]
    text = json.dumps(dict(run.info), indent=1, ensure_ascii=True)
    if len(text) <= _MOST_INFO:
        lines += ["\n<details><summary>All that is known</summary>\n"]
        lines += ["```json", text.replace("`", "\\u0060"), "```", "\n</details>\n"]
    return "\n".join(lines)


def _facts(info: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the main things that a run says of itself; anybody may have written them."""
    model = info.get("model")
    model = model if isinstance(model, Mapping) else {}
    versions = model.get("versions")
    facts = {
        "model": model.get("name_or_path") or model.get("class"),
        "parameters": model.get("parameters"),
        "weights": model.get("weights"),
        "dtype of the model": model.get("dtype"),
        "tokenizer": model.get("tokenizer"),
        "positions": info.get("positions"),
        "pooled": info.get("pool"),
        "rows where": info.get("where"),
        "copied from": info.get("copied_from"),
        "versions": versions,
    }
    yield from ((name, value) for name, value in facts.items() if value is not None)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def code(value: Any) -> str:
    r"""Show a value as code, in one line, whatever is in it.

    Example:
        >>> code("a|b`c\n"), code({"torch": "2.6"})
        ("`a\\|b'c\\n`", '`{"torch": "2.6"}`')
    """
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = in_one_line(text)
    if len(text) > _MOST_SHOWN:
        text = text[: _MOST_SHOWN - 1] + "…"
    return "`" + text.replace("`", "'").replace("|", "\\|") + "`"


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
