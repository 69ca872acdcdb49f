"""lazycache.cache.joined.join: tensors one behind the other, without a copy."""

import itertools

import numpy as np
import pytest
import torch
from cache_helpers import Dataset, counting, same_bits
from hypothesis import given, settings
from hypothesis import strategies as st

from lazycache.cache.dataset.stored_sites import StoredSites
from lazycache.cache.joined.join import join
from lazycache.cache.joined.joined_reader import JoinedReader
from lazycache.cache.joined.memory_reader import from_tensor
from lazycache.errors import SelectionError
from lazycache.storage.open_store import open_store

_names = itertools.count()


def stored(extents, values, *, table="tokens", address=None, **commit):
    """Return a site `s` of a dataset of its own, and the sites of it."""
    url = address or f"memory://join{next(_names)}"
    dataset = Dataset(open_store(str(url), create=True, storage_options=None))
    given = {"chunk_rows": 3, "shard_rows": 5, **commit}
    dataset.commit(extents, {"s": values}, table=table, **given)
    sites = StoredSites(dataset.store, dataset.snapshot)
    return sites.tensor("s"), sites


DTYPES = [torch.float32, torch.bfloat16, torch.int64, torch.float8_e5m2]


@st.composite
def parts(draw):
    """Some parts: whole sites stored in any order, or selections; each as its examples too."""
    row = draw(st.sampled_from([(), (3,), (2, 2)]))
    dtypes = draw(st.sampled_from([DTYPES[:1], DTYPES[:2], DTYPES[3:], DTYPES[:3]]))
    made = []
    for _ in range(draw(st.integers(1, 4))):
        lengths = draw(st.lists(st.integers(0, 4), min_size=1, max_size=4))
        order = draw(st.permutations(range(len(lengths))))
        dtype = draw(st.sampled_from(dtypes))
        values = [counting(n, *row).add(draw(st.integers(0, 9))).to(dtype) for n in lengths]
        x, _ = stored([(e, lengths[e]) for e in order], torch.cat([values[e] for e in order]))
        if draw(st.booleans()):
            chosen = draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=4))
            window = slice(draw(st.sampled_from([None, 1])), draw(st.sampled_from([None, -1, 3])))
            x, values = x[chosen][:, window], [values[e][window] for e in chosen]
        if row and draw(st.booleans()):
            x, values = x[..., -1:], [one[..., -1:] for one in values]
            x, values = x[..., [0] * row[-1]], [one[..., [0] * row[-1]] for one in values]
        made.append((x, values))
    return made


@settings(max_examples=100, deadline=None)
@given(parts=parts(), data=st.data())
def test_joined_examples_are_those_of_the_parts(parts, data) -> None:
    """Whole or selected, of any lengths, order and dtypes: every bit of any example and part."""
    x = join([one for one, _ in parts])
    dtype = (
        torch.cat([values[0][:0].to(one.dtype) for one, values in parts]).dtype
        if (parts[0][0].dtype not in DTYPES[3:])
        else parts[0][0].dtype
    )
    want = [one.to(dtype) for _, values in parts for one in values]
    assert (x.dtype, len(x), x.lengths.tolist()) == (dtype, len(want), [len(one) for one in want])
    for number, one in enumerate(want):
        assert same_bits(x[number].load(), one)
    chosen = data.draw(st.lists(st.integers(0, len(want) - 1), min_size=1, max_size=5))
    assert same_bits(
        x[chosen].values_of(x[chosen].lead.flat()), torch.cat([want[i] for i in chosen])
    )
    start, stop = sorted(data.draw(st.tuples(*[st.integers(0, len(want))] * 2)))
    flat = x[start:stop].lead.flat()
    assert same_bits(x.values_of(flat), torch.cat([want[0][:0], *want[start:stop]]))
    if x.row_shape:
        units = x[..., -1]
        assert same_bits(
            units.values_of(flat), torch.cat([want[0][:0], *want[start:stop]])[..., -1]
        )
    assert sum(len(chunk) for chunk in x.chunks(bytes=20)) == sum(map(len, want))


