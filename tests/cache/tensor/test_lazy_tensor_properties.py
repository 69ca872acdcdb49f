"""Lazy tensors against torch, which is assumed to be right: any index, dtype, chunk, shard, run."""

from functools import cache
from itertools import count

import numpy as np
import pytest
import torch
from cache_helpers import Dataset, same_bits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from index_helpers import arrays, indices, masks, slices, torch_index

from lazycache.cache.files.gather import as_tensor, words_of
from lazycache.cache.selecting.selection import Grid
from lazycache.cache.tensor.lazy_tensor import LazyTensor
from lazycache.codec.dtypes import DTYPES
from lazycache.errors import SelectionError
from lazycache.storage.open_store import open_store

SHAPE = (3, 4)
UNITS = 12
UNIFORM = ((4,) * 7, (5, 2, 0, 6, 1, 4, 3))
RAGGED = ((3, 1, 5, 2, 4, 1, 6), (6, 0, 3, 1, 5, 4, 2))
dtypes = st.sampled_from([row.torch for row in DTYPES])
urls = count()


def random_values(rows: int, dtype: torch.dtype) -> torch.Tensor:
    """Bits of every kind, NaN payloads included; of bools, bools."""
    generator = np.random.default_rng(rows)
    raw = generator.integers(0, 256, size=rows * UNITS * dtype.itemsize, dtype=np.uint8)
    if dtype == torch.bool:
        raw &= 1
    return as_tensor(raw, dtype, (rows, *SHAPE))


@cache
def stored(
    dtype: torch.dtype, lengths: tuple[int, ...], order: tuple[int, ...]
) -> tuple[LazyTensor, torch.Tensor, tuple[np.ndarray, ...]]:
    """Return a lazy tensor, its values as written, and the rows of each example in order.

    Examples come in any order, in two pieces of two commits and runs, in shards of 10 and chunks of
    3 rows.
    """
    dataset = Dataset(
        open_store(f"memory://properties{next(urls)}", create=True, storage_options=None)
    )
    values = random_values(sum(lengths), dtype)
    rows: list[list[int]] = [[] for _ in lengths]
    done = 0
    for run, first in (("a", 0), ("b", 4)):
        for part in range(2):
            extents = [
                (e - first, len(range(lengths[e])[part::2]))
                for e in order
                if first <= e < first + 4
            ]
            for e, n in extents:
                rows[e + first] += range(done, done + n)
                done += n
            extents = [(e, n) for e, n in extents if n]
            start = done - sum(n for _, n in extents)
            dataset.commit(extents, {"s": values[start:done]}, run=run, chunk_rows=3)
    return dataset.cache()["s"], values, tuple(map(np.array, rows))


