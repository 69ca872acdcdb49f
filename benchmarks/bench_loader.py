"""Feeding rows to training: `python -m benchmarks.bench_loader`.

An epoch of rows of bfloat16, d=768, in batches of 4,096: by `x.loader` in its orders, by raw random
reading of a memory map (the limit) and by what is used today (`loader_peers`), all over the same
values, warm and out of a cold page cache. How well each of them shuffles is measured apart, by
`shuffle_quality`.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import lazycache as lc
from benchmarks.alone import alone
from benchmarks.child import in_child
from benchmarks.comparing import Bench, Comparison, Way, absent, compare
from benchmarks.limits import dropping, sequential
from benchmarks.loader_peers import PEERS, Peer, Rows, of_bits, write_rows
from lazycache.catalog.identity import create_dataset
from lazycache.catalog.snapshot import Snapshot
from lazycache.storage.open_store import open_store
from lazycache.types import RowBatch, RunInfo, SiteBlock, TableBlock
from lazycache.writer.settings import Settings
from lazycache.writer.writer import DatasetWriter

SITE = "resid_out_0"
COLUMNS = ("token_id", "position", "example")
SELECT = "torch index_select of random rows of a map"
TAKE = "numpy take of random rows of a map"
SCAN = "copy of consecutive rows of a map"

SLOW = {"mosaicml-streaming": "a row takes 50 to 100 us of Python from the page cache already"}
"""Peers that do not wait for a disk: not measured cold."""


def run(bench: Bench) -> Iterator[Comparison]:
    """Compare ways to feed rows to training."""
    large = stored(bench, "large", bench.size(1 << 19, 4096))
    yield orders(bench, large)
    yield cold_epochs(bench, large)
    shutil.rmtree(large.path.parent)
    small = stored(bench, "small", bench.size(3 << 14, 2048))
    peers = {name: written(kind, needs, small) for name, (kind, needs) in PEERS.items()}
    yield beside_peers(bench, small, peers)
    yield cold_beside_peers(bench, small, peers)
    shutil.rmtree(small.path.parent)


def orders(bench: Bench, rows: Rows) -> Comparison:
    """Every order of ours beside the map, warm."""
    x = lc.open(str(ours_of(rows)))[SITE]
    goes_on = x.loader(rows.batch, columns=COLUMNS)
    feeds: dict[str, dict[str, Any]] = {
        "lazycache, with columns, a new loader": {"columns": COLUMNS},
        "lazycache": {},
        'lazycache, shuffle="rows"': {"shuffle": "rows"},
        "lazycache, shuffle=False": {"shuffle": False},
        'lazycache, norm="scale" (float32)': {"norm": "scale"},
    }
    # the epoch after the one that is not counted, as all but the first one of a training are
    ways = [Way("lazycache, with columns", "ours", lambda: consumed(lambda: goes_on))]
    ways += [
        Way(
            name, "ours", functools.partial(consumed, functools.partial(x.loader, rows.batch, **kw))
        )
        for name, kw in feeds.items()
    ]
    ways += random_reads(rows)
    mapped = of_bits(rows.words())
    ways.append(Way(SCAN, "limit", lambda: consumed(lambda: scanned(mapped, rows.batch))))
    if not bench.smoke:
        path = str(ours_of(rows))
        ways[0].peak_rss = in_child("benchmarks.bench_loader:epoch_of", path, rows.batch).peak_rss
    return compare(
        f"an epoch of {rows.count:,} rows, {rows.batch:,} a batch, warm",
        ways,
        bench=bench,
        nbytes=rows.nbytes,
        goal=f"{SELECT} >= 0.6; {TAKE} >= 0.6",
    )


def beside_peers(bench: Bench, rows: Rows, peers: dict[str, Peer | str]) -> Comparison:
    """Ours and every peer, warm."""
    x = lc.open(str(ours_of(rows)))[SITE]
    load = functools.partial(x.loader, rows.batch, columns=COLUMNS)
    ways = [Way("lazycache, with columns", "ours", functools.partial(consumed, load))]
    ways += [of_peer(name, peer) for name, peer in peers.items()]
    ways += random_reads(rows)
    # a permutation of all rows over a map, no columns, no resume: nearer to the limit than to feeds
    goals = [f"{name} >= 3" for name in peers if name != "tensordict memmap"]
    return compare(
        f"an epoch of {rows.count:,} rows beside peers, warm",
        ways,
        bench=bench,
        nbytes=rows.nbytes,
        goal="; ".join(goals),
    )


def random_reads(rows: Rows) -> list[Way]:
    """Return what it costs to read random rows, each once, and nothing else."""
    mapped = of_bits(rows.words())
    return [
        Way(SELECT, "limit", lambda: consumed(lambda: selected(mapped, rows.batch))),
        Way(TAKE, "limit", lambda: consumed(lambda: taken(mapped, rows.batch))),
    ]


def cold_epochs(bench: Bench, rows: Rows) -> Comparison:
    """Ours out of a cold page cache, beside the disk."""
    ways = [
        cold_ours("lazycache", rows),
        cold_ours("lazycache, with columns", rows, columns=COLUMNS),
        cold_ours("lazycache, blocks of 256 KiB", rows, block_bytes=256 << 10),
        cold_ours('lazycache, shuffle="rows"', rows, shuffle="rows"),
        cold_ours("lazycache, shuffle=False", rows, shuffle=False),
        sequential(rows.path),
    ]
    return compare(
        f"an epoch of {rows.count:,} rows, {rows.batch:,} a batch, cold",
        ways,
        bench=bench,
        nbytes=rows.nbytes,
        goal="limit >= 0.9",
    )


def cold_beside_peers(bench: Bench, rows: Rows, peers: dict[str, Peer | str]) -> Comparison:
    """Ours and the peers that may wait for a disk, cold."""
    ways = [cold_ours("lazycache, with columns", rows, columns=COLUMNS)]
    ways += [of_peer(name, peer, cold=True) for name, peer in peers.items()]
    ways.append(sequential(rows.path))
    return compare(
        f"an epoch of {rows.count:,} rows beside peers, cold", ways, bench=bench, nbytes=rows.nbytes
    )


def of_peer(name: str, peer: Peer | str, *, cold: bool = False) -> Way:
    """Return a peer's way, or why there is none."""
    if isinstance(peer, str) or (cold and name in SLOW):
        return Way(name, "peer", None, skipped=peer if isinstance(peer, str) else SLOW[name])
    before = dropping(peer.path) if cold else None
    way = Way(name, "peer", functools.partial(consumed, peer.epoch), before=before)
    way.rounds = 1 if name in SLOW else None
    return way


