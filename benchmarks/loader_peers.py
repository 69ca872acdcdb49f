"""The ways in which stored activations are fed to training today, for `bench_loader`.

Every peer writes the raw rows in its own format and gives an epoch of shuffled batches back, with
the settings that were fastest here among those that its documentation names. Where a peer has no
bfloat16 its rows are float16 with the same bits. A row carries its own number (`numbered`), so
that what order a peer made is read from what it handed out.
"""

from __future__ import annotations

import itertools
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

Words = npt.NDArray[np.uint16]

FILES = 64
"""Shards at least: how well most peers shuffle depends on it."""

LEVELS = 15_000
"""Values of one word that are finite, and not one, as float16 and as bfloat16."""


@dataclass(frozen=True, slots=True)
class Rows:
    """What all peers hold: a matrix in a file, and how it is to be handed out."""

    path: Path
    """The raw file of 16-bit words."""
    count: int
    width: int
    length: int
    """Rows of one example."""
    batch: int
    buffer: int
    """Rows that a shuffle buffer may hold."""

    def words(self) -> Words:
        """Map the matrix: [count, width]."""
        return np.memmap(self.path, np.uint16, "c", shape=(self.count, self.width))

    @property
    def nbytes(self) -> int:
        """Bytes of all values."""
        return self.count * self.width * 2

    @property
    def shard(self) -> int:
        """Rows of a file of formats that have many: 64 MiB, or less where there are few rows."""
        return max(self.length, min((64 << 20) // (self.width * 2), self.count // FILES))

    def shards(self) -> Iterator[tuple[int, int]]:
        """Yield where these files begin and end."""
        return ((i, min(i + self.shard, self.count)) for i in range(0, self.count, self.shard))


def write_rows(rows: Rows) -> None:
    """Write the matrix: rows of noise that begin with their own number."""
    noise = np.random.default_rng(0)
    block = noise.integers(0, LEVELS, (min(8192, rows.count), rows.width), np.uint16)
    with rows.path.open("wb") as file:
        for start in range(0, rows.count, len(block)):
            number = np.arange(start, min(start + len(block), rows.count))
            block[: len(number), 0], block[: len(number), 1] = number % LEVELS, number // LEVELS
            file.write(block[: len(number)].tobytes())


def numbered(batch: torch.Tensor) -> npt.NDArray[np.int64]:
    """Read from the values which rows a batch holds: [batch]."""
    words = batch[:, :2].contiguous().view(torch.uint16).numpy().astype(np.int64)
    return words[:, 0] + LEVELS * words[:, 1]


class Peer(Protocol):
    """One way to keep rows and to hand them out shuffled."""

    path: Path
    """The file or folder that it reads, for taking it out of the page cache."""

    def epoch(self) -> Iterator[torch.Tensor]:
        """Yield batches of rows in its shuffled order."""
        ...


def of_bits(words: Words) -> torch.Tensor:
    """Words as the bfloat16 values whose bits they are; shares memory."""
    return torch.from_numpy(words).view(torch.bfloat16)


def from_bytes(samples: Sequence[bytes | memoryview], width: int) -> torch.Tensor:
    """Put rows that are bytes together: [samples, width]."""
    joined = bytearray().join(samples)
    return torch.frombuffer(joined, dtype=torch.bfloat16).view(-1, width)


class SaeLens:
    """SAELens: cached activations behind its store, whose mixing buffer serves half and refills."""

    def __init__(self, rows: Rows, folder: Path) -> None:
        import datasets
        import pyarrow as pa

        datasets.disable_progress_bars()
        self.path, self.rows = folder / "saelens", rows
        shape = (rows.length, rows.width)
        features = datasets.Features({"acts": datasets.Array2D(shape, "float16")})
        whole = rows.count // rows.length * rows.length
        flat = pa.array(np.array(rows.words()[:whole]).reshape(-1).view(np.float16))
        kind = (
            features["acts"].pa_type if hasattr(features["acts"], "pa_type") else features["acts"]()
        )
        inner = pa.ListArray.from_arrays(np.arange(0, whole + 1, dtype=np.int32) * rows.width, flat)
        ends = np.arange(0, whole + 1, rows.length, dtype=np.int32)
        column = pa.ExtensionArray.from_storage(kind, pa.ListArray.from_arrays(ends, inner))
        table = pa.table({"acts": column})
        datasets.Dataset(table, info=datasets.DatasetInfo(features=features)).save_to_disk(
            str(self.path)
        )

    def epoch(self) -> Iterator[torch.Tensor]:
        from sae_lens.training.activations_store import ActivationsStore

        rows = self.rows
        prompts = max(1, rows.buffer // rows.length)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            store = ActivationsStore(
                model=None,
                dataset=None,
                streaming=False,
                hook_name="acts",
                hook_head_index=None,
                context_size=rows.length,
                d_in=rows.width,
                n_batches_in_buffer=prompts,
                total_training_tokens=rows.count,
                store_batch_size_prompts=max(1, prompts // 2),
                train_batch_size_tokens=rows.batch,
                prepend_bos=False,
                normalize_activations="none",
                device=torch.device("cpu"),
                dtype="float16",
                cached_activations_path=str(self.path),
            )
            yield from itertools.islice(store, rows.count // rows.batch)


def hf_rows(rows: Rows, path: Path) -> None:
    """Keep the rows as a Hugging Face dataset of float16."""
    import datasets
    import pyarrow as pa

    datasets.disable_progress_bars()
    flat = pa.array(np.array(rows.words()).reshape(-1).view(np.float16))
    column = pa.FixedSizeListArray.from_arrays(flat, rows.width)
    datasets.Dataset(pa.table({"x": column})).save_to_disk(str(path))


class HfIterable:
    """Hugging Face `IterableDataset.shuffle(buffer_size=...)`: shards, then a buffer of rows."""

    def __init__(self, rows: Rows, folder: Path) -> None:
        self.path, self.rows = folder / "hf_iterable", rows
        hf_rows(rows, self.path)

    def epoch(self) -> Iterator[torch.Tensor]:
        import datasets

        data = datasets.load_from_disk(str(self.path)).to_iterable_dataset(num_shards=FILES)
        order = data.shuffle(seed=0, buffer_size=self.rows.buffer).with_format("numpy")
        for batch in order.iter(self.rows.batch):
            yield torch.from_numpy(np.ascontiguousarray(batch["x"], np.float16))


class HfMap:
    """Hugging Face map-style dataset behind a `DataLoader` that asks for whole random batches."""

    def __init__(self, rows: Rows, folder: Path) -> None:
        self.path, self.rows = folder / "hf_map", rows
        hf_rows(rows, self.path)

    def epoch(self) -> Iterator[torch.Tensor]:
        import datasets

        data = datasets.load_from_disk(str(self.path)).with_format("torch", dtype=torch.float16)
        sampler = BatchSampler(RandomSampler(data), self.rows.batch, drop_last=True)
        for batch in DataLoader(data, sampler=sampler, batch_size=None):
            yield batch["x"]


class WebDataset:
    """webdataset: tar archives, a file each example; archives are shuffled, then a row buffer."""

    def __init__(self, rows: Rows, folder: Path) -> None:
        import webdataset

        self.path, self.rows = folder / "webdataset", rows
        self.path.mkdir()
        words, self.shards = rows.words(), []
        for start, stop in rows.shards():
            self.shards.append(str(self.path / f"{start:09}.tar"))
            with webdataset.TarWriter(self.shards[-1], encoder=False) as file:
                for first in range(start, stop, rows.length):
                    part = words[first : min(first + rows.length, stop)]
                    file.write({"__key__": f"{first:09}", "x": part.tobytes()})

    def epoch(self) -> Iterator[torch.Tensor]:
        import webdataset

        rows, size = self.rows, self.rows.width * 2

        def single(examples: Iterator[dict[str, Any]]) -> Iterator[memoryview]:
            for example in examples:
                values = memoryview(example["x"])
                yield from (values[i : i + size] for i in range(0, len(values), size))

        data = webdataset.WebDataset(self.shards, shardshuffle=len(self.shards), seed=0).compose(
            single,
            webdataset.shuffle(rows.buffer, initial=rows.buffer),
            webdataset.batched(rows.batch, collation_fn=None, partial=False),
        )
        for batch in data:
            yield from_bytes(batch, rows.width)


class LitData:
    """litdata: chunks of raw numbers in shuffled order, and the rows of each (`TokensLoader`)."""

    def __init__(self, rows: Rows, folder: Path) -> None:
        from litdata.streaming.item_loader import TokensLoader
        from litdata.streaming.writer import BinaryWriter

        self.path, self.rows = folder / "litdata", rows
        self.path.mkdir()
        step = rows.buffer  # rows are shuffled in chunks: these are its memory
        size = step * rows.width
        writer = BinaryWriter(str(self.path), chunk_size=size, item_loader=TokensLoader(rows.width))
        words = rows.words()
        for number, start in enumerate(range(0, rows.count, step)):
            stop = min(start + step, rows.count)
            writer[number] = of_bits(np.array(words[start:stop])).view(torch.float16).reshape(-1)
        writer.done()
        writer.merge()

    def epoch(self) -> Iterator[torch.Tensor]:
        import litdata
        from litdata.streaming.item_loader import TokensLoader

        data = litdata.StreamingDataset(
            str(self.path),
            item_loader=TokensLoader(self.rows.width),
            shuffle=True,
            drop_last=False,
            item_shuffle_window="full",
        )
        yield from litdata.StreamingDataLoader(data, batch_size=self.rows.batch, num_workers=0)


class Mosaic:
    """mosaicml-streaming: MDS shards of rows as bytes, `py1e` over a block of rows."""

    def __init__(self, rows: Rows, folder: Path) -> None:
        streaming = mosaic()
        self.path, self.rows = folder / "mosaic", rows
        words = rows.words()
        size = rows.shard * (rows.width * 2 + 8)  # a row is stored with two sizes
        with streaming.MDSWriter(
            out=str(self.path), columns={"x": "bytes"}, size_limit=size
        ) as file:
            for row in range(rows.count):
                file.write({"x": words[row].tobytes()})

    def epoch(self) -> Iterator[torch.Tensor]:
        streaming, rows = mosaic(), self.rows
        streaming.base.util.clean_stale_shared_memory()
        data = streaming.StreamingDataset(
            local=str(self.path),
            shuffle=True,
            shuffle_algo="py1e",
            shuffle_block_size=rows.buffer,
            num_canonical_nodes=1,
            batch_size=rows.batch,
        )

        def joined(samples: list[dict[str, bytes]]) -> torch.Tensor:
            return from_bytes([one["x"] for one in samples], rows.width)

        yield from DataLoader(data, batch_size=rows.batch, collate_fn=joined)


def mosaic() -> Any:
    """Import streaming without its vision part, which wants a torchvision that loads."""
    sys.modules.setdefault("streaming.vision", types.ModuleType("streaming.vision"))
    import streaming

    return streaming


class TensorDict:
    """A tensordict memory-mapped tensor, indexed by a permutation of all rows."""

    def __init__(self, rows: Rows, folder: Path) -> None:
        from tensordict import TensorDict

        self.path, self.rows = folder / "tensordict", rows
        self.path.mkdir()
        values = of_bits(rows.words())
        TensorDict({"x": values}, batch_size=[rows.count]).memmap(str(self.path))

    def epoch(self) -> Iterator[torch.Tensor]:
        from tensordict import TensorDict

        data = TensorDict.load_memmap(str(self.path))
        order, batch = torch.randperm(self.rows.count), self.rows.batch
        for start in range(0, self.rows.count - batch + 1, batch):
            yield data[order[start : start + batch]]["x"]


PEERS: dict[str, tuple[Callable[[Rows, Path], Peer], tuple[str, ...]]] = {
    "SAELens store": (SaeLens, ("sae_lens", "datasets")),
    "HF iterable + shuffle": (HfIterable, ("datasets",)),
    "HF map + DataLoader": (HfMap, ("datasets",)),
    "webdataset": (WebDataset, ("webdataset",)),
    "litdata": (LitData, ("litdata",)),
    "mosaicml-streaming": (Mosaic, ("streaming",)),
    "tensordict memmap": (TensorDict, ("tensordict",)),
}
"""Every peer and the modules that it needs."""
