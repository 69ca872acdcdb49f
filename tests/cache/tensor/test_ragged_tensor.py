"""lazycache.cache.tensor.ragged_tensor: attention patterns, whose rows differ in width."""

import copy
from itertools import count

import numpy as np
import pytest
import torch
from cache_helpers import Dataset, same_bits
from hypothesis import given, settings
from hypothesis import strategies as st

from lazycache.cache.dataset.stored_sites import StoredSites
from lazycache.cache.joined.join import join
from lazycache.cache.reading.site_reader import SiteReader
from lazycache.cache.tensor.ragged_tensor import RaggedTensor
from lazycache.errors import MemoryBudgetError, SelectionError
from lazycache.samples import pattern_cache
from lazycache.storage.open_store import open_store

ALL = slice(None)
HEADS = 3
ends = st.none() | st.integers(-5, 5)
slices = st.builds(slice, ends, ends, st.none() | st.sampled_from([-2, -1, 1, 2]))
numbers = count()


def write(
    widths: list[list[int]], order: list[int], *, splits: int = 1, url: str = "memory://ragged"
) -> tuple[Dataset, dict[int, list[torch.Tensor]]]:
    """Store rows of these widths per example; return what each example must hold, row by row."""
    dataset = Dataset(open_store(f"{url}{next(numbers)}", create=True, storage_options=None))
    rows: dict[int, list[torch.Tensor]] = {e: [] for e in range(len(widths))}
    for part in range(splits):
        extents, values = [], []
        for e in order:
            mine = [
                torch.randn(HEADS, w, generator=torch.Generator().manual_seed(next(numbers)))
                for w in np.array_split(widths[e], splits)[part].tolist()
            ]
            rows[e] += [row.bfloat16() for row in mine]
            values += [row.bfloat16() for row in mine]
            extents += [(e, len(mine))] if mine else []
        if values:
            dataset.commit(extents, {"pattern_0": values}, chunk_rows=3, shard_rows=7)
    return dataset, rows


def dense(rows: list[torch.Tensor]) -> torch.Tensor:
    """[heads, queries, keys] of an example: a key that a row does not have is 0."""
    width = max((row.shape[1] for row in rows), default=0)
    values = torch.zeros(HEADS, len(rows), width, dtype=torch.bfloat16)
    for query, row in enumerate(rows):
        values[:, query, : row.shape[1]] = row
    return values


def by_dimension(values: torch.Tensor, index: tuple) -> torch.Tensor:
    """Index one dimension after the other, by numpy: torch has no negative steps."""
    words = values.contiguous().view(torch.int16).numpy()
    for d in reversed(range(len(index))):
        words = words[(*(slice(None),) * d, index[d])]
    return torch.from_numpy(np.array(words, order="C")).view(torch.bfloat16)


@st.composite
def patterns(draw: st.DrawFn, url: str = "memory://ragged"):
    """Examples as forward passes (one width) and generations (growing widths) leave them."""
    widths = []
    for _ in range(draw(st.integers(1, 4))):
        n, width = draw(st.integers(1, 5)), draw(st.integers(1, 6))
        grown = [max(1, width - n + 1 + q) for q in range(n)]
        widths.append(grown if draw(st.booleans()) else [width] * n)
    order = draw(st.permutations(range(len(widths))))
    dataset, rows = write(widths, list(order), splits=draw(st.integers(1, 2)), url=url)
    return dataset.cache(budget_bytes=1 << 20)["pattern_0"], [dense(r) for r in rows.values()]


def part_of(draw: st.DrawFn, size: int, *, array: bool) -> object:
    """Draw an index of a dimension of at least `size`."""
    if array:
        return draw(st.lists(st.integers(-size, size - 1), max_size=4)) if size else []
    return draw(slices | st.integers(-size, size - 1) if size else slices)


@given(patterns(), st.data())
def test_indexing_is_that_of_each_example(pair, data: st.DataObject) -> None:
    """Every index of examples, heads, queries and keys gives what Python gives of each example."""
    lazy, examples = pair
    at = data.draw(st.sampled_from([None, 0, 1, 2, 3]), label="array")
    example = part_of(data.draw, len(examples), array=at == 0)
    chosen = examples[example] if isinstance(example, slice) else None
    if isinstance(example, list):
        chosen = [examples[i] for i in example]
    left = [examples[example]] if chosen is None else chosen
    least = [min((e.shape[d] for e in left), default=0) for d in range(3)]
    rest = tuple(part_of(data.draw, least[d], array=at == d + 1) for d in range(3))
    want = [by_dimension(e, rest) for e in left]
    got = lazy[(example, *rest)]
    if chosen is None:
        assert same_bits(got.load(), want[0])
        assert got.shape == want[0].shape
        return
    assert len(got) == len(want)
    for mine, values in zip(got.chunks(), want, strict=True):
        assert same_bits(mine.contiguous(), values)
    if want:
        check_dense(got, want)


