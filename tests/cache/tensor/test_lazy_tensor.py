"""lazycache.cache.tensor.lazy_tensor: a tensor that is read when it is used."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cache_helpers import Dataset, counting, same_bits, small_cache
from hypothesis import given, settings
from hypothesis import strategies as st

from lazycache.cache.joined.join import join
from lazycache.cache.joined.memory_reader import from_tensor
from lazycache.cache.tensor.lazy_tensor import LazyTensor
from lazycache.errors import (
    CorruptShardError,
    MemoryBudgetError,
    SelectionError,
    UnsupportedDtypeError,
)
from lazycache.storage.open_store import open_store

SHAPE = (3, 4)
ends = st.none() | st.integers(-5, 5)
slices = st.builds(slice, ends, ends, st.none() | st.sampled_from([1, 2]))


def make(
    lengths: list[int], order: list[int], *, splits: int = 1, store: str = "memory://lazy"
) -> tuple[LazyTensor, list[torch.Tensor]]:
    """Return a lazy tensor, and for each example what it must hold.

    Examples are stored in `order`; with `splits` > 1 each comes in several extents and commits.
    """
    dataset = Dataset(open_store(store, create=True, storage_options=None))
    want: list[list[torch.Tensor]] = [[] for _ in lengths]
    done = 0
    for part in range(splits):
        sizes = [(e, len(range(lengths[e])[part::splits])) for e in order]
        extents = [(e, n) for e, n in sizes if n]
        rows = sum(n for _, n in extents)
        values = counting(done + rows, *SHAPE, dtype=torch.bfloat16)[done:]
        if rows:
            dataset.commit(extents, {"s": values})
        for (e, _), piece in zip(extents, values.split([n for _, n in extents]), strict=True):
            want[e].append(piece)
        done += rows
    return dataset.cache()["s"], [torch.cat(parts) for parts in want]


@st.composite
def ragged(draw: st.DrawFn) -> tuple[LazyTensor, list[torch.Tensor]]:
    lengths = draw(st.lists(st.integers(1, 7), min_size=1, max_size=6))
    return make(lengths, draw(st.permutations(range(len(lengths)))), splits=draw(st.integers(1, 2)))


@st.composite
def uniform(draw: st.DrawFn) -> tuple[LazyTensor, torch.Tensor]:
    examples, length = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    lazy, parts = make([length] * examples, draw(st.permutations(range(examples))))
    return lazy, torch.stack(parts)


@st.composite
def index_for(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple:
    """Draw an index of integers and slices and at most one array, that fits."""
    parts: list = []
    for n in shape[: draw(st.integers(0, len(shape)))]:
        whole = st.integers(-n, n - 1) | slices if n else slices
        parts.append(draw(whole))
    if parts and draw(st.booleans()):
        at = draw(st.integers(0, len(parts) - 1))
        n = shape[at]
        if n:
            kinds = st.lists(st.integers(-n, n - 1), max_size=4) | st.lists(
                st.booleans(), min_size=n, max_size=n
            )
            chosen = draw(kinds)
            parts[at] = torch.tensor(chosen, dtype=None if chosen else torch.int64)
    if draw(st.booleans()):
        parts.append(Ellipsis)
    return tuple(parts)


@given(uniform(), st.data())
def test_uniform_examples_index_as_a_torch_tensor(pair, data: st.DataObject) -> None:
    """Views of views, whatever the storage order, load what torch would hold, bit for bit."""
    lazy, want = pair
    for _ in range(3):
        index = data.draw(index_for(tuple(want.shape)))
        lazy, want = lazy[index], want[index]
        assert lazy.shape == want.shape
        assert lazy.nbytes == want.nbytes
    assert same_bits(lazy.load(), want)


@given(uniform(), st.data())
def test_rows_index_as_a_torch_tensor(pair, data: st.DataObject) -> None:
    """`.rows` is a dense tensor of rows."""
    lazy, want = pair
    lazy, want = lazy[:, 0].rows, want[:, 0]
    for _ in range(2):
        index = data.draw(index_for(tuple(want.shape)))
        lazy, want = lazy[index], want[index]
    assert same_bits(lazy.load(), want)


@given(ragged(), slices, slices, st.data())
def test_ragged_examples_keep_their_identity(pair, over, along, data: st.DataObject) -> None:
    """Example i is the i-th list of rows, and positions count inside it."""
    lazy, parts = pair
    unit = data.draw(st.sampled_from([(), (1,), (slice(None), 2), (..., slice(1, 3))]))
    lazy = lazy[(over, along, *unit)]
    want = [part[along][(slice(None), *unit)] for part in parts[over]]
    assert lazy.lengths.tolist() == [len(part) for part in want]
    assert lazy.is_ragged == (len({len(part) for part in want}) > 1)
    assert len(lazy) == len(want)
    for mine, part in zip(lazy, want, strict=True):
        assert same_bits(mine.load(), part)
    if want:
        padded = torch.nn.utils.rnn.pad_sequence(want, batch_first=True, padding_value=9)
        assert same_bits(lazy.padded(9), padded)
        assert lazy.shape == padded.shape
    found = torch.cat(list(lazy.chunks(bytes=48))) if lazy.nbytes else lazy.rows.load()
    every = torch.cat(want) if want else found
    assert torch.equal(found.double().sum(0), every.double().sum(0))
    assert len(found) == len(every)


@given(ragged(), st.data())
def test_masks_and_pairs_over_ragged_examples(pair, data: st.DataObject) -> None:
    """A mask over examples and positions takes rows as from the padded tensor."""
    lazy, parts = pair
    mask = torch.zeros(lazy.shape[:2], dtype=torch.bool)
    for i, part in enumerate(parts):
        mask[i, : len(part)] = torch.tensor(
            data.draw(st.lists(st.booleans(), min_size=len(part), max_size=len(part)))
        )
    assert same_bits(lazy[mask].load(), lazy.padded()[mask])
    examples = data.draw(st.lists(st.integers(0, len(parts) - 1), min_size=1, max_size=4))
    ends = [len(parts[i]) - 1 for i in examples]
    want = torch.stack([parts[i][-1] for i in examples])
    assert same_bits(lazy[examples, ends].load(), want)
    assert same_bits(lazy[examples, -1].load(), want)


@settings(max_examples=20)
@given(ragged())
def test_rows_are_in_storage_order(pair) -> None:
    """`.rows` of a whole site is what was written, in the order in which it was written."""
    lazy, parts = pair
    total = sum(map(len, parts))
    assert same_bits(lazy.rows.load(), counting(total, *SHAPE, dtype=torch.bfloat16))


def test_nested_holds_every_example() -> None:
    """A nested tensor has the examples in order, without padding."""
    lazy, parts = make([2, 3, 1], [2, 0, 1])
    nested = lazy.nested()
    for mine, part in zip(nested.unbind(), parts, strict=True):
        assert same_bits(mine, part)
    lazy, parts = make([2, 2, 2], [2, 0, 1])
    arranged = lazy[[[0, 1], [2, 0]]].nested()
    want = torch.stack(parts)[torch.tensor([[0, 1], [2, 0]])]
    assert [same_bits(a, b) for a, b in zip(arranged.unbind(), want, strict=True)] == [True] * 2


def test_looking_reads_nothing() -> None:
    """Shape, dtype, lengths, repr and views touch no shard."""
    cache = small_cache()
    x = cache["resid_out_0"]
    assert repr(x[1:, -2:]) == (
        "LazyTensor(resid_out_0: shape=(2, ≤2, 2), dtype=float32, 24 bytes, memory://small)"
    )
    assert (x.shape, x.dtype, x.ndim, x.nbytes) == ((3, 3, 2), torch.float32, 3, 48)
    assert x.lengths.tolist() == [2, 3, 1]
    assert x.covered.all()
    assert (x[0].ndim, x.rows[::2].shape, x[:, 0, 1].shape) == (2, (3, 2), (3,))
    assert x.count() == 6
    assert (cache.io.requests, cache.io.rows, cache.io.bytes) == (0, 0, 0)


def test_a_view_reads_its_own_rows_and_units_only() -> None:
    """One row is one request of one row; one unit is the bytes of one unit."""
    cache = small_cache()
    cache["resid_out_0"][1, 2].load()
    assert (cache.io.requests, cache.io.rows, cache.io.bytes) == (1, 1, 8)


def test_one_example_is_a_view_of_the_file(tmp_path) -> None:
    """An example of 256 KiB in one chunk is not copied, and writing to it changes no file."""
    dataset = Dataset(open_store(str(tmp_path / "d"), create=True, storage_options=None))
    values = counting(6, 16_384)
    dataset.commit([(0, 2), (1, 4)], {"s": values}, chunk_rows=6)
    x = dataset.cache()["s"]
    before = Path("/proc/self/maps").read_text().count("/data/s/")
    example, row = x[1].load(), x[1, 2].load()
    assert Path("/proc/self/maps").read_text().count("/data/s/") == before + 2
    assert row.untyped_storage().nbytes() == row.nbytes
    example.zero_()
    x[1].numpy()[:] = 7
    np.asarray(x[1])[:] = 7
    assert same_bits(x[1].load(), values[2:])
    assert same_bits(x[1, :, 3:5].load(), values[2:, 3:5])
    assert same_bits(x.rows.load(), values)


@pytest.mark.parametrize(
    ("index", "says"),
    [
        ((slice(None), 1), "position 1 of example 2, which has 1 rows"),
        (3, "index 3 is out of range: there are 3 examples"),
        ((0, 5), "index 5 is out of range|out of bounds"),
        ((0, 0, 0, 0), "4 indices for 3 dimensions"),
        (([0, 1], 0, [0, 1, 0]), "make no pairs.*two steps"),
        (([0, 1], slice(None), [0, 1]), "units of its own.*name positions"),
        (np.ones((3, 3, 2), dtype=bool), "position 2 of example 0, which has 2 rows"),
        (np.ones((3, 2, 2), dtype=bool), r"a mask of shape \(3, 2, 2\) for .*3, 3, 2"),
        (None, r"no new dimension.*x\.padded"),
        (False, "no new dimension"),
        ((1, 3), "index 3 is out of range: there are 3 rows in example 1"),
        ((..., 2), "out of bounds"),
        (1.5, "no index"),
    ],
)
def test_what_does_not_fit_says_why(index, says: str) -> None:
    """An index that cannot be applied is a SelectionError that says what to do."""
    with pytest.raises(SelectionError, match=says):
        small_cache()["resid_out_0"][index]


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float16, torch.float32])
def test_what_a_dtype_has_rounded_stays_rounded(dtype) -> None:
    """Converted twice is converted twice: `x.bool().float()` is ones and zeros, as in torch."""
    values = torch.linspace(-2, 2, 24, dtype=torch.float64).reshape(12, 2) * 1.001
    dataset = Dataset(open_store("memory://twice-converted", create=True, storage_options=None))
    dataset.commit([(0, 3), (1, 4), (2, 5)], {"s": values})
    x = dataset.cache()["s"]
    rounded = x.to(dtype).double()
    want = values.to(dtype).double()
    assert same_bits(rounded.rows.load(), want)
    assert same_bits(rounded[1, 2, 1].load(), want[5, 1])
    assert same_bits(x[1:].to(dtype).bfloat16().rows.load(), values[3:].to(dtype).bfloat16())
    assert torch.equal(rounded.max("rows"), want.amax(0))
    assert same_bits(join([x.to(dtype), x]).rows.load(), torch.cat([want, values]))
    there = pickle.loads(pickle.dumps(from_tensor(values).to(dtype).double()))
    assert same_bits(there.load(), want)


def test_ragged_load_offers_the_alternatives() -> None:
    """No silent padding: a ragged load names the ways to get a tensor."""
    with pytest.raises(SelectionError, match=r"padded.*nested.*rows.*x\[i\]"):
        small_cache()["resid_out_0"].load()
    assert small_cache()["resid_out_0"][:, -1].load().tolist() == [[2, 3], [8, 9], [10, 11]]


def test_conversion_happens_when_loaded() -> None:
    """`.to` converts what is read, block by block, and changes the size."""
    lazy, parts = make([3, 3], [0, 1])
    wide = lazy.to(torch.float64)
    assert wide.nbytes == 4 * lazy.nbytes
    assert same_bits(wide.load(), torch.stack(parts).double())
    assert same_bits(wide.padded(), torch.stack(parts).double())
    assert lazy.load(device="meta").device.type == "meta"


def test_numpy_widens_what_numpy_lacks() -> None:
    """bfloat16 becomes float32 exactly; dtypes that numpy has are kept."""
    lazy, parts = make([2, 2], [0, 1])
    assert lazy.numpy().dtype == np.float32
    assert np.array_equal(np.asarray(lazy), torch.stack(parts).float().numpy())
    assert np.asarray(lazy[0], dtype=np.int64).tolist() == parts[0].long().tolist()
    x = small_cache()["resid_out_0"][1]
    assert x.numpy().dtype == np.float32
    with pytest.raises(ValueError, match="copy"):
        np.array(x, dtype=np.float64, copy=False)


def test_to_takes_dtypes_and_devices_only() -> None:
    """By place or by name; what is neither is refused with advice."""
    x = small_cache()["resid_out_0"]
    both = x.to(device="meta", dtype=torch.float64)
    assert (both.dtype, both.device.type) == (torch.float64, "meta")
    assert x.to("meta", torch.float16).dtype == torch.float16
    assert x.to(dtype=None).dtype == x.dtype
    for bad, says in [
        (("float16",), "torch.float16"),
        ((None,), "one dtype"),
        ((torch.float16, torch.float32), "one dtype"),
        (("nowhere",), "neither a dtype nor a device"),
        (([1],), "neither a dtype nor a device"),
    ]:
        with pytest.raises(SelectionError, match=says):
            x.to(*bad)
    with pytest.raises(UnsupportedDtypeError, match="complex64"):
        x.to(torch.complex64)


@pytest.mark.parametrize(
    ("dtype", "good", "bad"),
    [
        (torch.float16, [-1, 0.1, float("nan"), float("inf")], ["a", 1e9, None]),
        (torch.float8_e4m3fn, [2], [1e9]),
        (torch.int64, [2**60 + 1, -1], [0.5, float("nan"), float("inf"), 2**70]),
        (torch.uint8, [255], [-1, 256]),
        (torch.bool, [True, 0], [2]),
    ],
)
def test_padding_is_what_the_dtype_holds(dtype: torch.dtype, good: list, bad: list) -> None:
    """A fill value that would become another is refused; floats round."""
    x = small_cache()["resid_out_0"].to(dtype)
    for value in good:
        want = torch.tensor([value], dtype=dtype)
        assert same_bits(x.padded(value)[0, 2, :1], want)
    for value in bad:
        for lazy in (x, x[:1]):
            with pytest.raises(SelectionError, match="does not hold it"):
                lazy.padded(value)


def test_tensors_leave_the_workers_of_a_data_loader(tmp_path) -> None:
    """A forked worker reads what the parent opened, and hands over tensors, copied or not."""
    dataset = Dataset(open_store(str(tmp_path / "d"), create=True, storage_options=None))
    values = counting(24, 4096)
    dataset.commit([(0, 1), (1, 3), (2, 20)], {"s": values}, chunk_rows=24, shard_rows=24)
    x = dataset.cache()["s"]
    loaded = [x[0].load(), *torch.utils.data.DataLoader(Loaded(x), num_workers=1, collate_fn=list)]
    for batch, part in zip(loaded[1:], values.split([1, 3, 20]), strict=True):
        assert same_bits(batch[0], part)


class Loaded(torch.utils.data.Dataset):
    """Examples, loaded where they are asked for."""

    def __init__(self, x: LazyTensor) -> None:
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> torch.Tensor:
        return self.x[i].load()


def test_implicit_loads_have_a_budget() -> None:
    """`np.asarray` of more than the budget says the size and what to do instead."""
    cache = Dataset(open_store("memory://b", create=True, storage_options=None))
    cache.commit([(0, 6)], {"s": counting(6, 8)})
    x = cache.cache(budget_bytes=100)["s"]
    with pytest.raises(MemoryBudgetError, match=r"needs 192 bytes.*100 are allowed.*chunks"):
        np.asarray(x)
    assert np.asarray(x[:, :3]).shape == (1, 3, 8)
    assert x.load().shape == (1, 6, 8)


def test_truth_and_length() -> None:
    """A lazy tensor has no truth value; a single value has no length."""
    x = small_cache()["resid_out_0"]
    with pytest.raises(SelectionError, match="neither true nor false"):
        bool(x)
    with pytest.raises(SelectionError, match="no length"):
        len(x[0, 0, 0])
    with pytest.raises(SelectionError, match="no positions"):
        _ = x.rows.lengths


def test_examples_table_is_one_row_per_example() -> None:
    """Pooled sites have no positions: the first dimension is the example in order."""
    dataset = Dataset(open_store("memory://pooled", create=True, storage_options=None))
    values = counting(4, 5)
    dataset.commit([(3, 1), (0, 1), (2, 1), (1, 1)], {"pooled": values}, table="examples")
    x = dataset.cache()["pooled"]
    assert x.shape == (4, 5)
    assert same_bits(x.load(), values[[1, 3, 2, 0]])
    assert same_bits(x[-1].load(), values[0])


def test_rows_that_were_not_captured_are_missing() -> None:
    """A site that covers some commits has empty examples for the others, never zeros."""
    dataset = Dataset(open_store("memory://partial", create=True, storage_options=None))
    dataset.commit([(0, 2), (1, 3)], {"a": counting(5, 2)})
    dataset.commit([(2, 2)], {"a": counting(2, 2), "b": counting(2, 2)})
    part = {"b": counting(2, 2)}
    dataset.commit([(0, 1), (1, 1)], part, covers=1, row_start=1, add_rows=False)
    x = dataset.cache()["b"]
    assert len(x) == len(dataset.cache()["a"]) == 3
    assert x.lengths.tolist() == [1, 1, 2]
    assert x.covered.tolist() == [True, True, True]
    assert same_bits(x[0].load(), counting(2, 2)[:1])
    assert same_bits(x[2].load(), counting(2, 2))
    assert x.count() == 4


def test_missing_examples_of_a_pooled_site() -> None:
    """Loading an example that was not captured is an error; aggregates leave it out."""
    dataset = Dataset(open_store("memory://some", create=True, storage_options=None))
    dataset.commit([(0, 1), (1, 1)], {"a": counting(2, 2)}, table="examples")
    dataset.commit([(2, 1)], {"b": counting(1, 2) + 5}, table="examples")
    x = dataset.cache()["b"]
    assert x.covered.tolist() == [False, False, True]
    with pytest.raises(SelectionError, match="no value for row 0 of examples"):
        x.load()
    assert x[x.covered].load().tolist() == [[5, 6]]
    assert x.mean("rows").tolist() == [5, 6]


def test_the_same_id_in_two_runs_is_two_examples() -> None:
    """Examples are told apart by run, in the order in which runs appeared."""
    dataset = Dataset(open_store("memory://runs", create=True, storage_options=None))
    dataset.commit([(0, 1), (1, 1)], {"s": counting(2, 1)}, run="z")
    dataset.commit([(0, 2)], {"s": counting(2, 1) + 7}, run="a")
    dataset.commit([(1, 1)], {"s": counting(1, 1) + 9}, run="z")
    x = dataset.cache()["s"]
    assert [example.load().flatten().tolist() for example in x] == [[0], [1, 9], [7, 8]]


def with_empty(kept: list[int], *, extra: int = 0) -> Dataset:
    """Return a dataset whose example i has kept[i] rows; the last `extra` are in tokens only."""
    dataset = Dataset(open_store("memory://kept", create=True, storage_options=None))
    rows = [(i, n) for i, n in enumerate(kept) if n]
    dataset.commit([(i, 1) for i in range(len(kept) - extra)], {}, table="examples")
    dataset.commit(rows, {"s": counting(sum(kept), 2)})
    return dataset


def test_an_example_without_rows_keeps_its_number() -> None:
    """x[i] is the i-th example of the dataset, whatever was kept of those before it."""
    x = with_empty([2, 0, 3, 0, 1], extra=1).cache()["s"]
    values = counting(6, 2)
    assert x.shape == (5, 3, 2)
    assert x.lengths.tolist() == [2, 0, 3, 0, 1]
    assert x.covered.tolist() == [True, False, True, False, True]
    for i, part in enumerate(values.split([2, 0, 3, 0, 1])):
        assert same_bits(x[i].load(), part)
    assert [len(example.load()) for example in x] == [2, 0, 3, 0, 1]
    assert same_bits(x.padded(9)[1], torch.full((3, 2), 9.0))
    assert [len(part) for part in x.nested().unbind()] == [2, 0, 3, 0, 1]
    assert same_bits(x.rows.load(), values)
    assert x.mean(1)[[1, 3]].isnan().all()
    assert x.mean("rows").tolist() == values.double().mean(0).tolist()
    assert x[[4, 1, 2]].lengths.tolist() == [1, 0, 3]
    with pytest.raises(SelectionError, match="position -1 of example 1, which has 0 rows"):
        _ = x[:, -1]


def test_a_site_without_any_row_is_empty() -> None:
    """A site of which no token was kept has its examples, each of no rows."""
    dataset = Dataset(open_store("memory://none", create=True, storage_options=None))
    dataset.commit([(i, 1) for i in range(4)], {}, table="examples")
    dataset.commit([], {"s": counting(0, 2)}, add_rows=False)
    x = dataset.cache()["s"]
    assert x.shape == (4, 0, 2)
    assert (x.nbytes, x.count(), x.is_ragged) == (0, 0, False)
    for found in (x.load(), x.padded(), x[1:, :1].load(), x[[[0, 1, 2, 3]]].load()[0]):
        assert found.shape[-2:] == (0, 2)
    assert x.rows.load().shape == (0, 2)
    assert x[2].load().shape == (0, 2)
    assert x.numpy().shape == (4, 0, 2)
    assert x.mean("rows").isnan().all()
    assert x.mean(1).shape == (4, 2)
    assert x.sum(0).shape == (0, 2)
    assert list(x.chunks()) == []


def test_examples_of_one_length_are_arranged_by_index_arrays() -> None:
    """x[[[0, 0]]] is what it is in torch."""
    lazy, parts = make([2, 2, 2], [1, 0, 2])
    want = torch.stack(parts)
    assert same_bits(lazy[[[0, 0]]].load(), want[torch.tensor([[0, 0]])])
    for index in (torch.tensor([[2, 1], [0, 0]]), ([[2, 0]], slice(1, None))):
        assert same_bits(lazy[index].load(), want[index])
    found = lazy[[[0, 1]]]
    assert (found.shape, found.ndim) == ((1, 2, 2, *SHAPE), 5)
    assert torch.equal(found.mean((0, 1)), want[:2].double().mean(0))
    assert torch.equal(found.sum((1, 2)), want[:2].double().sum((0, 1))[None])


def test_a_log_that_lies_about_a_site_is_refused() -> None:
    """Rows that are not what shape and dtype make are never addressed."""
    dataset = Dataset(open_store("memory://lies", create=True, storage_options=None))
    dataset.commit([(0, 2)], {"s": counting(2, 2)})
    sites = {"s": replace(dataset.snapshot.sites["s"], dtype="float64")}
    dataset.snapshot = replace(dataset.snapshot, sites=sites)
    with pytest.raises(CorruptShardError, match="rows of 8 bytes, which"):
        dataset.cache()["s"]
    with pytest.raises(CorruptShardError, match="rows of 8 bytes, which"):
        dataset.reader().take("s", np.array([0]))


def test_new_dimensions_and_bools() -> None:
    """None and True add a dimension where they stand; behind ragged examples too."""
    lazy, parts = make([2, 2, 2], [1, 0, 2])
    want = torch.stack(parts)
    for index in ((None,), (slice(None), None, 1), (..., None, 0), (0, None), (True, 1), (False,)):
        assert same_bits(lazy[index].load(), want[index])
    assert same_bits(lazy[1, 0, 0, 0][None, None].load(), want[1, 0, 0, 0][None, None])
    assert same_bits(lazy.rows[None, ::2, None].load(), lazy.rows.load()[None, ::2, None])
    ragged = small_cache()["resid_out_0"]
    assert ragged[:, :, None].shape == (3, 3, 1, 2)
    assert same_bits(ragged[:, :, None].padded(7), ragged.padded(7)[:, :, None])
    assert same_bits(ragged[:, None, -1].load(), ragged[:, -1].load()[:, None])
    assert same_bits(
        ragged[None, [0, 1], None, -1].load(), ragged[[0, 1], -1].load()[None, :, None]
    )


def test_pairs_of_rows_and_units_read_what_they_name() -> None:
    """Index arrays for rows and units at once pair up, and little else is read."""
    dataset = Dataset(open_store("memory://pairs", create=True, storage_options=None))
    values = counting(600, 600)
    dataset.commit([(i, 3) for i in range(200)], {"s": values}, chunk_rows=64, shard_rows=256)
    cache = dataset.cache()
    x = cache["s"]
    rows, units = torch.randperm(600), torch.randperm(600)
    assert same_bits(x.rows[rows, units].load(), values[rows, units])
    got = x[rows // 3, rows % 3, units]
    assert got.shape == (600,)
    assert same_bits(got[::-2].load(), values[rows, units].flip(0)[::2])
    assert cache.io.rows <= 3 * 600
    assert torch.equal(got.mean(), values[rows, units].double().mean())
    assert got.to(torch.float64)[5].item() == values[rows[5], units[5]].item()


def test_an_index_may_be_lazy_itself() -> None:
    """A lazy mask or index is loaded, within the budget; a ragged mask stands for its rows."""
    dataset = Dataset(open_store("memory://masks", create=True, storage_options=None))
    values = counting(6, 2)
    dataset.commit(
        [(0, 2), (1, 3), (2, 1)],
        {"s": values, "m": values[:, 0] % 4 == 0, "i": values[:, 0].long() % 2},
    )
    cache = dataset.cache()
    x, mask, index = cache["s"], cache["m"], cache["i"]
    assert same_bits(x[mask].load(), values[values[:, 0] % 4 == 0])
    assert same_bits(x.rows[mask.rows].load(), values[values[:, 0] % 4 == 0])
    assert same_bits(x.rows[index.rows].load(), values[values[:, 0].long() % 2])
    small = dataset.cache(budget_bytes=3)
    with pytest.raises(MemoryBudgetError, match="an index needs 6 bytes"):
        _ = small["s"][small["m"]]


def test_padding_at_the_left() -> None:
    """The last row of each example is the last of the padded tensor; the mask says where."""
    x = small_cache()["resid_out_0"][:, :, 0]
    assert x.padded(-1, "left").tolist() == [[-1, 0, 2], [4, 6, 8], [-1, -1, 10]]
    assert x.mask("left").tolist() == [[False, True, True], [True] * 3, [False, False, True]]
    assert x[x.mask()].tolist() == x.padded()[x.mask()].tolist() == [0, 2, 4, 6, 8, 10]
    for wrong in (x.padded, x.mask):
        with pytest.raises(SelectionError, match="'right' or 'left'"):
            wrong(side="top")
    with pytest.raises(SelectionError, match="no positions"):
        x.rows.mask()