def cold_ours(name: str, rows: Rows, **settings: Any) -> Way:
    """Return our way over a dataset that was just opened and is not in the page cache."""
    path = ours_of(rows)
    drop = dropping(path)
    caches: list[lc.ActivationCache] = []

    def open_cold() -> None:
        while caches:  # what is mapped stays in the page cache
            caches.pop().close()
        drop()
        caches.append(lc.open(str(path)))

    def feed() -> None:
        with caches.pop() as cache:
            consumed(lambda: cache[SITE].loader(rows.batch, **settings))

    return Way(name, "ours", feed, before=open_cold)


def consumed(feed: Callable[[], Iterable[Any]]) -> int:
    """Go through an epoch; return how many batches it had.

    A value of every page is looked at: what only says where values are has not handed them out.
    """
    batches = 0
    for batch in feed():
        values = batch[SITE] if isinstance(batch, dict) else batch
        values.view(-1)[:: 4096 // values.element_size()].max()
        batches += 1
    return batches


def selected(values: torch.Tensor, batch: int) -> Iterator[torch.Tensor]:
    """Yield random rows, each once, by torch from the mapped matrix."""
    return (
        values.index_select(0, part) for part in torch.split(torch.randperm(len(values)), batch)
    )


def taken(values: torch.Tensor, batch: int) -> Iterator[torch.Tensor]:
    """Yield random rows, each once, by numpy from the same map."""
    words, order = values.view(torch.uint16).numpy(), torch.randperm(len(values))
    return (of_bits(words.take(part.numpy(), axis=0)) for part in torch.split(order, batch))


def scanned(values: torch.Tensor, batch: int) -> Iterator[torch.Tensor]:
    """Yield copies of consecutive rows of the mapped matrix."""
    return (part.clone() for part in torch.split(values, batch))


def epoch_of(path: str, batch: int) -> int:
    """Go through an epoch with columns; for a process of its own."""
    with lc.open(path) as cache:
        return consumed(lambda: cache[SITE].loader(batch, columns=COLUMNS))


def stored(bench: Bench, name: str, count: int) -> Rows:
    """Write the rows as a raw matrix and as a dataset of ours, in a folder of their own."""
    folder = bench.folder / name
    folder.mkdir()
    batch = bench.size(4096, 256)
    rows = Rows(folder / "raw", count, bench.size(768, 16), 128, batch, count // 4)
    write_rows(rows)
    write_ours(rows)
    return rows


def ours_of(rows: Rows) -> Path:
    """Return where our dataset of the rows is."""
    return rows.path.parent / "acts"


def write_ours(rows: Rows) -> None:
    """Write the rows as a dataset."""
    store = open_store(str(ours_of(rows)), create=True, storage_options=None)
    settings = Settings(
        queue_bytes=1 << 28,
        shard_bytes=256 << 20,
        chunk_rows=8192,
        commit_bytes=4 << 30,
        commit_seconds=600,
        rank=0,
    )
    empty = Snapshot.replay(create_dataset(store), [])
    writer = DatasetWriter(store, snapshot=empty, run=RunInfo("main", {}), settings=settings)
    words, step = rows.words(), 128 * rows.length
    for start in range(0, rows.count, step):
        values = of_bits(np.array(words[start : start + step]))
        writer.write(row_batch(start, values, rows.length))
    writer.close()


def row_batch(start: int, values: torch.Tensor, length: int) -> RowBatch:
    """Rows as forward passes give them, in whole examples."""
    number = np.arange(start, start + len(values))
    tokens: dict[str, np.ndarray] = {
        "example": number // length,
        "position": (number % length).astype(np.int32),
        "token_id": (number * 7919 % 50257).astype(np.int32),
    }
    own, sizes = np.unique(tokens["example"], return_counts=True)
    return RowBatch(
        {
            "tokens": TableBlock(len(values), tokens),
            "examples": TableBlock(len(own), {"example": own, "length": sizes}),
        },
        {SITE: SiteBlock("tokens", values)},
    )


def written(kind: Callable[[Rows, Path], Peer], needs: tuple[str, ...], rows: Rows) -> Peer | str:
    """Write the rows as a peer has them; or say why it is not measured."""
    return absent(*needs) or kind(rows, rows.path.parent)


if __name__ == "__main__":
    alone(run)
