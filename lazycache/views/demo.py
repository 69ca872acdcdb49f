"""`lazycache demo`: the main job on a fresh machine, then a tour of what it stored."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Any

from rich.markup import escape

import lazycache
from lazycache.capture.sites.names import match_names
from lazycache.errors import CaptureError, DatasetExistsError, DatasetNotFoundError
from lazycache.mapping.activation_cache import ActivationCache
from lazycache.progress import bytes_text
from lazycache.views.corpus import python_documentation
from lazycache.views.pretrained import demo_model
from lazycache.views.render import console, counted, sites_table, table

Corpus = Sequence[Mapping[str, Any]]

SITES = ["embed", "resid_out_*", "mlp_act_*"]
CHARACTERS = 120_000
"""Prose that is captured: about 30,000 tokens, some seconds on two cores."""

NEURON_SITE, NEURON = "mlp_act_1", 730
"""A neuron whose favourite tokens need no explanation."""

QUERY = "SELECT token, count(*) AS n FROM tokens GROUP BY token ORDER BY n DESC"
"""A query to begin with."""

WIDTH = 7
"""Tokens of context on each side."""


def run_demo(url: str, *, characters: int = CHARACTERS) -> None:
    """Capture MiniLM over the Python documentation into `url`, or what is missing of it; tour it.

    Raises:
        DatasetExistsError: `url` holds something else.
        CaptureError: the extra `demo` is not installed.
    """
    corpus = python_documentation(characters)
    before = _before(url, corpus)
    cache = _capture(url, corpus, before)
    _tour(cache, url)


def _before(url: str, corpus: Corpus) -> ActivationCache | None:
    """Open what an earlier demo left, whole or interrupted; None if there is nothing.

    Raises:
        DatasetExistsError: it is not a demo's.
    """
    try:
        cache = lazycache.open(url)
    except DatasetNotFoundError:
        return None
    if not len(cache):
        return None
    found = _foreign(cache, corpus)
    if found is not None:
        raise _another(url, found)
    return cache


def _foreign(cache: ActivationCache, corpus: Corpus) -> str | None:
    """Say what a dataset holds that the demo does not store; None if there is nothing."""
    names = list(cache)
    other = set(names).difference(*(match_names(pattern, names) for pattern in SITES))
    if other:
        return f"sites such as {min(other)}"
    if len(cache.snapshot.runs) > 1:
        return f"the runs {', '.join(cache.snapshot.runs)}"
    if "text" not in cache.snapshot.columns("examples"):
        return "examples without text"
    texts = {i: entry["text"] for i, entry in enumerate(corpus)}
    rows = cache.sql("SELECT example, text FROM examples").fetchall()
    if any(texts.get(example) != text for example, text in rows):
        return "other text, or the documentation of another Python"
    return None


def _another(url: str, found: str) -> DatasetExistsError:
    return DatasetExistsError(
        f"{url} holds another dataset than the demo's ({found}). Give a folder of its own: "
        "lazycache demo FOLDER."
    )


def _capture(url: str, corpus: Corpus, before: ActivationCache | None) -> ActivationCache:
    """The main job, with its figures; what is stored already is not captured again."""
    console.print("Loading the MiniLM encoder (6 layers, d=384) …")
    model, tokenizer = demo_model()
    old = 0 if before is None else before.snapshot.rows("tokens")
    done = 0 if before is None else before.snapshot.rows("examples")
    if done < len(corpus):
        _announce(url, len(corpus), done)
    start = time.perf_counter()
    try:
        cache = lazycache.extract(
            model, corpus, url, SITES, tokenizer=tokenizer, batch_size=32, max_length=256
        )
    except CaptureError as exc:
        if before is None:
            raise
        raise _another(url, str(exc)) from exc
    seconds = time.perf_counter() - start
    _report(cache, url, new=cache.snapshot.rows("tokens") - old, seconds=seconds)
    return cache


def _announce(url: str, paragraphs: int, done: int) -> None:
    again = f" (the {counted(done, 'paragraph')} of an interrupted run stay)" if done else ""
    console.print(
        f"Capturing [bold]{escape(' '.join(SITES))}[/] over {counted(paragraphs, 'paragraph')} of "
        f"the Python documentation into [bold]{escape(url)}[/]{again}"
    )


def _report(cache: ActivationCache, url: str, *, new: int, seconds: float) -> None:
    """Say what was stored and how fast."""
    if not new:
        console.print(
            f"[bold]{escape(url)}[/] exists already: nothing to capture. "
            f"(Remove the folder to start again, or give another: lazycache demo FOLDER.)\n"
        )
        return
    size = new * sum(site.row_bytes for site in cache.sites.values())
    console.print(
        f"Stored {counted(new, 'token')} × {counted(len(cache), 'site')} = {bytes_text(size)} in "
        f"{seconds:.1f} s: {new / seconds:,.0f} tokens/s, {bytes_text(size / seconds)}/s, model "
        "included.\n"
    )


def _tour(cache: ActivationCache, url: str) -> None:
    """Four short stops: what is there, a slice, an aggregate, a question in SQL."""
    _show_sites(cache)
    _show_slice(cache)
    _show_aggregate(cache)
    _show_query(cache)
    console.print("\n[bold]Yours now[/]")
    for line in _next_steps(url):
        console.print(f"  {line}", soft_wrap=True, markup=False)


def _next_steps(url: str) -> list[str]:
    """Return lines to paste: the dataset in a browser, in a terminal and in Python."""
    program, shown, quoted = _program(), shlex.quote(url), json.dumps(url, ensure_ascii=False)
    extra = '   (after: pip install "lazycache[view]")'
    return [
        f"{program} serve {shown}{'' if _serves() else extra}",
        f"{program} top {shown} {NEURON_SITE} {NEURON + 1}",
        f'{program} sql {shown} "{QUERY}"',
        f"{program} --help",
        f"Python:  import lazycache as lc; cache = lc.open({quoted})",
    ]


def _program() -> str:
    """Return how this program was called, where a shell does not find it by its name."""
    called = sys.argv[0]
    known = which("lazycache") is not None or Path(called).name != "lazycache"
    return "lazycache" if known else shlex.quote(os.path.relpath(called))


def _serves() -> bool:
    return all(map(find_spec, ("starlette", "uvicorn", "jinja2")))


def _show_sites(cache: ActivationCache) -> None:
    console.print("[bold]What is there[/]  lc.open(url)")
    console.print(sites_table(cache))


def _show_slice(cache: ActivationCache) -> None:
    x = cache["resid_out_5"]
    cache.io.reset()
    start = time.perf_counter()
    values = x[3, :4].load()
    micros = (time.perf_counter() - start) * 1e6
    first = [round(value, 4) for value in values[0, :4].tolist()]
    console.print('\n[bold]A lazy slice[/]  cache["resid_out_5"][3, :4].load()')
    console.print(
        f"{x!r}\n"
        f"→ {list(values.shape)} {values.dtype}, {micros:.0f} µs, {bytes_text(cache.io.bytes)} of "
        f"{bytes_text(x.nbytes)} touched; first numbers {first}",
        markup=False,
    )


def _show_aggregate(cache: ActivationCache) -> None:
    """Statistics of every neuron of a layer at once; one of them in words."""
    x = cache[NEURON_SITE]
    start = time.perf_counter()
    mean, std, largest = x.mean("rows"), x.std("rows"), x.max("rows")
    seconds = time.perf_counter() - start
    score = float((largest[NEURON] - mean[NEURON]) / std[NEURON])
    console.print(
        f'\n[bold]Aggregates[/]  x = cache["{NEURON_SITE}"]; x.mean("rows"), x.std(…), x.max(…)'
    )
    console.print(
        f"{len(mean):,} neurons over {x.count():,} tokens in {seconds:.2f} s. Neuron {NEURON} is "
        f"usually {mean[NEURON]:.2f} ± {std[NEURON]:.2f}, and {largest[NEURON]:.2f} at most: "
        f"{score:.0f} standard deviations up."
    )


def _show_query(cache: ActivationCache) -> None:
    """Ask which tokens fire a neuron most, and show them in their sentences."""
    query = (
        f"SELECT example, position, token, unit({NEURON_SITE}, {NEURON}) AS a\n"
        "FROM tokens ORDER BY a DESC LIMIT 10"
    )
    start = time.perf_counter()
    hits = cache.sql(query).fetchall()
    seconds = time.perf_counter() - start
    console.print(
        f"\n[bold]A question in SQL[/]  which tokens fire that neuron most? ({seconds:.2f} s)\n"
        f"{escape(query)}"
    )
    rows = [(a, *_context(cache, example, position)) for example, position, _, a in hits]
    console.print(table(["activation", "before", "token", "after"], rows))


def _context(cache: ActivationCache, example: int, position: int) -> tuple[str, str, str]:
    """The text before a token, the token, and the text after it."""
    found = cache.sql(
        "SELECT position, token FROM tokens WHERE example = $e AND position BETWEEN $a AND $b "
        "ORDER BY position",
        {"e": example, "a": position - WIDTH, "b": position + WIDTH},
    ).fetchall()
    before = _joined(token for p, token in found if p < position)
    after = _joined(token for p, token in found if p > position)
    return before, next(token for p, token in found if p == position), after


def _joined(tokens: Iterable[str]) -> str:
    """Word pieces as text."""
    return " ".join(tokens).replace(" ##", "").removeprefix("##")
