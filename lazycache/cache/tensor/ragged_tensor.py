"""Attention patterns as a tensor that is read when it is used: (examples, heads, query, key).

Examples differ in how many queries and keys they have, so nothing here is padded until a dense
tensor of several examples is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import torch

from lazycache.cache.computing.operators import Operators
from lazycache.cache.computing.torch_names import TorchNames
from lazycache.cache.memory.feeding import Feeding
from lazycache.cache.memory.lazy_base import LazyBase
from lazycache.cache.memory.loading import Side, as_numpy, check_fill, check_side, in_memory
from lazycache.cache.memory.ragged_loading import each, extents, stacked
from lazycache.cache.reading.source import Source
from lazycache.cache.selecting.indexing import expand, normalise
from lazycache.cache.selecting.ragged_selection import ExampleGroups, RaggedSelection
from lazycache.cache.tables.row_queries import RaggedRowQueries
from lazycache.cache.tensor.ragged_reductions import RaggedReductions
from lazycache.errors import SelectionError


class RaggedTensor(Feeding, RaggedReductions, Operators, RaggedRowQueries, TorchNames, LazyBase):
    """A site whose rows differ in width, not in memory: (examples, heads, query, key).

    `x[3]` is one example, a tensor [heads, query, key]; `x[3, 0]` its first head. Queries are the
    example's stored rows, keys the tokens that the model saw of it. Both count inside each example,
    as Python counts: `x[:, :, -1]` is the last query of each. `shape` has the most of each;
    `lengths` and `widths` say how many each example has.

    A row has a value for each key that its forward pass knew. Of a causal model these are all
    tokens of the example, with zeros for what comes later; a token that was generated knows those
    before it only, and the others of its example, which it did not attend to, read as 0.

    `.rows` are all rows in storage order, each with its own keys. Indexing reads nothing; `shape`,
    `widths` and `nbytes` read how wide the rows are: four bytes a row, once. A torch function, an
    operator or an aggregate loads the selection, within a budget.
    """

    def __init__(
        self,
        source: Source,
        *,
        selection: RaggedSelection | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
        through: tuple[torch.dtype, ...] = (),
    ) -> None:
        super().__init__(source, dtype, device)
        self._selection = selection
        self._through = through

    @property
    def selection(self) -> RaggedSelection:
        """What is selected. For this package."""
        if self._selection is None:
            heads = self._source.spec.shape[0]
            examples = self._source.examples()
            self._selection = RaggedSelection.of_examples(examples, heads=heads)
        return self._selection

    @property
    def conversions(self) -> tuple[torch.dtype, ...]:
        """What stored values are converted to, one after the other. For this package."""
        return (*self._through, self.dtype)

    @property
    def shape(self) -> torch.Size:
        """Shape, with the most queries and keys of an example. Reads widths."""
        chosen = self.selection
        heads, queries = chosen.heads.size, int(chosen.lengths.max(initial=0))
        keys = 1 if chosen.keys.removed else int(self._keys.max(initial=0))
        sizes = (len(chosen.numbers), heads, queries, keys)
        return torch.Size(n for n, gone in zip(sizes, chosen.removed, strict=True) if not gone)

    @property
    def ndim(self) -> int:
        """How many dimensions."""
        return 4 if self._selection is None else 4 - sum(self._selection.removed)

    @property
    def nbytes(self) -> int:
        """Bytes of the selected values of all examples, padding not counted. Reads widths."""
        chosen = self.selection
        values = int((chosen.lengths * self._keys).sum())
        return values * chosen.heads.size * self.dtype.itemsize

    @property
    def lengths(self) -> np.ndarray:
        """Queries of each entry of the first dimension: int64[n]. Reads nothing.

        Raises:
            SelectionError: one example is selected, whose queries `shape` says.
        """
        self._check_several("lengths")
        return self.selection.lengths.copy()

    @property
    def widths(self) -> np.ndarray:
        """Keys of each entry of the first dimension: int64[n]. Reads four bytes for every row.

        Raises:
            SelectionError: one example is selected, whose keys `shape` says.
        """
        self._check_several("widths")
        return self._keys.copy()

    @property
    def is_ragged(self) -> bool:
        """Whether examples differ in their queries or keys. Reads widths."""
        lengths, keys = self.selection.lengths, self._keys
        return bool((lengths != lengths[:1]).any() or (keys != keys[:1]).any())

    @property
    def covered(self) -> np.ndarray:
        """Whether the site has rows of the entries of the first dimension: bool[n]."""
        covered: np.ndarray = self.lengths > 0
        return covered

    @property
    def rows(self) -> RaggedTensor:
        """All selected rows in storage order, one by one: (rows, heads, key).

        Keys count inside the row: `x.rows[7]` is [heads, width of row 7].

        Raises:
            SelectionError: keys were selected, which are those of the examples.
        """
        return self._view(self.selection.by_row())

    def __getitem__(self, index: Any) -> RaggedTensor:
        parts = expand(normalise(in_memory(index)), self.ndim)
        return self._view(self.selection.index(parts))

    def _view(self, selection: RaggedSelection) -> RaggedTensor:
        return RaggedTensor(
            self._source,
            selection=selection,
            dtype=self._dtype,
            device=self._device,
            through=self._through,
        )

    def __len__(self) -> int:
        if not self.ndim:
            raise SelectionError("a single value has no length: .load().item() is the number.")
        chosen = self.selection
        return len(chosen.numbers) if not chosen.removed[0] else self.shape[0]

    def __iter__(self) -> Iterator[RaggedTensor]:
        """Yield the entries of the first dimension, lazy themselves."""
        return (self[i] for i in range(len(self)))

    def _extent(self) -> tuple[list[str], int | None]:
        chosen = self.selection
        # how many keys there are would have to be read
        sizes = (len(chosen.numbers), chosen.heads.size, int(chosen.lengths.max(initial=0)), "keys")
        shown = [str(n) for n, gone in zip(sizes, chosen.removed, strict=True) if not gone]
        if not chosen.removed[2] and (chosen.lengths != chosen.lengths[:1]).any():
            shown[-1 if chosen.removed[3] else -2] = f"≤{sizes[2]}"
        return shown, None

    def _read_as(self, dtype: torch.dtype | None, device: torch.device | None) -> RaggedTensor:
        through = self._through
        if self._dtype is not None and dtype != self._dtype:
            # as in torch: what the one dtype has rounded, another one does not bring back
            through = self.conversions
        return RaggedTensor(
            self._source, selection=self._selection, dtype=dtype, device=device, through=through
        )

    def _selected(self) -> dict[str, Any]:
        chosen = self._selection
        fields: dict[str, Any] = {"through": self._through}
        if chosen is None:
            return fields
        fields |= {name: getattr(chosen, name) for name in ("examples", "heads", "queries", "keys")}
        if _of_all(chosen, self._source):
            # these groups are there where the dataset is opened
            return fields
        return {**fields, "groups": chosen.groups}

    @classmethod
    def _restored(cls, source: Source, selected: dict[str, Any]) -> RaggedTensor:
        through = selected["through"]
        fields = {name: value for name, value in selected.items() if name != "through"}
        if not fields:
            return cls(source, through=through)
        if "groups" not in fields:
            fields["groups"] = ExampleGroups(source.examples())
        return cls(source, selection=RaggedSelection(**fields), through=through)

    def load(self, device: torch.device | str | None = None) -> torch.Tensor:
        """Read the selection into a tensor: of one example [heads, query, key].

        Several examples are stacked where they have as many queries and keys as each other. Keys
        that a row does not have (see the class) are 0.

        Cost: one allocation and one copy of what is selected, and the widths of the chunks it is
        in. Other examples are not read; of local data other heads are not either.

        Raises:
            SelectionError: examples differ in queries or keys, or an example has not got one that
                is asked for.

        Example:
            >>> from lazycache.samples import pattern_cache
            >>> pattern_cache()["pattern_0"][1, 0].load()  # example 1, head 0: queries by keys
            tensor([[1.0000, 0.0000, 0.0000],
                    [0.5000, 0.5000, 0.0000],
                    [0.3333, 0.3333, 0.3333]])
        """
        if device is not None:
            return self.to(device).load()
        if self.is_ragged:
            raise SelectionError(
                f"{self!r} has examples with different numbers of queries or keys, which no dense "
                "tensor holds. Use x.padded(value), x[i] (one example), x.rows, or x.chunks()."
            )
        return self._dense(fill=0)

    def padded(self, value: float = 0, side: Side = "right") -> torch.Tensor:
        """Read the selection, examples filled up with `value` at the end of queries and of keys.

        With `side="left"` at their begin. Shape is `x.shape`; dtype that of `x`. Inside an example,
        keys that a row does not have are 0 (not attended to), as in `load`.

        Cost: the padded tensor, and the values of a batch of examples at a time.

        Raises:
            SelectionError: `value` is no number that the dtype holds, or `side` no side.

        Example:
            >>> from lazycache.samples import pattern_cache
            >>> pattern_cache()["pattern_0"][:, 0, -1].padded(-1)  # the last query of each example
            tensor([[ 0.5000,  0.5000, -1.0000],
                    [ 0.3333,  0.3333,  0.3333],
                    [ 1.0000, -1.0000, -1.0000]])
        """
        check_fill(value, self.dtype)
        check_side(side)
        return self._dense(fill=value, side=side)

    def _dense(self, *, fill: float, side: Side = "right") -> torch.Tensor:
        chosen = self.selection
        if len(chosen.numbers) == 1:
            (values,) = each(self._source, chosen, self._sizes, self.conversions)
            dense = values[None]
        else:
            left = side == "left"
            dense = stacked(
                self._source, chosen, self._sizes, self.conversions, fill=fill, left=left
            )
        return self._cut(dense.to(self.device))

    def _cut(self, values: torch.Tensor) -> torch.Tensor:
        """Drop the dimensions that are gone from [examples, heads, queries, keys]."""
        return values[tuple(0 if gone else slice(None) for gone in self.selection.removed)]

    def numpy(self) -> np.ndarray:
        """Read the selection into an array; bfloat16 and float8 as float32, which is exact.

        Shape, cost and errors as `load`.

        Example:
            >>> from lazycache.samples import pattern_cache
            >>> pattern_cache()["pattern_0"][0, :, 1, 0].numpy()  # both heads, query 1, key 0
            array([0.5, 0. ], dtype=float32)
        """
        return as_numpy(self.to("cpu").load())

    def chunks(self) -> Iterator[torch.Tensor]:
        """Yield what is selected of each example, or row, in order: [heads, query, key].

        Cost: examples of up to 64 MB, or one, are in memory at a time.

        Example:
            >>> from lazycache.samples import pattern_cache
            >>> [tuple(values.shape) for values in pattern_cache()["pattern_0"].chunks()]
            [(2, 2, 2), (2, 3, 3), (2, 1, 1)]
        """
        for values in each(self._source, self.selection, self._sizes, self.conversions):
            cut = self._cut(values.to(self.device)[None])
            yield cut if self.selection.removed[0] else cut[0]

    @cached_property
    def _sizes(self) -> np.ndarray:
        """int64[n]: keys of each selected example, before any are selected."""
        return extents(self._source, self.selection)

    @property
    def _keys(self) -> np.ndarray:
        """int64[n]: selected keys of each selected example."""
        return self.selection.keys.counts(self._sizes)

    def _check_several(self, what: str) -> None:
        if self.selection.removed[0]:
            raise SelectionError(f"{self!r} is of one example and has no {what}: see .shape.")


def _of_all(chosen: RaggedSelection, source: Source) -> bool:
    """Whether the rows are grouped by the examples of the source."""
    return isinstance(chosen.groups, ExampleGroups) and chosen.groups.map is source.examples()