def chosen(values: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """Return the values of these numbers, counted through all of them."""
    words = words_of(values).reshape(-1)[numbers.numpy()]
    return as_tensor(
        np.array(words, order="C").reshape(-1).view(np.uint8), values.dtype, tuple(numbers.shape)
    )


def numbers_of(rows: np.ndarray) -> torch.Tensor:
    """Return the numbers of the values of rows: [*rows, 3, 4]."""
    units = np.arange(UNITS).reshape(SHAPE)
    return torch.from_numpy(rows.reshape(*rows.shape, 1, 1) * UNITS + units)


def check_dense(lazy: LazyTensor, values: torch.Tensor, numbers: torch.Tensor) -> None:
    """Everything that a lazy tensor says of itself, and what it reads."""
    want = chosen(values, numbers)
    assert lazy.shape == want.shape
    assert (lazy.ndim, lazy.dtype, lazy.nbytes) == (want.ndim, want.dtype, want.nbytes)
    assert same_bits(lazy.load(), want)
    assert same_bits(lazy.padded(), want)
    if want.ndim:
        assert len(lazy) == len(want)
        for mine, entry in zip(lazy[:3], want[:3], strict=True):
            assert same_bits(mine.load(), entry.clone())
    if lazy.lead_ndim and not isinstance(lazy.lead, Grid):
        rows = want.reshape(-1 if want.numel() else 0, *lazy.row_shape)
        if want.numel():
            assert same_bits(lazy.rows.load(), rows)
            assert same_bits(torch.cat(list(lazy.chunks(bytes=64))), rows)


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(dtypes, st.data())
def test_a_uniform_site_is_a_torch_tensor(dtype: torch.dtype, data: st.DataObject) -> None:
    """Chains of any indices that torch takes give the same shape, dtype and bits, or an error."""
    lazy, values, rows = stored(dtype, *UNIFORM)
    numbers = numbers_of(np.stack(rows))
    for _ in range(data.draw(st.integers(1, 4), label="chain")):
        index = data.draw(indices(tuple(numbers.shape)))
        try:
            want = torch_index(numbers, index)
        except IndexError:
            with pytest.raises(SelectionError):
                lazy[index]
            return
        lazy, numbers = lazy[index], want
        assert lazy.shape == numbers.shape
        if numbers.ndim > 5 or numbers.numel() > 5000:
            break
    check_dense(lazy, values, numbers)


@st.composite
def ragged_index(draw: st.DrawFn, examples: list[torch.Tensor]) -> tuple:
    """Draw an index of examples, positions and units that each of the examples has."""
    n = len(examples)
    over = draw(slices | arrays(n, ((2,), (0,), ())) | masks((n,)) if n else slices)
    kept = pick(examples, over)
    kept = [kept] if isinstance(kept, torch.Tensor) else kept
    least = min((len(e) for e in kept), default=0)
    along = draw(slices | st.integers(-least, least - 1) if least else slices)
    units = examples[0].shape[1:] if examples else ()
    return (
        over,
        along,
        *(draw(st.integers(-m, m - 1) | slices) if m else draw(slices) for m in units),
    )


def pick(examples: list[torch.Tensor], over: object) -> torch.Tensor | list[torch.Tensor]:
    """Return what an index selects of a list of examples."""
    if isinstance(over, slice):
        return examples[over]
    places = np.arange(len(examples))[np.asarray(over, dtype=None if np.size(over) else int)]
    if not places.ndim:
        return examples[int(places)]
    return [examples[i] for i in places.tolist()]


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(dtypes, st.data())
def test_a_ragged_site_is_a_list_of_tensors(dtype: torch.dtype, data: st.DataObject) -> None:
    """Positions count inside each example; what has one length is a torch tensor from there on."""
    lazy, values, rows = stored(dtype, *RAGGED)
    examples = [numbers_of(r) for r in rows]
    for _ in range(data.draw(st.integers(1, 3), label="chain")):
        index = data.draw(ragged_index(examples))
        lazy, kept = lazy[index], pick(examples, index[0])
        if isinstance(kept, torch.Tensor):
            check_dense(lazy, values, torch_index(kept, index[1:]))
            return
        examples = [torch_index(e, index[1:]) for e in kept]
        if isinstance(index[1], int):
            check_dense(lazy, values, torch.stack(examples) if examples else lazy_empty(lazy))
            return
    check_ragged(lazy, values, examples)


def lazy_empty(lazy: LazyTensor) -> torch.Tensor:
    return torch.empty(tuple(lazy.shape), dtype=torch.int64)


def check_ragged(lazy: LazyTensor, values: torch.Tensor, examples: list[torch.Tensor]) -> None:
    """Lengths, and every way to read examples of different length."""
    want = [chosen(values, numbers) for numbers in examples]
    assert lazy.lengths.tolist() == [len(e) for e in want]
    assert lazy.nbytes == sum(e.nbytes for e in want)
    assert [same_bits(mine.load(), e) for mine, e in zip(lazy, want, strict=True)] == [True] * len(
        want
    )
    if not want:
        assert lazy.load().shape[0] == 0
        return
    check_padded(lazy, want)
    every = torch.cat(examples)
    stored_order = chosen(values, every)
    if every.numel():
        order = every.reshape(len(every), -1)[:, 0].argsort(stable=True)
        stored_order = chosen(values, every[order])
        assert same_bits(torch.cat(list(lazy.chunks(bytes=96))), stored_order)
    assert same_bits(lazy.rows.load(), stored_order)
    if values.dtype in {torch.float32, torch.bfloat16, torch.int64}:
        for mine, e in zip(lazy.nested().unbind(), want, strict=True):
            assert same_bits(mine.contiguous(), e)
    if len({len(e) for e in want}) > 1:
        with pytest.raises(SelectionError, match="padded"):
            lazy.load()
    else:
        assert same_bits(lazy.load(), torch.stack(want))


def check_padded(lazy: LazyTensor, want: list[torch.Tensor]) -> None:
    """Padded at either side, with one where nothing is, and the mask that says where."""
    longest = max(map(len, want))
    for side in ("right", "left"):
        shape = (len(want), longest, *want[0].shape[1:])
        padded = (
            torch.ones(shape, dtype=lazy.dtype)
            if lazy.dtype.itemsize > 1
            else torch.ones(shape).to(lazy.dtype)
        )
        mask = torch.zeros(shape[:2], dtype=torch.bool)
        for i, e in enumerate(want):
            place = slice(len(e)) if side == "right" else slice(longest - len(e), None)
            padded[i, place], mask[i, place] = e, True
        assert same_bits(lazy.padded(1, side), padded)
        assert torch.equal(lazy.mask(side), mask)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_masks_and_pairs_of_a_ragged_site(data: st.DataObject) -> None:
    """Rows, and single units, are picked out of ragged examples as out of the padded tensor."""
    lazy, values, rows = stored(torch.float64, *RAGGED)
    padded = torch.full((len(rows), max(map(len, rows)), *SHAPE), -1)
    for i, r in enumerate(rows):
        padded[i, : len(r)] = numbers_of(r)
    there = lazy.mask() & (torch.rand(lazy.shape[:2]) < 0.5)
    check_dense(lazy[there], values, padded[there])
    units = torch.rand(lazy.shape) < 0.2
    picked = units & lazy.mask()[:, :, None, None]
    check_dense(lazy[picked], values, padded[picked])
    check_dense(
        lazy[units.any(-1) & lazy.mask()[..., None]],
        values,
        padded[units.any(-1) & lazy.mask()[..., None]],
    )
    shape = data.draw(st.sampled_from([(2,), (3, 2), (1,)]))
    size = int(np.prod(shape))
    example = torch.tensor(
        data.draw(st.lists(st.integers(0, 6), min_size=size, max_size=size))
    ).reshape(shape)
    place = torch.tensor(
        [data.draw(st.integers(0, len(rows[e]) - 1)) for e in example.reshape(-1).tolist()]
    )
    unit = torch.tensor(
        data.draw(st.lists(st.integers(-3, 2), min_size=size, max_size=size))
    ).reshape(shape)
    index = (example, place.reshape(shape), unit)
    check_dense(lazy[index], values, padded[index])
    check_dense(
        lazy[(*index[:2], slice(None), unit)], values, padded[(*index[:2], slice(None), unit)]
    )
    check_dense(lazy[(*index[:2], ..., None)], values, padded[(*index[:2], ..., None)])
    check_dense(lazy[:, 0][example, :, unit], values, padded[:, 0][example, :, unit])
    outside = units & ~lazy.mask()[:, :, None, None]
    if outside.any():
        with pytest.raises(SelectionError, match=r"position \d of example \d, which has \d rows"):
            lazy[outside]
