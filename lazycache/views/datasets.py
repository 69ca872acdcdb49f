"""What a dataset is, for people and as JSON: its sum, its sites, where it came from."""

from __future__ import annotations

import json as json_text
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from lazycache.progress import bytes_text
from lazycache.views.documents import print_document, print_lines
from lazycache.views.render import console, counted, harmless, sites_table, stored_bytes

if TYPE_CHECKING:
    from lazycache.capture.corpus.estimate import Estimate
    from lazycache.mapping.activation_cache import ActivationCache


LETTERS, PARTS = 150, 16
"""Letters of a line about a run, and parts of one thing that get a line each."""


def print_summary(cache: ActivationCache, *, json: bool) -> None:
    """Say what a dataset is in a line, or what `info` says as JSON."""
    if json:
        print_document(summary(cache))
    else:
        console.print(_line(cache))


def print_info(cache: ActivationCache, *, json: bool) -> None:
    """Say what a dataset is, and of each run where it came from."""
    print_summary(cache, json=json)
    if json:
        return
    for run in cache.snapshot.runs.values():
        console.print(f"\n[bold]run {escape(harmless(run.name))}[/]")
        for line in _lines(run.info):
            console.print(harmless(line), markup=False, soft_wrap=True)
    console.print("\n(--json says all of it)", markup=False)


def _lines(info: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a run says of itself: a line for each thing, or for each part of a long one."""
    for key, value in info.items():
        text = _text(value)
        if value in (None, {}, []):
            continue
        if isinstance(value, Mapping) and len(text) > LETTERS and len(value) <= PARTS:
            yield f"  {key}:"
            yield from (_cut(f"    {part}: {_text(said)}") for part, said in value.items())
        else:
            yield _cut(f"  {key}: {text}")


def _text(value: object) -> str:
    return value if isinstance(value, str) else json_text.dumps(value, ensure_ascii=False)


def _cut(line: str) -> str:
    return line if len(line) <= LETTERS else f"{line[:LETTERS]} …"


def print_list(cache: ActivationCache, *, json: bool) -> None:
    """List the sites of a dataset."""
    if json:
        print_lines(_sites(cache))
    else:
        console.print(sites_table(cache))


def print_estimate(found: Estimate, *, json: bool) -> None:
    """Say what a capture would take."""
    if json:
        known = {one.name: getattr(found, one.name) for one in fields(found)}
        print_document({**known, "bytes": found.nbytes, "fits": found.fits})
    else:
        console.print(str(found), markup=False, soft_wrap=True)


def summary(cache: ActivationCache) -> dict[str, Any]:
    """Return what a dataset is: the keys of `lazycache info --json`."""
    snapshot = cache.snapshot
    return {
        "url": cache.url,
        "uuid": snapshot.identity.uuid,
        "version": snapshot.version,
        "tokens": snapshot.rows("tokens"),
        "examples": snapshot.rows("examples"),
        "sites": len(cache),
        "bytes": stored_bytes(cache),
        "columns": {table: dict(snapshot.columns(table)) for table in ("tokens", "examples")},
        "runs": [{"name": run.name, "info": run.info} for run in snapshot.runs.values()],
    }


def _sites(cache: ActivationCache) -> Iterator[dict[str, Any]]:
    for name, site in cache.sites.items():
        yield {
            "site": name,
            "table": site.table,
            "dtype": site.dtype,
            "shape": list(site.shape),
            "rows": cache.rows(name),
            "bytes": cache.stored_bytes(name),
        }


def _line(cache: ActivationCache) -> str:
    snapshot = cache.snapshot
    size = stored_bytes(cache)
    return (
        f"[bold]{escape(cache.url)}[/]: {counted(snapshot.rows('tokens'), 'token')} of "
        f"{counted(snapshot.rows('examples'), 'example')} × {counted(len(cache), 'site')} = "
        f"{bytes_text(size)} in {counted(snapshot.version, 'commit')} "
        f"(version {snapshot.version}, {escape(snapshot.identity.uuid)})"
    )