def test_rows_are_joined_as_torch_cat_does() -> None:
    """One leading dimension, selections of several, and tensors in memory."""
    x, _ = stored([(i, 1) for i in range(7)], counting(7, 2), table="examples")
    values = counting(7, 2)
    memory = torch.full((2, 2), 9.0)
    both = join([x, x[2:5], memory, x[[6, 0]]])
    want = torch.cat([values, values[2:5], memory, values[[6, 0]]])
    assert same_bits(both.load(), want)
    assert same_bits(both[[11, 3, 8]][:, 1].load(), want[[11, 3, 8]][:, 1])
    assert same_bits(both.rows.load(), want)
    assert same_bits(join([memory, memory]).load(), torch.cat([memory, memory]))
    y, _ = stored([(0, 4), (1, 4)], counting(8, 2))
    want = counting(8, 2).reshape(2, 4, 2)
    assert same_bits(
        join([y[:, [0, 2]], y[:, [1, 3]]]).load(), torch.cat([want[:, [0, 2]], want[:, [1, 3]]])
    )
    mixed = join([y, y[:, [0, 2]], torch.ones(1, 3, 2)])
    assert mixed.lengths.tolist() == [4, 4, 2, 2, 3]
    assert same_bits(mixed[3].load(), want[1, [0, 2]])


def test_rows_of_several_parts_go_backwards() -> None:
    """Rows in reverse order stay so where they are converted or computed with, block by block."""
    x, _ = stored([(0, 3), (1, 4)], counting(7, 2))
    y, _ = stored([(0, 5)], counting(5, 2) + 100)
    back = join([x, y]).rows[::-1]
    want = torch.cat([counting(7, 2), counting(5, 2) + 100]).flip(0)
    assert same_bits(back.double().load(), want.double())
    assert same_bits((back * 1).load(), want)
    assert same_bits(back[1::3].double().load(), want[1::3].double())


def test_no_examples_have_the_shape_of_their_parts() -> None:
    """As torch.cat of tensors of no examples: positions and units stay."""
    x, _ = stored([(0, 3), (1, 3)], counting(6, 2))
    assert join([x[:0], x[2:]]).shape == (0, 3, 2)
    assert join([x[:0], x[:, :2]]).shape == (2, 2, 2)


def test_joining_reads_and_copies_nothing() -> None:
    """Joined one after another, a hundred parts stay one floor; each part counts its own reads."""
    made = [stored([(0, 2), (1, 3)], counting(5, 4) + i) for i in range(100)]
    x = made[0][0]
    for one, _ in made[1:]:
        x = join([x, one])
    assert isinstance(x.source.reader, JoinedReader)
    assert len(x.source.reader.parts) == 100
    assert x.shape == (200, 3, 4)
    assert not any(sites.io.bytes for _, sites in made)
    assert len(set(x.source.examples().run.tolist())) == 100
    assert same_bits(x[120:122].padded()[1], counting(5, 4)[2:] + 60)
    assert {i for i, (_, sites) in enumerate(made) if sites.io.rows} == {60}
    assert (
        x.mean("rows").tolist()
        == torch.cat([counting(5, 4) + i for i in range(100)]).double().mean(0).tolist()
    )


def test_a_range_of_one_part_is_read_without_a_copy(tmp_path) -> None:
    """The map of the part's own reader, also behind other parts."""
    values = counting(20_000, 4)
    x, _ = stored(
        [(0, 20_000)], values, address=tmp_path / "a", chunk_rows=20_000, shard_rows=20_000
    )
    y, _ = stored([(0, 2)], counting(2, 4))
    lent = join([y, x])[1, :10_000].load()
    alone = x[0, :10_000].load()
    assert same_bits(lent, values[:10_000])
    # a private map has no allocator behind it that could be asked to grow: both are of one kind
    assert lent.untyped_storage().nbytes() == alone.untyped_storage().nbytes()


