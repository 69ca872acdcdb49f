"""What `bench_query` and `bench_scale` ask about: rows with labels, as a dataset and as a matrix.

Synthetic rows are like neurons of a model that reads one document after the other: most values
near zero, few large ones, each unit drifting slowly with what is read, so that its large values
come in stretches. `real` has the neurons of a layer of SmolLM2 over real text instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import lazycache as lc
from lazycache.catalog.identity import create_dataset
from lazycache.catalog.snapshot import Snapshot
from lazycache.storage.open_store import open_store
from lazycache.types import RowBatch, RunInfo, SiteBlock, TableBlock
from lazycache.writer.settings import Settings
from lazycache.writer.writer import DatasetWriter

LENGTH = 128
"""Tokens of a synthetic example."""

WORDS = 5000
"""Different tokens, as frequent as words are: the n-th one 1 / n as often as the first."""

LABELS = 20
"""Groups of examples."""

STEP = 16_384
"""Rows that are made at a time."""


@dataclass(frozen=True, eq=False)
class Data:
    """One site: as a dataset, and as a raw matrix of bfloat16 with the columns of its rows."""

    url: str
    """The dataset."""
    site: str
    """Its only site."""
    raw_path: Path
    """The values, row-major."""
    shape: tuple[int, int]
    """Rows and units."""
    columns: dict[str, np.ndarray]
    """`example`, `position`, `token_id` and `label` (a number) of each row."""

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return self.shape[0] * self.shape[1] * 2

    def raw(self) -> np.memmap:
        """The matrix, as words: numpy has no bfloat16."""
        return np.memmap(self.raw_path, np.uint16, "c", shape=self.shape)

    def blocks(self, rows: int) -> Iterator[tuple[int, torch.Tensor]]:
        """First row and values of one block of rows after the other."""
        raw = self.raw()
        for start in range(0, self.shape[0], rows):
            yield start, torch.from_numpy(np.array(raw[start : start + rows])).view(torch.bfloat16)

    def rare_token(self, share: float) -> int:
        """The token that is nearest to this share of all rows."""
        counts = np.bincount(self.columns["token_id"])
        return int(np.abs(counts - share * self.shape[0]).argmin())


def writer_of(path: Path, *, shard_bytes: int, chunk_rows: int = 8192) -> DatasetWriter:
    """Return the writer of a new dataset."""
    store = open_store(str(path), create=True, storage_options=None)
    settings = Settings(
        queue_bytes=1 << 28,
        shard_bytes=shard_bytes,
        chunk_rows=chunk_rows,
        commit_bytes=4 << 30,
        commit_seconds=600,
        rank=0,
    )
    empty = Snapshot.replay(create_dataset(store), [])
    return DatasetWriter(store, snapshot=empty, run=RunInfo("main", {}), settings=settings)


def word(number: int) -> str:
    """A token's text: letters that stand for its number."""
    text = ""
    while number or not text:
        number, digit = divmod(number, 26)
        text += chr(ord("a") + digit)
    return f" {text}"


class Neurons:
    """Makes the rows, one block of whole examples after the other."""

    def __init__(self, width: int) -> None:
        self._random = torch.Generator().manual_seed(0)
        self._choice = np.random.default_rng(0)
        self._drift = torch.zeros(width)
        self._texts = [word(i) for i in range(WORDS)]
        odds = 1 / np.arange(1, WORDS + 1)
        self._odds = odds / odds.sum()

    def values(self, rows: int) -> torch.Tensor:
        """The next rows, bfloat16."""
        examples, width = -(-rows // LENGTH), len(self._drift)
        steps = torch.randn(examples, width, generator=self._random)
        drift = torch.empty(examples, width)
        for i in range(examples):
            self._drift = drift[i] = 0.98 * self._drift + 0.2 * steps[i]
        noise = torch.randn(examples, LENGTH, width, generator=self._random)
        made = torch.nn.functional.silu(noise.add_(drift[:, None] - 1)).mul_(drift[:, None].exp())
        return made.flatten(0, 1)[:rows].bfloat16()

    def columns(self, start: int, rows: int) -> dict[str, np.ndarray]:
        """Columns of rows that begin with row `start`."""
        every = np.arange(start, start + rows)
        examples = every // LENGTH
        return {
            "example": examples,
            "position": (every % LENGTH).astype(np.int32),
            "token_id": self._choice.choice(WORDS, rows, p=self._odds),
            "label": examples // 8 % LABELS,
        }

    def batch(self, columns: dict[str, np.ndarray], values: torch.Tensor, site: str) -> RowBatch:
        """Rows as one forward pass gives them."""
        texts = [self._texts[i] for i in columns["token_id"].tolist()]
        own = {name: columns[name] for name in ("example", "position", "token_id")}
        ids, first, counts = np.unique(columns["example"], return_index=True, return_counts=True)
        examples = {"example": ids, "length": counts, "label": columns["label"][first]}
        tables = {
            "tokens": TableBlock(len(values), own | {"token": texts}),
            "examples": TableBlock(len(ids), examples),
        }
        return RowBatch(tables, {site: SiteBlock("tokens", values)})


def synthetic(folder: Path, *, rows: int, width: int) -> Data:
    """Write synthetic rows, as a dataset with the usual sizes of files and as a matrix."""
    neurons, site = Neurons(width), "mlp_act_0"
    raw = np.memmap(folder / "raw", np.uint16, "w+", shape=(rows, width))
    writer = writer_of(folder / "acts", shard_bytes=256 << 20)
    parts = []
    for start in range(0, rows, STEP):
        values = neurons.values(min(STEP, rows - start))
        raw[start : start + len(values)] = values.view(torch.uint16).numpy()
        parts.append(neurons.columns(start, len(values)))
        writer.write(neurons.batch(parts[-1], values, site))
    writer.close()
    raw.flush()
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Data(str(folder / "acts"), site, folder / "raw", (rows, width), columns)


def real(folder: Path, *, tokens: int) -> Data:
    """Capture the neurons of layer 7 of SmolLM2 over the Python documentation."""
    from benchmarks.bench_smollm2 import FILE, corpus, weights
    from lazycache.views.pretrained import load_model, load_tokenizer

    url, site = str(folder / "acts"), "mlp_act_7"
    model = load_model(weights(), gguf_file=FILE, dtype="bfloat16", device="cpu")
    del model.model.layers[8:]  # what comes after it
    tokenizer = load_tokenizer(weights(), gguf_file=FILE)
    ids = corpus(tokenizer, tokens)
    data: list[dict[str, Any]] = [
        {"input_ids": own, "label": i // 8 % LABELS} for i, own in enumerate(ids)
    ]
    with lc.extract(model, data, url, [site], tokenizer=tokenizer, progress=False) as cache:
        rows = cache[site].rows
        raw = np.memmap(folder / "raw", np.uint16, "w+", shape=tuple(rows.shape))
        for start in range(0, len(rows), STEP):
            raw[start : start + STEP] = rows[start : start + STEP].load().view(torch.uint16).numpy()
        raw.flush()
        names = ["example", "position", "token_id", "label"]
        found = rows.columns(*names)
        columns = {name: np.asarray(found[name]) for name in names}
    return Data(url, site, folder / "raw", (raw.shape[0], raw.shape[1]), columns)
