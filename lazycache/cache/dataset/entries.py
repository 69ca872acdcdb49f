"""Values that were stored beside the sites, read when they are asked for."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np

from lazycache.cache.reading.reader import Reader
from lazycache.cache.reading.source import Source
from lazycache.cache.selecting.examples import ExampleMap, of_lengths, one_row_each
from lazycache.cache.selecting.selection import Dense, Grid
from lazycache.cache.tensor.lazy_tensor import LazyTensor
from lazycache.cache.values.tree_values import Decoder
from lazycache.catalog.snapshot import PlacedShard
from lazycache.codec.dtypes import by_name
from lazycache.errors import CorruptShardError, SelectionError
from lazycache.storage.known_files import KnownFiles
from lazycache.storage.store import Store
from lazycache.types import EXAMPLES, TOKENS, EntryRef, IoCounters, ShardRef, SiteSpec, TensorRef

_MARK = "\N{NO-BREAK SPACE}"
"""Before the number of a further tensor of a value: no name has it."""


class Entries:
    """The stored values of a snapshot, by name. Thread-safe.

    A tensor is a lazy tensor; what is a list, a number or a text is read whole. Tensors inside of
    others are `torch.Tensor`s: of a local dataset private maps, as `LazyTensor.load` gives them.
    """

    def __init__(
        self,
        store: Store,
        refs: Mapping[str, EntryRef],
        *,
        files: KnownFiles,
        io: IoCounters,
        check: bool,
        budget_bytes: int,
        reopen: Callable[[], Any] | None,
    ) -> None:
        self._store = store
        self._refs = refs
        self._io = io
        self._budget_bytes = budget_bytes
        self._reopen = reopen
        self._tensors = _TensorFiles(refs)
        self.reader = Reader(store, self._tensors, io=io, check=check, files=files)
        """Reads the rows of the tensors' files."""

    def value(self, name: str) -> Any:
        """Return a value.

        Cost: of a tensor nothing is read; else its tree and all tensors in it.

        Raises:
            CorruptShardError: a file is not what the log recorded.
            StorageError: the store failed.
        """
        ref = self._refs[name]
        if ref.path is None:
            return self._lazy(ref, 0)
        # one tensor that was there twice is one again
        tensor = cache(lambda number: self._lazy(ref, number).load())
        decoder = Decoder(tensor, ragged=partial(self._ragged, ref))
        try:
            return decoder.parsed(self._tree(ref, ref.path))
        except CorruptShardError as exc:
            raise CorruptShardError(f"entry {name!r} of {self._store.url}: {exc}") from exc

    def tensor(self, site: str) -> LazyTensor:
        """Return the tensor that is called `site` as what a lazy tensor reads. For unpickling.

        Raises:
            SelectionError: there is none of that name.
        """
        name, _, number = site.partition(_MARK)
        if name not in self._refs:
            raise SelectionError(f"{self._store.url} has no value {name!r} beside its sites.")
        ref = self._refs[name]
        whole = self.value(name) if ref.path is not None and not number else None
        # of examples that differ in length: only its tree says how
        return whole if isinstance(whole, LazyTensor) else self._lazy(ref, int(number or 0))

    def close(self) -> None:
        """Drop the file maps; tensors that were loaded stay."""
        self.reader.close()

    def _tree(self, ref: EntryRef, path: str) -> bytes:
        try:
            (text,) = self._store.get_ranges(path, [(ref.start, ref.start + ref.length)])
        except FileNotFoundError as exc:
            raise CorruptShardError(f"{path} is missing.") from exc
        self._io.add(requests=1, rows=0, nbytes=len(text))
        if len(text) != ref.length or zlib.crc32(text) != ref.crc:
            raise CorruptShardError(
                f"{path} does not have the checksum that was recorded when it was written: restore "
                "the file from a copy."
            )
        return text

    def _lazy(self, ref: EntryRef, number: int) -> LazyTensor:
        tensor = _nth(ref, number)
        count = math.prod(tensor.shape[: tensor.lead])
        rows: range | np.ndarray = range(count)
        if tensor.lead != 1:
            self._check_length(tensor)
            rows = np.arange(count).reshape(tensor.shape[: tensor.lead])

        @cache  # its numbers take eight times the bytes of a tensor of bytes: seldom needed
        def examples() -> ExampleMap:
            self._check_length(tensor)
            return one_row_each(count)

        return LazyTensor(self._source(ref, number, examples), lead=Dense(rows))

    def _check_length(self, tensor: TensorRef) -> None:
        """Refuse a tensor whose file is shorter, before memory for so many rows is taken."""
        if tensor.path is None:
            return
        try:
            there = self._store.size(tensor.path)
        except FileNotFoundError as exc:
            raise CorruptShardError(f"{tensor.path} of {self._store.url} is missing.") from exc
        if there != tensor.length:
            raise CorruptShardError(
                f"{tensor.path} of {self._store.url} has {there:,} bytes; the log recorded "
                f"{tensor.length:,}. Restore the file from a copy."
            )

    def _ragged(self, ref: EntryRef, number: int, lengths: list[int]) -> LazyTensor:
        tensor, counts = _nth(ref, number), np.array(lengths, dtype=np.int64)
        if tensor.lead != 1 or sum(lengths) != tensor.shape[0]:
            raise CorruptShardError(f"lengths of {sum(lengths)} rows for a tensor {tensor.shape}")
        examples = of_lengths(counts)
        source = self._source(ref, number, lambda: examples)
        source = replace(source, spec=replace(source.spec, table=TOKENS))
        return LazyTensor(source, lead=Grid(examples, range(len(counts))))

    def _source(self, ref: EntryRef, number: int, examples: Callable[[], ExampleMap]) -> Source:
        return Source(
            reader=self.reader,
            spec=self._tensors.sites[_site(ref.name, number)],
            url=self._store.url,
            examples=examples,
            budget_bytes=self._budget_bytes,
            reopen=self._reopen,
        )


def _nth(ref: EntryRef, number: Any) -> TensorRef:
    if type(number) is not int or not 0 <= number < len(ref.tensors):
        raise CorruptShardError(f"there is no tensor {number!r:.80} of {len(ref.tensors)}")
    return ref.tensors[number]


def _site(name: str, number: int) -> str:
    return name if number == 0 else f"{name}{_MARK}{number}"


class _TensorFiles:
    """The tensors as sites of one shard each: what a `Reader` reads."""

    def __init__(self, refs: Mapping[str, EntryRef]) -> None:
        self._refs = {
            _site(name, i): tensor
            for name, ref in refs.items()
            for i, tensor in enumerate(ref.tensors)
        }
        self.sites = {name: _spec(name, tensor) for name, tensor in self._refs.items()}
        """What a row of each tensor is."""

    def shards(self, site: str) -> tuple[PlacedShard, ...]:
        """Return the file of a tensor."""
        tensor = self._refs[site]
        if tensor.path is None:
            return ()
        rows = sum(chunk.rows for chunk in tensor.chunks)
        ref = ShardRef(site, tensor.path, tensor.length, rows, 0, None, tensor.chunks)
        return (PlacedShard(ref, 0, version=0),)


def _spec(name: str, tensor: TensorRef) -> SiteSpec:
    shape = tensor.shape[tensor.lead :]
    row_bytes = math.prod(shape) * by_name(tensor.dtype).itemsize
    return SiteSpec(name, EXAMPLES, tensor.dtype, shape, row_bytes)
