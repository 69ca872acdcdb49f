"""What the shell completes: names of sites, formats, runs. Reads what is near and small.

The shell waits for it: nothing that reads tensors is loaded, and what fails completes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import typer

from lazycache.views.output import FORMS

MOST_RECORDS = 64
"""Log records that are looked at: sites are declared by the first ones of a run."""

EXPORTS = ("parquet", "arrow", "hf", "npy", "safetensors")
"""Formats of `lazycache export`."""

_LOG = "_log/[0-9]*.json"


def sites(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the sites of the dataset that the line names before, if it is a folder."""
    return _named(_declared(_dataset(ctx), "site"), incomplete)


def runs(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return its runs."""
    return _named(_declared(_dataset(ctx), "run"), incomplete)


def forms(incomplete: str) -> list[str]:
    """Return what an answer can be printed as."""
    return _named(FORMS, incomplete)


def exports(incomplete: str) -> list[str]:
    """Return what a dataset can be exported as."""
    return _named(EXPORTS, incomplete)


def metrics(incomplete: str) -> list[str]:
    """Return how `similar` can compare."""
    return _named(("cosine", "l2", "dot"), incomplete)


def declared(folder: Path, op: str) -> Iterator[str]:
    """Yield the names of sites or runs that the log of a local dataset declares.

    Example:
        >>> list(declared(Path("no-such-folder"), "site"))
        []
    """
    for path in islice(sorted(folder.glob(_LOG)), MOST_RECORDS):
        for entry in _operations(path):
            if isinstance(entry, dict) and entry.get("op") == op and "name" in entry:
                yield str(entry["name"])


def _operations(path: Path) -> Sequence[Any]:
    try:
        record = json.loads(path.read_bytes().partition(b"\n")[0])  # its checksum follows
    except (OSError, ValueError):
        return ()
    found = record.get("ops") if isinstance(record, dict) else None
    return found if isinstance(found, list) else ()


def _declared(folder: str | None, op: str) -> Iterator[str]:
    if folder is not None and "://" not in folder:
        yield from declared(Path(folder).expanduser(), op)


def _dataset(ctx: typer.Context) -> str | None:
    found = ctx.params.get("url", ctx.params.get("src"))
    return found if isinstance(found, str) else None


def _named(names: Sequence[str] | Iterator[str], incomplete: str) -> list[str]:
    # a shell takes what moves its cursor for an order
    known = dict.fromkeys(name for name in names if name.isprintable())
    return [name for name in known if name.startswith(incomplete)]
