"""A dataset with columns for tests of conditions, groups and samples: real tables, real shards."""

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch

from lazycache.catalog.identity import create_dataset
from lazycache.catalog.snapshot import Snapshot
from lazycache.opening import open as open_dataset
from lazycache.storage.open_store import open_store
from lazycache.types import EXAMPLES, TOKENS, RowBatch, RunInfo, SiteBlock, TableBlock
from lazycache.writer.settings import Settings
from lazycache.writer.writer import DatasetWriter

_numbers = itertools.count()
_opened = []
SETTINGS = Settings(
    queue_bytes=1 << 24,
    shard_bytes=150,
    chunk_rows=4,
    commit_bytes=1 << 24,
    commit_seconds=60.0,
    rank=0,
)
WORDS = ("a", "b", None)
UNITS = 3


@dataclass
class Made:
    """A dataset, and what its tables and sites hold, example after example in order."""

    url: str
    tokens: pd.DataFrame
    """One row per token in order of run and example, with the columns of its example."""
    x: torch.Tensor
    """The values of site `x` for these rows."""
    examples: pd.DataFrame
    pooled: torch.Tensor

    def open(self, **options):
        return open_dataset(self.url, **options)

    @functools.cached_property
    def shared(self):
        """The dataset, opened once for all tests that only ask."""
        _opened.append(self)
        return self.open()


@functools.cache
def make(
    lengths: Sequence[int],
    *,
    seed: int = 0,
    runs: int = 1,
    batches: int = 2,
    uncovered: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Made:
    """Store examples of these lengths in shuffled order; run r has those of number r mod runs.

    `partial` is a site like `x` that the last `uncovered` batches lack; `pattern` is ragged.
    """
    url = f"memory://rows{next(_numbers)}"
    store = open_store(url, create=True, storage_options=None)
    snapshot = Snapshot.replay(create_dataset(store), [])
    random, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    kept_t, kept_e = [], []
    for r in range(runs):
        mine = random.permutation(np.arange(r, len(lengths), runs))
        writer = DatasetWriter(
            store,
            snapshot=snapshot,
            run=RunInfo(f"run{r}", {}),
            settings=SETTINGS,
            arrays={},
        )
        for number, part in enumerate(np.array_split(mine, batches)):
            if not len(part):
                continue
            batch, tokens, examples = _batch(part.tolist(), lengths, random, generator, dtype)
            if number >= batches - uncovered:
                batch = replace(
                    batch, sites={n: s for n, s in batch.sites.items() if n != "partial"}
                )
            writer.write(batch)
            writer.commit()
            kept_t += [tokens.assign(run=f"run{r}", r=r)]
            kept_e += [examples.assign(run=f"run{r}", r=r)]
        writer.close()
        snapshot = open_dataset(url).snapshot
    return _made(url, pd.concat(kept_t), pd.concat(kept_e))


def examples_of(lacking: dict[str, Sequence[int]]):
    """Open a dataset of six examples in three batches, whose sites lack some of the batches."""
    url = f"memory://rows{next(_numbers)}"
    store = open_store(url, create=True, storage_options=None)
    snapshot = Snapshot.replay(create_dataset(store), [])
    run = RunInfo("run", {})
    writer = DatasetWriter(store, snapshot=snapshot, run=run, settings=SETTINGS, arrays={})
    random, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    for number in range(3):
        part = [2 * number, 2 * number + 1]
        batch, _, _ = _batch(part, (1, 2, 3, 1, 2, 3), random, generator, torch.float32)
        pooled = batch.sites["pooled"]
        sites = {name: pooled for name, without in lacking.items() if number not in without}
        writer.write(replace(batch, sites=sites))
        writer.commit()
    writer.close()
    return open_dataset(url)


def forget() -> None:
    """Close what was made and opened for several tests."""
    for made in _opened:
        made.shared.close()
    _opened.clear()
    make.cache_clear()


def _batch(part, lengths, random, generator, dtype):
    counts = np.array([lengths[e] for e in part])
    rows = int(counts.sum())
    ids = np.repeat(np.array(part, dtype=np.int64), counts)
    position = np.concatenate([np.arange(n, dtype=np.int32) for n in counts])
    words = [f"w{i}" for i in random.integers(0, 4, rows)]
    labels = [WORDS[i] for i in random.integers(0, len(WORDS), len(part))]
    scores = random.integers(0, 3, len(part)) / 2
    x = (torch.randn(rows, UNITS, generator=generator) * 8).to(dtype)
    pooled = torch.randn(len(part), 2, generator=generator)
    widths = np.repeat(counts, counts).astype(np.int32)
    pattern = torch.rand(int(widths.sum()) * 2, generator=generator)
    tables = {
        TOKENS: TableBlock(rows, {"example": ids, "position": position, "token": words}),
        EXAMPLES: TableBlock(
            len(part),
            {
                "example": np.array(part, dtype=np.int64),
                "length": counts.astype(np.int64),
                "label": labels,
                "score": scores,
            },
        ),
    }
    sites = {
        "x": SiteBlock(TOKENS, x),
        "partial": SiteBlock(TOKENS, x.clone()),
        "pooled": SiteBlock(EXAMPLES, pooled),
        "pattern_0": SiteBlock(TOKENS, pattern, shape=(2, -1), widths=widths),
    }
    examples = pd.DataFrame({"example": part, "length": counts, "label": labels, "score": scores})
    examples["pooled"] = list(pooled)
    tokens = pd.DataFrame({"example": ids, "position": position, "token": words, "x": list(x)})
    tokens = tokens.merge(
        examples[["example", "length", "label", "score"]], on="example", how="left"
    )
    return RowBatch(tables, sites), tokens, examples


def _made(url, tokens, examples) -> Made:
    tokens = tokens.sort_values(["r", "example", "position"]).reset_index(drop=True)
    examples = examples.sort_values(["r", "example"]).reset_index(drop=True)
    x, pooled = torch.stack(list(tokens.pop("x"))), torch.stack(list(examples.pop("pooled")))
    tokens["label"] = tokens.label.astype(object).where(tokens.label.notna(), None)
    return Made(url, tokens, x, examples, pooled)
