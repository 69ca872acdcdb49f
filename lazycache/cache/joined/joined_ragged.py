"""Ragged tensors one behind the other: rows of their own width, read where they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property, reduce
from typing import Any

import numpy as np
import torch

from lazycache.cache.computing.row_spaces import number_rows
from lazycache.cache.files.gather import words_of
from lazycache.cache.files.ragged_rows import Block, Wanted
from lazycache.cache.joined.joined_rows import JoinedRows, Part, part_of_lead
from lazycache.cache.reading.row_reader import WorkedOut
from lazycache.cache.reading.source import Source
from lazycache.cache.selecting.along import Along
from lazycache.cache.selecting.examples import ExampleMap
from lazycache.cache.selecting.plan import Rows, as_array
from lazycache.cache.selecting.ragged_selection import ExampleGroups, RaggedSelection
from lazycache.cache.selecting.selection import Grid
from lazycache.cache.selecting.units import Units
from lazycache.cache.tensor.ragged_tensor import RaggedTensor
from lazycache.codec.dtypes import by_name, of_torch
from lazycache.errors import SelectionError
from lazycache.types import SiteSpec


class JoinedRaggedReader(WorkedOut):
    """Rows of ragged tensors of as many heads each. Thread-safe, as their readers are."""

    def __init__(self, parts: Sequence[RaggedTensor], spec: SiteSpec) -> None:
        self.parts = tuple(parts)
        """The tensors."""
        self.spec = spec
        """What a row is."""

    def __reduce__(self) -> tuple[Any, ...]:
        return JoinedRaggedReader, (self.parts, self.spec)

    @cached_property
    def rows(self) -> JoinedRows:
        """How rows are numbered; worked out when first asked for."""
        return JoinedRows([_part(x) for x in self.parts])

    def examples(self) -> ExampleMap:
        """Return the examples of all parts, in order."""
        return self._examples

    @cached_property
    def _examples(self) -> ExampleMap:
        return self.rows.examples()

    def covered(self, site: str, rows: np.ndarray) -> np.ndarray:  # noqa: ARG002  # one site
        """Return for each row whether there is one: bool[n]. Reads nothing."""
        there = np.zeros(np.shape(rows), dtype=np.bool_)
        for number, members, mine in self.rows.split(rows):
            x = self.parts[number]
            there[members] = x.source.reader.covered(x.site, as_array(mine))
        return there

    def covered_spans(self, site: str) -> tuple[np.ndarray, np.ndarray]:  # noqa: ARG002  # one site
        """Return first rows and stops of the runs of rows that there are."""
        examples = self.examples()
        sizes = np.diff(np.append(examples.logical, examples.total))
        return examples.stored, examples.stored + sizes

    def widths(self, site: str, rows: np.ndarray) -> np.ndarray:  # noqa: ARG002  # one site
        """Return the width of each row: int64[n]; as the parts' own readers."""
        found = np.empty(len(rows), dtype=np.int64)
        for number, members, mine in self.rows.split(rows):
            x = self.parts[number]
            found[members] = x.source.reader.widths(x.site, as_array(mine))
        return found

    def ragged(self, site: str, wanted: Wanted) -> Iterator[Block]:  # noqa: ARG002  # one site
        """Yield values of rows in blocks to be copied and dropped; as the parts' own readers."""
        owner = np.searchsorted(self.rows.starts, wanted.rows, side="right") - 1
        cuts = np.flatnonzero(owner[1:] != owner[:-1]) + 1
        for start, stop in zip([0, *cuts.tolist()], [*cuts.tolist(), len(owner)], strict=True):
            if start < stop:
                yield from self._of_part(int(owner[start]), wanted, start, stop)

    def _of_part(self, number: int, wanted: Wanted, start: int, stop: int) -> Iterator[Block]:
        x = self.parts[number]
        own = self.rows.parts[number].own(wanted.rows[start:stop] - self.rows.starts[number])
        mine = replace(
            wanted,
            rows=as_array(own),
            owner=wanted.owner[start:stop],
            heads=x.selection.heads.reshape(-1)[wanted.heads],
        )
        stored = by_name(x.source.spec.dtype).torch
        conversions = (*x.conversions, by_name(self.spec.dtype).torch)
        for block in x.source.reader.ragged(x.site, mine):
            values = block.values
            if set(conversions) != {stored}:
                values = _converted(values, stored, conversions)
            yield replace(block, at=block.at + start, values=values)

    def read(self, site: str, rows: Rows, *, units: tuple[Any, ...] | Units = ()) -> torch.Tensor:  # noqa: ARG002  # refused
        """Refuse: rows differ in width."""
        raise SelectionError(f"rows of {site!r} differ in width: read them with .ragged().")


