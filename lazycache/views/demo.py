"""`lazycache demo`: the main job on a fresh machine, then a tour of what it stored."""

from __future__ import annotations

import time
from collections.abc import Iterable

import lazycache
from lazycache.cache.activation_cache import ActivationCache
from lazycache.errors import DatasetNotFoundError
from lazycache.views.corpus import python_documentation
from lazycache.views.pretrained import demo_model
from lazycache.views.render import bytes_text, console, sites_table, stored_bytes, table

SITES = ["embed", "resid_out_*", "mlp_act_*"]
CHARACTERS = 120_000
"""Prose that is captured: about 30,000 tokens, some seconds on two cores."""

NEURON_SITE, NEURON = "mlp_act_1", 730
"""A neuron whose favourite tokens need no explanation."""

WIDTH = 7
"""Tokens of context on each side."""


def run_demo(url: str, *, characters: int = CHARACTERS) -> None:
    """Capture MiniLM over the Python documentation into `url`, unless it is there; then tour it."""
    try:
        cache = lazycache.open(url)
        existing = len(cache) > 0
    except DatasetNotFoundError:
        existing = False
    if existing:
        console.print(
            f"[bold]{url}[/] exists already: nothing to capture. "
            f"(Remove the folder to start again, or give another: lazycache demo FOLDER.)"
        )
    else:
        cache = _capture(url, characters=characters)
    _tour(cache, url)


def _capture(url: str, *, characters: int) -> ActivationCache:
    """The main job, with its figures."""
    console.print("Loading the MiniLM encoder (6 layers, d=384) …")
    model, tokenizer = demo_model()
    corpus = python_documentation(characters)
    console.print(
        f"Capturing [bold]{' '.join(SITES)}[/] over {len(corpus):,} paragraphs of the Python "
        f"documentation into [bold]{url}[/]"
    )
    start = time.perf_counter()
    cache = lazycache.extract(
        model, corpus, url, SITES, tokenizer=tokenizer, batch_size=32, max_length=256
    )
    seconds = time.perf_counter() - start
    rows, size = cache.snapshot.rows("tokens"), stored_bytes(cache)
    console.print(
        f"Stored {rows:,} tokens × {len(cache)} sites = {bytes_text(size)} in {seconds:.1f} s: "
        f"{rows / seconds:,.0f} tokens/s, {bytes_text(size / seconds)}/s, model included.\n"
    )
    return cache


def _tour(cache: ActivationCache, url: str) -> None:
    """Four short stops: what is there, a slice, an aggregate, a question in SQL."""
    _show_sites(cache)
    _show_slice(cache)
    _show_aggregate(cache)
    _show_query(cache)
    console.print(f'\nYours now:  lazycache info {url}   ·   lazycache sql {url} "SELECT …"')
    console.print(f'In Python:  import lazycache as lc; cache = lc.open("{url}")')


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
    console.print(f"{x!r}")
    console.print(
        f"→ {list(values.shape)} {values.dtype}, {micros:.0f} µs, {bytes_text(cache.io.bytes)} of "
        f"{bytes_text(x.nbytes)} touched; first numbers {first}"
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
        f"{query}"
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
    return " ".join(tokens).replace(" ##", "")