def check_dense(got: RaggedTensor, want: list[torch.Tensor]) -> None:
    """Several examples at once: padded always, loaded where they have one shape."""
    most = tuple(max(v.shape[d] for v in want) for d in range(want[0].ndim))
    padded = torch.full((len(want), *most), 7, dtype=torch.bfloat16)
    for target, values in zip(padded, want, strict=True):
        target[tuple(slice(n) for n in values.shape)] = values
    assert same_bits(got.padded(7), padded)
    assert got.shape == padded.shape
    assert got.nbytes == sum(v.nbytes for v in want)
    assert got.is_ragged == (len({v.shape for v in want}) > 1)
    if got.is_ragged:
        with pytest.raises(SelectionError, match=r"padded\(value\)"):
            got.load()
    else:
        assert same_bits(got.load(), torch.stack(want))


@given(patterns(), slices, slices, slices, slices)
def test_views_of_views_compose(pair, over, first, second, keys) -> None:
    """Slices of slices, of queries and of keys, are those of Python."""
    lazy, examples = pair
    got = lazy[over][:, :, first][:, 1:, second][..., keys][..., ::2]
    want = []
    for values in examples[over]:
        for index in ((ALL, first), (slice(1, None), second), (ALL, ALL, keys)):
            values = by_dimension(values, index)  # noqa: PLW2901
        want.append(by_dimension(values, (ALL, ALL, slice(None, None, 2))))
    assert [v.tolist() for v in got.chunks()] == [w.tolist() for w in want]
    assert got.lengths.tolist() == [w.shape[1] for w in want]
    assert got.widths.tolist() == [w.shape[2] for w in want]


@given(patterns())
def test_rows_have_their_own_keys(pair) -> None:
    """`.rows` are the stored rows in storage order, each as wide as it was stored."""
    lazy, examples = pair
    rows = lazy.rows
    order = np.argsort(np.concatenate([lazy[i].rows.selection.rows for i in range(len(lazy))]))
    whole = [e[:, q] for e in examples for q in range(e.shape[1])]
    assert len(rows) == rows.count() == len(whole) == lazy.count()
    widths = rows.widths
    for i, at in enumerate(order.tolist()):
        want = whole[at][:, : int(widths[i])]
        assert not whole[at][:, int(widths[i]) :].any()
        assert same_bits(rows[i].load(), want.contiguous())
        assert same_bits(rows[i, 1].load(), want[1].contiguous())
        assert same_bits(rows[i, :, -1].load(), want[:, -1].contiguous())


@pytest.mark.parametrize("store", ["local", "memory"])
def test_the_same_from_a_disk_and_from_a_store(tmp_path, store: str) -> None:
    """Every example, head and row, whatever the distance."""
    widths = [[5, 5, 5], [2], [3, 4, 5, 6], [9] * 8, [1]]
    url = str(tmp_path / "d") if store == "local" else "memory://ragged"
    dataset, rows = write(widths, [3, 0, 2, 4, 1], splits=2, url=url)
    want = {example: dense(mine) for example, mine in rows.items()}
    for gap in (0, 8, 64 << 10):
        sites = StoredSites(dataset.store, dataset.snapshot)
        sites.reader = SiteReader(dataset.store, dataset.snapshot, io=sites.io, max_gap=gap)
        lazy = sites.tensor("pattern_0")
        for example, values in want.items():
            assert same_bits(lazy[example].load(), values)
            assert same_bits(lazy[example, [2, 0]].load(), values[[2, 0]])
            assert same_bits(lazy[example, 1, ::2, 1:].load(), values[1, ::2, 1:].contiguous())
        check_dense(lazy[:, 2], [values[2] for values in want.values()])


def small() -> tuple[RaggedTensor, list[torch.Tensor]]:
    dataset, rows = write([[4, 4], [2, 3, 4], [1]], [0, 1, 2])
    return dataset.cache(budget_bytes=400)["pattern_0"], [dense(r) for r in rows.values()]