def _converted(
    values: np.ndarray, stored: torch.dtype, conversions: Sequence[torch.dtype]
) -> np.ndarray:
    signed = np.ascontiguousarray(values).view(
        f"i{stored.itemsize}" if stored.itemsize > 1 else "u1"
    )
    if not signed.flags.writeable:
        signed = signed.copy()
    return words_of(reduce(torch.Tensor.to, conversions, torch.from_numpy(signed).view(stored)))


def _part(x: RaggedTensor) -> Part:
    """Return the rows of the examples of a part, whatever is selected of their queries."""
    groups, numbers = x.selection.groups, x.selection.numbers
    assert isinstance(groups, ExampleGroups), "checked when they were joined"
    known = groups.map
    if np.array_equal(numbers, np.arange(len(groups))):
        return part_of_lead(Grid(known, range(len(groups))))
    rows = groups.rows(numbers)
    anew = number_rows(rows, groups.lengths(numbers), known.run[numbers], known.example[numbers])
    assert isinstance(anew.lead, Grid), "of examples"
    return Part(anew.lead.map, len(rows), 0, anew.of(rows))


def join_ragged(parts: Sequence[Any]) -> RaggedTensor:
    """Return ragged tensors one behind the other; see `join.join`."""
    from lazycache.cache.joined.join import origins_of, urls_of

    tensors = _checked(parts)
    if len(tensors) == 1:
        return tensors[0]
    first, heads = tensors[0], tensors[0].selection.heads.size
    known = of_torch(reduce(torch.promote_types, (x.dtype for x in tensors)))
    spec = replace(
        first.source.spec, dtype=known.name, shape=(heads, -1), row_bytes=heads * known.itemsize
    )
    reader = JoinedRaggedReader(tensors, spec)
    source = Source(
        reader,
        spec,
        urls_of(tensors),
        reader.examples,
        min(x.budget_bytes for x in tensors),
        origins=origins_of(tensors, reader),
    )
    device = None if first.device.type == "cpu" else first.device
    chosen = first.selection
    # queries and keys are selected of the joined examples as they were of each part
    selection = replace(
        RaggedSelection.of_examples(reader.examples(), heads=heads),
        heads=np.arange(heads).reshape(chosen.heads.shape),
        queries=chosen.queries,
        keys=chosen.keys,
    )
    return RaggedTensor(source, selection=selection, device=device)


def _checked(parts: Sequence[Any]) -> list[RaggedTensor]:
    first = parts[0]
    for number, x in enumerate(parts):
        if not isinstance(x, RaggedTensor) or not isinstance(first, RaggedTensor):
            odd = number if isinstance(first, RaggedTensor) else 0
            raise SelectionError(f"part {odd} is not ragged, and others are: {parts[odd]!r}.")
        if not isinstance(x.selection.groups, ExampleGroups) or x.selection.removed[0]:
            raise SelectionError(
                f"part {number}, {x!r}, is not of several examples: x[3:4] is, and x.rows of what "
                "was joined are its rows."
            )
        if not _alike(x, first):
            raise SelectionError(
                f"part {number} cannot be joined behind part 0: other numbers of heads, other "
                f"selections of queries or keys, or another device. Join first, then select: {x!r} "
                f"and {first!r}."
            )
    return [one for x in parts for one in _parts_of(x)]


def _alike(x: RaggedTensor, y: RaggedTensor) -> bool:
    a, b = x.selection, y.selection
    heads = a.heads.shape == b.heads.shape and x.device == y.device
    return heads and _same(a.queries, b.queries) and _same(a.keys, b.keys)


def _same(a: Along, b: Along) -> bool:
    if a.places is None or b.places is None:
        return a.windows == b.windows and a.places is b.places
    return a.windows == b.windows and np.array_equal(a.places, b.places)


def _parts_of(x: RaggedTensor) -> list[RaggedTensor]:
    """Return the parts of what was joined, if all of it is selected; else itself."""
    reader, chosen = x.source.reader, x.selection
    whole = (
        isinstance(reader, JoinedRaggedReader)
        and isinstance(chosen.groups, ExampleGroups)
        and chosen.groups.map is x.source.examples()
        and np.array_equal(chosen.examples, np.arange(len(chosen.groups)))
        and np.array_equal(chosen.heads, np.arange(x.source.spec.shape[0]))
        and chosen.queries.is_whole
        and chosen.keys.is_whole
    )
    if not whole or not isinstance(reader, JoinedRaggedReader):
        return [x]
    return [part.to(dtype=x.dtype, device=x.device) for part in reader.parts]
