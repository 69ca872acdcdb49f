"""What the overview shows of a dataset: its sites by layer and one by one, its runs and commits."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lazycache.catalog.natural import natural_key
from lazycache.catalog.snapshot import CommitLine, Snapshot
from lazycache.mapping.activation_cache import ActivationCache
from lazycache.mapping.overview import FEW_FILES, Group, Overview, overview

SITES = 2_000
"""Sites that are listed one by one, at most."""

KINDS, LAYERS = 16, 256
"""Columns and lines of the table by layer, at most."""

COMMITS = 20
"""Commits that are listed: the last ones."""

RUNS = 50
"""Runs that are listed: the last ones."""

LETTERS = 40_000
"""Letters of the provenance of a run that are shown."""

_NUMBER = re.compile(r"[0-9]+")


@dataclass(frozen=True, slots=True)
class SiteLine:
    """A site in the list of all of them."""

    name: str
    """Its name."""
    where: str
    """The module that it was read from; empty where no run says."""
    table: str
    """Its table."""
    dtype: str
    """Of its values."""
    shape: str
    """Of a row."""
    rows: int
    """How many."""
    nbytes: int
    """Bytes of them."""


@dataclass(frozen=True, slots=True)
class Layers:
    """Sites whose names differ in one number, as a table."""

    kinds: tuple[Group, ...]
    """The columns: groups of sites."""
    lines: tuple[tuple[str, tuple[str | None, ...]], ...]
    """Of each number the site of each group; None where there is none."""


@dataclass(frozen=True, slots=True)
class RunLine:
    """A run and where it came from."""

    name: str
    """Its name."""
    sealed: bool
    """Whether it is complete."""
    facts: tuple[tuple[str, str], ...]
    """What is asked first: model, weights, tokenizer, versions."""
    info: str
    """All that it says of itself, as JSON."""


@dataclass(frozen=True, slots=True)
class DatasetView:
    """What the overview shows."""

    found: Overview
    """Groups of sites, and where they are."""
    layers: Layers | None
    """The sites by layer; None where their names do not say."""
    sites: tuple[SiteLine, ...]
    """The sites one by one."""
    left: int
    """Sites that are not among them."""
    runs: tuple[RunLine, ...]
    """The last runs, in their order."""
    earlier: int
    """Runs before them."""
    commits: tuple[CommitLine, ...]
    """The last commits, the newest first."""
    snapshot: Snapshot
    """The version that is shown."""


def view_of(cache: ActivationCache) -> DatasetView:
    """Return what the overview shows.

    Cost: reads the log's packs of the last commits, where it has them; no statistics, no table, no
    activation.
    """
    found = overview(cache, norms=False)
    snapshot = cache.datasets[0].snapshot
    return DatasetView(
        found,
        by_layer(found.groups),
        tuple(_sites(cache, snapshot)),
        max(0, len(cache.sites) - SITES),
        tuple(_run(snapshot, name) for name in list(snapshot.runs)[-RUNS:]),
        max(0, len(snapshot.runs) - RUNS),
        tuple(reversed(snapshot.lines(max(0, snapshot.version - COMMITS)))),
        snapshot,
    )


def by_layer(groups: Sequence[Group]) -> Layers | None:
    """Return sites as a table of layers; None where no two sites differ in one number.

    Example:
        >>> group = Group(("a_0", "a_2"), "tokens", "", "", 0, 0, False, ())
        >>> by_layer([group]).lines
        (('0', ('a_0',)), ('2', ('a_2',)))
    """
    kinds = tuple(one for one in groups if len(one.keys) > 1 and one.pattern.count("*") == 1)
    kinds = tuple(one for one in kinds if one.table)[:KINDS]
    if not kinds:
        return None
    named = [{_NUMBER.findall(key)[0]: key for key in kind.keys} for kind in kinds]
    layers = sorted({layer for one in named for layer in one}, key=natural_key)[:LAYERS]
    lines = tuple((layer, tuple(one.get(layer) for one in named)) for layer in layers)
    return Layers(kinds, lines)


def _sites(cache: ActivationCache, snapshot: Snapshot) -> list[SiteLine]:
    modules: dict[str, Any] = {}
    for run in snapshot.runs.values():
        said = run.info.get("sites")
        modules |= said if isinstance(said, Mapping) else {}
    exact = len(cache.sites) * len(snapshot.commits) <= FEW_FILES
    return [
        SiteLine(
            name,
            str(modules.get(name, "")),
            spec.table,
            spec.dtype,
            str(list(spec.shape)).replace("-1", "keys"),
            cache.rows(name) if exact else snapshot.rows(spec.table),
            cache.stored_bytes(name) if exact else snapshot.rows(spec.table) * spec.row_bytes,
        )
        for name, spec in list(cache.sites.items())[:SITES]
    ]


def _run(snapshot: Snapshot, name: str) -> RunLine:
    info = snapshot.runs[name].info
    text = json.dumps(info, indent=1, ensure_ascii=False, default=str)
    shown = text if len(text) <= LETTERS else f"{text[:LETTERS]}\n… {len(text):,} letters in all"
    return RunLine(name, name in snapshot.sealed, tuple(run_facts(info)), shown)


def run_facts(info: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what is asked first of a run; what it does not say, or says otherwise, is left out.

    Example:
        >>> run_facts({"model": {"class": "a.b.Net", "parameters": 1200, "dtype": "float32"}})
        [('model', 'Net'), ('parameters', '1,200'), ('dtype', 'float32')]
    """
    model = _part(info, "model")
    found = {
        "model": str(model.get("class") or "").rpartition(".")[2],
        "from": model.get("name_or_path"),
        "parameters": _counted(model.get("parameters")),
        "dtype": model.get("dtype"),
        "device": model.get("device"),
        "weights": model.get("weights"),
        "tokenizer": str(_part(model, "tokenizer").get("class") or "").rpartition(".")[2],
        "positions": info.get("positions"),
        "where": info.get("where"),
        "pool": info.get("pool"),
        "texts": _counted(_part(info, "corpus").get("items")),
    }
    versions = _part(model, "versions")
    found |= {name: versions.get(name) for name in ("torch", "transformers", "lazycache")}
    return [(name, str(value)) for name, value in found.items() if value not in (None, "")]


def _part(info: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = info.get(name)
    return part if isinstance(part, Mapping) else {}


def _counted(value: object) -> str | None:
    return f"{value:,}" if isinstance(value, int) else None