def test_what_does_not_fit_is_named() -> None:
    """Shapes of rows, leading dimensions, nothing at all, ragged and not."""
    x, _ = stored([(0, 2)], counting(2, 4))
    for other in (x[..., :3], x.rows, x[0, 0]):
        with pytest.raises(
            SelectionError, match="part 1 cannot be joined behind part 0: rows of shape"
        ):
            join([x, other])
    with pytest.raises(SelectionError, match="nothing to join"):
        join([])
    with pytest.raises(SelectionError, match="part 1 is a ndarray"):
        join([x, np.zeros((1, 2, 4))])
    ragged, _ = stored([(0, 2)], [torch.ones(2, 1), torch.ones(2, 2)])
    with pytest.raises(SelectionError, match="part 1 is not ragged"):
        join([ragged, x])
    with pytest.raises(SelectionError, match="other selections of queries or keys"):
        join([ragged, ragged[..., :1]])
    with pytest.raises(SelectionError, match="not of several examples"):
        join([ragged.rows, ragged.rows])
    with pytest.raises(SelectionError, match="heads"):
        join([ragged, ragged[:, :1]])


def test_joined_tensors_are_computed_with() -> None:
    """Two joined sites of the same parts have the same rows."""
    halves = [stored([(1, 3), (0, 2)], counting(5, 4) + i)[0] for i in range(2)]
    x = join(halves)
    y = join([half * 2 for half in halves])
    assert same_bits((y - x).rows.load(), x.rows.load())
    assert torch.equal((x * 2 == y).rows.load(), torch.ones(10, 4, dtype=torch.bool))
    assert same_bits(join([x > 3, x < 3])[2].load(), (x > 3)[2].load())


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_ragged_tensors_are_joined(data) -> None:
    """Patterns of several datasets, whole and selected, with their own widths."""
    made = []
    windows = st.sampled_from([slice(None), slice(1, None), slice(-1, None), slice(None, 2)])
    queries, keys = data.draw(windows), data.draw(windows)
    for _ in range(data.draw(st.integers(2, 3))):
        lengths = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
        order = data.draw(st.permutations(range(len(lengths))))
        dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16]))
        widths = [width for e in order for width in range(2, 2 + lengths[e])]
        rows = [counting(2, w).add(i).to(dtype) for i, w in enumerate(widths)]
        x, _ = stored([(e, lengths[e]) for e in order], rows)
        if data.draw(st.booleans()):
            numbers = st.integers(0, len(lengths) - 1)
            x = x[data.draw(st.lists(numbers, min_size=1, max_size=3))][:, [1, 0]]
        made.append(x[:, :, queries, keys])
    both = join(made)
    alone = [one for x in made for one in x]
    assert both.widths.tolist() == [n for x in made for n in x.widths.tolist()]
    for got, want in zip(both, alone, strict=True):
        assert same_bits(got.load(), want.load().to(both.dtype))
        assert same_bits(got[1].load(), want[1].load().to(both.dtype))
    one_head = join([x[:, 0] for x in made])
    assert same_bits(one_head[-1].load(), alone[-1][0].load().to(both.dtype))
    whole = (queries, keys) == (slice(None), slice(None))
    parts = join([both, both]).source.reader.parts
    assert len(parts) == (2 * len(made) if whole else 2)


def test_a_tensor_in_memory_is_a_lazy_tensor() -> None:
    """Of any dtype and number of leading dimensions, none included; read as a copy."""
    for dtype in (torch.float32, torch.bool, torch.uint32, torch.float8_e4m3fn):
        values = counting(6, 2, 2, dtype=dtype)
        x = from_tensor(values)
        assert same_bits(x[[4, 1], ..., 1].load(), values[[4, 1]][..., 1])
        assert same_bits(x[1:5].load(), values[1:5])
        assert same_bits(
            from_tensor(values.reshape(2, 3, 2, 2), lead_ndim=2)[1, 2].load(), values[5]
        )
    single = from_tensor(torch.tensor(2.5), lead_ndim=0)
    assert (single.shape, single.item(), (single + 1).item()) == (torch.Size([]), 2.5, 3.5)
    x = from_tensor(torch.zeros(3, 2))
    x.load().add_(1)
    assert not np.asarray(x).any()