def test_repr_reads_nothing() -> None:
    """It shows what is known without a read: not how many keys there are."""
    lazy, _ = small()
    assert repr(lazy).startswith("RaggedTensor(pattern_0: shape=(3, 3, ≤3, keys), dtype=bfloat16, ")
    assert "shape=(3, keys), dtype=float64, device=meta" in repr(
        lazy[1, 0].to("meta", torch.float64)
    )
    assert "shape=(3, 3), " in repr(lazy[:, :, 0, 0])
    assert (lazy.ndim, lazy[0, 1].ndim, lazy.dtype) == (4, 2, torch.bfloat16)
    cache = pattern_cache()
    repr(cache["pattern_0"])
    assert (len(cache["pattern_0"]), cache.io.bytes) == (3, 0)


def test_dtype_and_device_of_what_is_loaded() -> None:
    """Converted after it is read; bfloat16 becomes float32 in numpy."""
    lazy, examples = small()
    assert same_bits(lazy[1].to(torch.float32).load(), examples[1].float())
    padded = lazy.to(torch.float64).padded()
    assert padded.dtype == torch.float64
    assert same_bits(padded[1], examples[1].double())
    assert lazy[1].load(device="meta").device.type == "meta"
    assert lazy.to("meta").padded().shape == (3, 3, 3, 4)
    array = lazy[1].numpy()
    assert array.dtype == np.float32
    assert np.array_equal(np.asarray(lazy[1]), examples[1].float().numpy())
    assert [v.dtype for v in lazy.to(torch.float64).chunks()] == [torch.float64] * 3
    with pytest.raises(SelectionError, match="one dtype, one device"):
        lazy.to(torch.float16, torch.float32)


def test_torch_functions_and_aggregates_load_the_selection() -> None:
    """Within the budget; of ragged examples they say what else there is."""
    lazy, examples = small()
    one = lazy[1]
    assert same_bits(torch.softmax(one, -1), torch.softmax(examples[1], -1))
    assert same_bits(one + 1, examples[1] + 1)
    assert same_bits(one.mean(-1), examples[1].double().mean(-1))
    assert same_bits(one.max((0, 2), keepdim=True), examples[1].amax((0, 2), keepdim=True))
    assert torch.equal(torch.sum(one, 1), examples[1].double().sum(1).bfloat16())
    assert np.allclose(np.mean(one, axis=0), examples[1].float().mean(0))
    assert one[0, 0, 0].item() == examples[1][0, 0, 0].item()
    assert lazy.count() == 6
    with pytest.raises(SelectionError, match=r"x\.padded"):
        torch.exp(lazy)
    with pytest.raises(SelectionError, match="use numbers"):
        lazy.mean("rows")
    with pytest.raises(SelectionError, match=r"lengths and \.widths"):
        lazy.count(1)
    with pytest.raises(MemoryBudgetError):
        torch.exp(write([[9] * 9], [0])[0].cache(budget_bytes=400)["pattern_0"])


def test_a_ragged_and_another_lazy_tensor_meet_in_one_function() -> None:
    """Both are loaded, whichever comes first."""
    cache = pattern_cache()
    pattern, z = cache["pattern_0"][1], cache["z_0"][1][:, :, 0]
    assert torch.equal(torch.matmul(pattern[0], z), pattern[0].load() @ z.load())
    assert torch.equal(z[0] * pattern[:, 0, 0], z[0].load() * pattern[:, 0, 0].load())


@pytest.mark.parametrize(
    ("index", "says"),
    [
        ((3,), "out of bounds"),
        ((0, 3), "out of bounds"),
        ((slice(None), 0, 1), "query 1 of entry 2 of the first dimension, which has 1 here"),
        ((slice(None), 0, [0, -2]), "query 0, -2 of entry 2"),
        ((0, 0, 0, 0, 0), "5 indices for 4 dimensions"),
        (([0, 1], [0, 1]), "paired up"),
        ((0, 0, 0, torch.ones(4, dtype=torch.bool)), "differs from example to example"),
        (([[0, 1]],), "one dimension"),
        ((torch.ones(2, 3, dtype=torch.bool),), "mask over several dimensions"),
        ((None,), "None adds no dimension"),
    ],
)
def test_an_index_that_does_not_fit_says_why(index: tuple, says: str) -> None:
    """At once, where nothing has to be read to know."""
    with pytest.raises(SelectionError, match=says):
        small()[0][index]


def test_a_key_that_is_not_there_is_refused_when_it_is_read() -> None:
    """How many keys an example has is in the file; the first that has fewer is named."""
    lazy, examples = small()
    chosen = lazy[..., 3]
    with pytest.raises(SelectionError, match=r"key 3 of entry 2 .* which has 1 here"):
        chosen.padded()
    assert same_bits(chosen[:2, :, -1].load(), torch.stack([e[:, -1, 3] for e in examples[:2]]))
    with pytest.raises(SelectionError, match=r"take \.rows first"):
        _ = chosen.rows


