"""Several sites of one shape as one tensor: [layers, examples, positions, *row], read lazily."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch

from lazycache.cache.memory.feeding import Feeding
from lazycache.cache.memory.loading import as_numpy
from lazycache.cache.memory.loads import CHUNK_BYTES
from lazycache.cache.stacks.stack_index import parted
from lazycache.cache.stacks.stack_members import Member, members_of
from lazycache.cache.stacks.stack_operators import StackOperators
from lazycache.cache.stacks.stack_reductions import StackReductions
from lazycache.cache.tensor.lazy_tensor import LazyTensor
from lazycache.cache.tensor.ragged_tensor import RaggedTensor
from lazycache.errors import SelectionError
from lazycache.faces.html import Html, card


class LazyStack(Feeding, StackReductions, StackOperators):
    """Tensors of one shape and of the same rows, one behind the other in a new first dimension.

    What `cache.stack("resid_out_*")` gives. It is indexed as a torch tensor; layers also by name,
    `x["resid_out_3"]`, `x[["resid_out_3", "resid_out_5"]]`. One layer is a `LazyTensor`. Nothing is
    read before it is used: an index, an operator, `.to` and what keeps every row are lazy; a torch
    function and an aggregate over rows give numbers.

    Raises:
        SelectionError: values that are no tensors, or that differ in shape or in their examples;
            names them.

    Example:
        >>> stack = LazyStack({"a": torch.zeros(3, 2), "b": torch.ones(3, 2)})
        >>> stack.shape, stack["b"][0].load(), stack[:, 0].load().tolist()
        (torch.Size([2, 3, 2]), tensor([1., 1.]), [[0.0, 0.0], [1.0, 1.0]])
    """

    __slots__ = ("_members", "_names")

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._members = members_of(values)
        self._names = tuple(values)

    def _of(self, members: Sequence[Member], names: Sequence[str] | None = None) -> Self:
        made = object.__new__(type(self))
        made._members = tuple(members)
        made._names = self._names if names is None else tuple(names)
        return made

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the layers, in order."""
        return self._names

    @property
    def members(self) -> tuple[Member, ...]:
        """The layers, in order."""
        return self._members

    @property
    def shape(self) -> torch.Size:
        """Shape; positions are those of the longest example."""
        return torch.Size((len(self._members), *self._members[0].shape))

    @property
    def ndim(self) -> int:
        """How many dimensions."""
        return 1 + self._members[0].ndim

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of what a load returns."""
        return self._members[0].dtype

    @property
    def device(self) -> torch.device:
        """Device of what a load returns."""
        return self._members[0].device

    @property
    def nbytes(self) -> int:
        """Bytes of the selected values of all layers, padding not counted."""
        return sum(member.nbytes for member in self._members)

    @property
    def budget_bytes(self) -> int:
        """What an implicit load (a torch function, `np.asarray`) may take. For this package."""
        return min(member.budget_bytes for member in self._members)

    @property
    def lengths(self) -> np.ndarray:
        """Rows of each example, the same in all layers: int64[examples]."""
        return self._members[0].lengths

    @property
    def is_ragged(self) -> bool:
        """Whether examples differ in length."""
        return self._members[0].is_ragged

    @property
    def rows(self) -> LazyStack:
        """All selected rows of each layer in one dimension: [layers, rows, *row]."""
        return self._of([member.rows for member in self._members])

    def __getitem__(self, index: Any) -> Any:
        chosen = parted(index, self._names, self.ndim)
        if isinstance(chosen.layers, int):
            return self._part(chosen.layers, chosen.rest)
        parts = [self._part(layer, chosen.rest) for layer in chosen.layers]
        return self._of(parts, [self._names[layer] for layer in chosen.layers])

    def _part(self, layer: int, index: tuple[Any, ...]) -> Member:
        member = self._members[layer]
        return member[index] if index else member

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Member]:
        """Yield the layers, lazy themselves."""
        return iter(self._members)

    def __repr__(self) -> str:
        return f"LazyStack({len(self)} layers, {self._span}: each {self._members[0]!r})"

    def _repr_html_(self) -> str:
        """Say the same in a notebook. All text is escaped. Reads nothing."""
        each = self._members[0]._repr_html_()
        return card(f"{len(self)} layers, {self._span}", Html(f"each {each}"), kind="LazyStack")

    @property
    def _span(self) -> str:
        first, last = self._names[0], self._names[-1]
        return first if len(self) == 1 else f"{first} to {last}"

    def to(self, *args: Any, **options: Any) -> LazyStack:
        """Return it with another dtype, device, or both; as `LazyTensor.to`."""
        return self._of([member.to(*args, **options) for member in self._members])

    def load(self, device: torch.device | str | None = None) -> torch.Tensor:
        """Read the selection into a tensor: [layers, examples, positions, *row].

        Cost: one allocation, into which the layers are read one after the other.

        Raises:
            SelectionError: examples differ in length, or a site does not have some of the rows.

        Example:
            >>> from lazycache.samples import small_cache
            >>> small_cache().stack("resid_out_*")[:, 2, 0].load()
            tensor([[10., 11.]])
        """
        return self._filled(lambda member: member.load(device))

    def padded(self, value: float = 0, **options: Any) -> torch.Tensor:
        """Read the selection, shorter examples filled up with `value`, as `LazyTensor.padded`.

        Example:
            >>> from lazycache.samples import small_cache
            >>> small_cache().stack("resid_out_*")[..., 0].padded(-1).shape
            torch.Size([1, 3, 3])
        """
        return self._filled(lambda member: member.padded(value, **options))

    def _filled(self, read: Callable[[Member], torch.Tensor]) -> torch.Tensor:
        first = read(self._members[0])
        if len(self) == 1:
            return first[None]
        filled = first.new_empty((len(self), *first.shape))
        filled[0] = first
        del first
        for place, member in enumerate(self._members[1:], start=1):
            filled[place] = read(member)
        return filled

    def chunks(self, bytes: int = CHUNK_BYTES) -> Iterator[torch.Tensor]:  # noqa: A002  # a unit
        """Yield the rows of all layers in tensors of at most `bytes` bytes: [layers, rows, *row].

        At least a row of each layer at a time.

        Cost: one such tensor at a time; as `load` for each.

        Raises:
            SelectionError: of attention patterns, whose rows differ in width.

        Example:
            >>> from lazycache.samples import small_cache
            >>> [tuple(t.shape) for t in small_cache().stack("resid_*").chunks(bytes=32)]
            [(1, 4, 2), (1, 2, 2)]
        """
        rows = [member for member in self._members if isinstance(member, LazyTensor)]
        if not rows:
            raise SelectionError("rows of attention patterns differ in width: take each layer's.")
        for parts in zip(*(member.chunks(bytes // len(self)) for member in rows), strict=True):
            yield torch.stack(parts)

    def numpy(self) -> np.ndarray:
        """Read the selection into an array; bfloat16 and float8 as float32, which is exact.

        Example:
            >>> from lazycache.samples import small_cache
            >>> small_cache().stack("resid_out_*").rows[:, :2, 0].numpy()
            array([[0., 2.]], dtype=float32)
        """
        return as_numpy(self.to("cpu").load())

    def restacked(self, results: Sequence[Any]) -> Any:
        """Return a result of each layer as one: lazy if they are. For this package."""
        if all(isinstance(result, (LazyTensor, RaggedTensor)) for result in results):
            return self._of(results)
        return torch.stack([torch.as_tensor(result) for result in results])

    def only(self, name: str, result: Any) -> torch.Tensor | LazyStack:
        """Return a result over all layers with the dimension of the layers. For this package."""
        return result[None] if isinstance(result, torch.Tensor) else self._of([result], [name])