def test_masks_choose_examples_and_heads() -> None:
    """A mask of one dimension, as long as it."""
    lazy, examples = small()
    got = lazy[torch.tensor([False, True, False])][:, torch.tensor([True, False, True])]
    assert same_bits(got.load()[0], examples[1][[0, 2]])
    assert same_bits(lazy[1, :, [True, False, True]].load(), examples[1][:, [0, 2]])
    for wrong in ((torch.tensor([True]),), (slice(None), 0, [True, False])):
        with pytest.raises(SelectionError, match=r"mask|boolean"):
            lazy[wrong]


def test_padding_at_the_left() -> None:
    """Queries and keys of each example end where those of the longest do."""
    lazy, examples = small()
    padded = lazy.padded(5, "left")
    for got, want in zip(padded, examples, strict=True):
        assert same_bits(got[:, -want.shape[1] :, -want.shape[2] :].clone(), want)
    assert (padded == 5).sum() == padded.numel() - sum(e.numel() for e in examples)
    with pytest.raises(SelectionError, match="'right' or 'left'"):
        lazy.padded(side="up")


def test_examples_without_rows_are_there_and_empty() -> None:
    """An example that the site does not cover has no query; nothing is made up for it."""
    dataset, rows = write([[2, 2], [3]], [0, 1])
    dataset.commit([(2, 2)], {"other": torch.zeros(2, 1)})
    lazy = dataset.cache()["pattern_0"]
    assert lazy.lengths.tolist() == [2, 1, 0]
    assert lazy.widths.tolist() == [2, 3, 0]
    assert lazy.covered.tolist() == [True, True, False]
    assert lazy[2].load().shape == (3, 0, 0)
    assert same_bits(lazy.padded(5)[2], torch.full((3, 2, 3), 5, dtype=torch.bfloat16))
    assert [tuple(v.shape) for v in lazy[..., [0]].chunks()] == [(3, 2, 1), (3, 1, 1), (3, 0, 1)]
    assert same_bits(lazy[1].load(), dense(rows[1]))
    none = lazy[[]]
    assert none.load().shape == none.shape == (0, 3, 0, 0)
    assert list(none.chunks()) == []


def test_has_no_length_or_truth_where_there_is_none() -> None:
    """A single value has no length; lengths are of examples."""
    lazy, _ = small()
    with pytest.raises(SelectionError, match="no length"):
        len(lazy[0, 0, 0, 0])
    with pytest.raises(SelectionError, match="neither true nor false"):
        bool(lazy)
    with pytest.raises(SelectionError, match=r"no lengths: see \.shape"):
        _ = lazy[0].lengths
    with pytest.raises(SelectionError, match="does not hold it"):
        lazy.padded(1e99)
    assert [x.site for x in lazy] == ["pattern_0"] * 3


@settings(max_examples=20)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=30), st.integers(1, 4))
def test_many_examples_are_read_in_batches(lengths: list[int], most: int) -> None:
    """However small a batch is, all examples are read once and in order."""
    from lazycache.cache.selecting.ragged_selection import batches

    cut = batches(np.array(lengths), most=most * 100)
    assert [n for part in cut for n in lengths[part]] == lengths
    assert all(sum(lengths[p]) <= most * 100 or len(lengths[p]) == 1 for p in cut)


def test_what_a_dtype_has_rounded_stays_rounded() -> None:
    """Converted twice is converted twice, as in torch; also copied, joined, and by one example."""
    dataset, rows = write([[1, 2, 3], [2, 2]], [0, 1], url="memory://ragged-twice")
    x, examples = dataset.cache()["pattern_0"], [dense(r) for r in rows.values()]
    flags = copy.deepcopy(x.bool()).float()
    want = [values.bool().float() for values in examples]
    assert [same_bits(*pair) for pair in zip(flags.chunks(), want, strict=True)] == [True, True]
    assert same_bits(flags[1].load(), want[1])
    for one in (flags, flags[1:, 0]):  # as it is unpickled
        again = RaggedTensor._restored(one.source, one._selected()).to(torch.float32)
        assert same_bits(again.padded(), one.padded())
    assert same_bits(flags[:, 0].padded()[0], want[0][0])
    both = join([x.bool(), x.float()])
    assert same_bits(both[0].load(), want[0])
    assert same_bits(both[2].load(), examples[0].float())
