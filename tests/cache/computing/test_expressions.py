"""Operators on lazy tensors are lazy, and what torch would give."""

import itertools
import operator
import pickle
import threading

import numpy as np
import pytest
import torch
from cache_helpers import Dataset, counting, same_bits
from hypothesis import given, settings
from hypothesis import strategies as st

from lazycache.cache.computing.derived_reader import BLOCK_VALUES
from lazycache.cache.dataset.stored_sites import StoredSites
from lazycache.errors import SelectionError, UnsupportedDtypeError
from lazycache.storage.open_store import open_store

_names = itertools.count()

BINARY = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "<": operator.lt, ">=": operator.ge,
    "==": operator.eq, "&": operator.and_, "|": operator.or_, "^": operator.xor,
}  # fmt: skip
BY_NUMBER = {"/": operator.truediv, "//": operator.floordiv, "%": operator.mod, "**": operator.pow}
UNARY = {"-": operator.neg, "abs": operator.abs, "~": operator.invert}
DTYPES = [torch.float32, torch.bfloat16, torch.float64, torch.int32, torch.uint8, torch.bool]


def stored(commits, *, address="memory", chunk_rows=3, shard_rows=5, **options):
    """Return the sites of a dataset; `commits` are (examples, sites, run)."""
    url = f"memory://expressions{next(_names)}" if address == "memory" else str(address)
    dataset = Dataset(open_store(url, create=True, storage_options=None))
    for examples, sites, run in commits:
        dataset.commit(examples, sites, run=run, chunk_rows=chunk_rows, shard_rows=shard_rows)
    return StoredSites(dataset.store, dataset.snapshot, **options)


class World:
    """Two sites of some examples, stored in any order, and all of it as padded torch tensors."""

    def __init__(self, lengths, order, row, dtypes) -> None:
        shape = (len(lengths), max(lengths), *row)
        self.there = torch.arange(shape[1])[None, :] < torch.tensor(lengths)[:, None]
        self.order = order
        self.values = {
            name: counting(shape[0] * shape[1], *row, dtype=dtype).reshape(shape)
            for name, dtype in zip("xy", dtypes, strict=True)
        }
        sites = {name: self.rows(values) for name, values in self.values.items()}
        self.sites = stored([([(e, lengths[e]) for e in order], sites, "main")])
        self.leaves = {
            name: (self.sites.tensor(name), values) for name, values in self.values.items()
        }
        x, values = self.leaves["x"]
        some = {
            "2": 2,
            "1.5": 1.5,
            "0-d": torch.tensor(3.0, dtype=torch.float64),
            "row": counting(1, *row, dtype=torch.int32)[0],
            "one": counting(1, 1, *row),
            "example": counting(shape[0], 1, *(1,) * len(row)).bfloat16(),
            "all": counting(shape[0] * shape[1], *row).reshape(shape),
            "positions": counting(shape[1], *(1,) * len(row), dtype=torch.int64),
        }
        self.leaves |= {name: (value, value) for name, value in some.items()}
        self.leaves["a row of x"] = (x[0, 0], values[0, 0])
        self.leaves["first of each"] = (x[:, :1], values[:, :1])

    def rows(self, values):
        """The rows that there are, as they are stored."""
        return torch.cat([values[e][self.there[e]] for e in self.order])

    def both(self, tree):
        """The value of a tree of lazy tensors, and of torch tensors."""
        if isinstance(tree, str):
            return self.leaves[tree]
        op, *operands = tree
        function = {1: UNARY, 2: BINARY}[len(operands)].get(op) or BY_NUMBER[op]
        lazy, eager = zip(*map(self.both, operands), strict=True)
        return function(*lazy), function(*eager)


LEAVES = [
    "x", "y", "2", "1.5", "0-d", "row", "one", "example", "all", "positions", "a row of x",
    "first of each",
]  # fmt: skip


def _grown(children):
    return st.one_of(
        st.tuples(st.sampled_from(sorted(BINARY)), children, children),
        st.tuples(st.sampled_from(sorted(BY_NUMBER)), children, st.just("2")),
        st.tuples(st.sampled_from(sorted(UNARY)), children),
    )


TREES = st.recursive(st.sampled_from(LEAVES), _grown, max_leaves=6)


@st.composite
def worlds(draw):
    lengths = draw(
        st.lists(st.integers(1, 4), min_size=1, max_size=4)
        | st.tuples(st.integers(1, 4), st.integers(1, 4)).map(lambda n: [n[0]] * n[1])
    )
    order = draw(st.permutations(range(len(lengths))))
    row = draw(st.sampled_from([(), (3,), (2, 3)]))
    return World(lengths, order, row, draw(st.tuples(*[st.sampled_from(DTYPES)] * 2)))


@settings(max_examples=150, deadline=None)
@given(world=worlds(), tree=TREES, data=st.data())
def test_expressions_are_what_torch_gives(world, tree, data) -> None:
    """Any tree of operators, of tensors ragged and not: every bit, dtype and shape, any part."""
    tree = ("+", "x", tree) if world.both("x")[1].dtype != torch.bool else ("|", "x", tree)
    try:
        # what torch refuses for these dtypes, and what has no place in a dataset
        want = _eager(world, tree)
    except (RuntimeError, TypeError):
        with pytest.raises((RuntimeError, TypeError, SelectionError)):
            world.both(tree)[0].padded()
        return
    if "of each" in str(tree) or "a row" in str(tree):
        # fewer rows than those of what they are computed with are not repeated lazily
        refused = _refusal(world, tree)
        if refused:
            assert ".load()" in refused
            return
    got = world.both(tree)[0]
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    assert same_bits(got.padded()[world.there], want[world.there])
    assert same_bits(got.rows.load(), world.rows(want))
    example = data.draw(st.integers(0, len(want) - 1))
    assert same_bits(got[example].load(), want[example][world.there[example]])
    if len(want.shape) > 2:
        unit = data.draw(st.integers(0, want.shape[-1] - 1) | st.just(slice(None, None, 2)))
        assert same_bits(got[:, 0, ..., unit].load(), want[:, 0, ..., unit])
    chosen = data.draw(st.lists(st.integers(0, len(want) - 1), min_size=1, max_size=3))
    again = got[chosen]
    if want.dtype != torch.bool:
        there = world.there[chosen]
        twice = (again + again).rows.lead.flat(), (again + again).padded()
        assert len(twice[0]) == there.sum()
        assert same_bits(twice[1][there[:, : again.shape[1]]], (want + want)[chosen][there])


def _refusal(world, tree):
    try:
        world.both(tree)
    except SelectionError as exc:
        return str(exc)
    return ""


def _eager(world, tree):
    if isinstance(tree, str):
        return world.leaves[tree][1]
    op, *operands = tree
    function = {1: UNARY, 2: BINARY}[len(operands)].get(op) or BY_NUMBER[op]
    return function(*(_eager(world, one) for one in operands))


@pytest.fixture
def world():
    """Examples of 2, 4 and 3 rows of 8 units, stored out of order."""
    return World([2, 4, 3], [2, 0, 1], (8,), (torch.float32, torch.float32))


def test_nothing_is_read_before_it_is_asked_for(world) -> None:
    """Building an expression reads nothing; of a part, these rows and units are read alone."""
    x, y = world.leaves["x"][0], world.leaves["y"][0]
    io = world.sites.io
    found = (abs(x - y) * 2 + torch.ones(8) > x[0, 0]) | (x[:, :1] == 1)
    assert io.bytes == 0
    part = (x - y)[1, 2, 3:5]
    part.load()
    assert (io.rows, io.bytes) == (2, 2 * 2 * 4)
    io.reset()
    assert found[1, 1:3].shape == (2, 8)
    x.map(lambda rows: rows * 2)[1, 1:3].load()
    assert (io.rows, io.bytes) == (2, 2 * 8 * 4)


def test_what_is_used_twice_is_read_once(world) -> None:
    """Also through many operators: an expression costs its steps and not its paths."""
    x, values = world.leaves["x"]
    io = world.sites.io
    y, want = x, values
    for _ in range(40):
        y, want = (y + y) / 2, (want + want) / 2
    assert same_bits(y[1].load(), want[1])
    assert io.rows == 4
    for _ in range(2000):
        y = y + 1
    assert same_bits(y[0].load(), want[0][:2] + 2000)


def test_a_mean_of_norms_of_differences_streams() -> None:
    """Each operand is read once, in blocks, though nothing of its size would fit the budget."""
    rows, units = 40_000, 16
    a, b = (torch.randn(rows, units, generator=torch.Generator().manual_seed(i)) for i in (1, 2))
    commit = ([(0, rows)], {"a": a, "b": b}, "main")
    sites = stored([commit], chunk_rows=8192, shard_rows=20_000, budget_bytes=1000)
    blocks = []

    def looked_at(values):
        blocks.append(len(values))
        return values

    lazy = (sites.tensor("a") - sites.tensor("b")).map(looked_at).norm(dim=-1).mean()
    assert sites.io.rows == 2 * rows
    assert max(blocks) * units <= BLOCK_VALUES
    assert torch.allclose(lazy.double(), (a - b).double().norm(dim=-1).mean())


def test_tensors_of_two_runs_and_datasets(world) -> None:
    """The same examples of two models are paired up, wherever their rows are."""
    x, values = world.leaves["x"]
    extents = [(e, int(world.there[e].sum())) for e in range(3)]
    rows = values[world.there]
    other = stored([(extents, {"x": rows + 1}, "main")]).tensor("x")
    assert same_bits((other - x).padded()[world.there], torch.ones_like(rows))
    assert same_bits((x - other).rows.load(), -torch.ones_like(rows))
    assert ((x - other).rows.load() == (x * 2).rows.load() - (x * 2).rows.load() - 1).all()
    both = stored([(extents, {"x": rows}, "base"), (extents, {"x": rows + 2}, "tuned")]).tensor("x")
    assert same_bits((both[3:] - both[:3]).padded()[world.there], rows * 0 + 2)
    assert (both[3:] - both[:3]).source.examples().example.tolist() == [0, 1, 2]


def test_what_does_not_belong_together_is_refused(world) -> None:
    """Other examples, other lengths, rows that would be repeated: said, and never computed."""
    x = world.leaves["x"][0]
    rows = counting(9, 8)
    moved = stored([([(0, 2), (1, 4), (5, 3)], {"x": rows}, "main")]).tensor("x")
    with pytest.raises(SelectionError, match="entry 2 is example 2 in the one and 5 in the other"):
        _ = x - moved
    longer = stored([([(0, 3), (1, 4), (2, 2)], {"x": rows}, "main")]).tensor("x")
    with pytest.raises(SelectionError, match="example 0 has 2 rows and 3"):
        _ = x - longer
    runs = stored([([(0, 2), (1, 4)], {"x": rows[:6]}, "a"), ([(2, 3)], {"x": rows[6:]}, "b")])
    with pytest.raises(SelectionError, match="of several runs in the other"):
        _ = x - runs.tensor("x")
    for other in (torch.ones(2, 3, 4, 8), torch.ones(2, 1, 8), torch.ones(5)):
        with pytest.raises(SelectionError, match="of shapes"):
            _ = x + other
    with pytest.raises(SelectionError, match="as many dimensions as each other"):
        _ = x + x[..., 0]
    with pytest.raises(SelectionError, match="none has all their rows"):
        _ = x[:, :1] + x[:1, :2]
    with pytest.raises(UnsupportedDtypeError, match="complex"):
        _ = x + 1j
    with pytest.raises(TypeError, match="unsupported operand"):
        x + "a"
    assert (x == None) is False  # noqa: E711


def test_a_tensor_that_is_changed_later_is_said(world) -> None:
    """What was computed with it would be something else than what was written down."""
    t = torch.ones(8)
    y = world.leaves["x"][0] + t
    y[0].load()
    t += 1
    with pytest.raises(SelectionError, match="changed in place"):
        y[0].load()
    array = np.ones(8, dtype=np.float32)
    z = world.leaves["x"][0] * array
    array += 1
    assert same_bits(z[0, 0].load(), world.leaves["x"][1][0, 0])


def test_matrix_products_are_of_each_row(world) -> None:
    """With a matrix, a vector, and of matrices with each other; what mixes rows is refused."""
    x, values = world.leaves["x"]
    w = counting(8, 3) % 5
    for got, want in ((x @ w, values @ w), (x @ w[:, 0], values @ w[:, 0])):
        assert same_bits(got.padded()[world.there], want[world.there])
    assert same_bits(((x @ w)[1, 2:] * 2).load(), (values @ w)[1, 2:] * 2)
    square = World([2, 3], [1, 0], (2, 2), (torch.float32, torch.float32))
    (a, want_a), (b, want_b) = square.leaves["x"], square.leaves["y"]
    assert same_bits((a @ b).rows.load(), square.rows(want_a @ want_b))
    assert same_bits((w[:2, :2] @ a).rows.load(), square.rows(w[:2, :2] @ want_a))
    assert same_bits((x[0, 0] @ w).load(), values[0, 0] @ w)
    for mixing in (
        lambda: w.T @ x,
        lambda: x @ torch.ones(3, 8, 2),
        lambda: x[..., 0] @ w,
        lambda: x @ x,
    ):
        with pytest.raises(SelectionError, match="@ of shapes"):
            mixing()


def test_map_computes_rows_of_any_shape(world) -> None:
    """What it gives is learned from two rows of zeros; it may write to its argument."""
    x, values = world.leaves["x"]
    seen = []

    def split(rows):
        seen.append(len(rows))
        return rows.mul_(2).reshape(-1, 2, 4).to(torch.float64)

    y = x.map(split)
    assert (y.shape, y.dtype, seen) == (torch.Size([3, 4, 2, 4]), torch.float64, [2])
    want = (values * 2).reshape(3, 4, 2, 4).double()
    assert same_bits(y.padded()[world.there], want[world.there])
    assert same_bits((y[..., 1, :] - 1)[1, 3].load(), want[1, 3, 1] - 1)
    assert same_bits((x.map(torch.relu) + x).rows.load(), world.rows(values * 2))
    assert (
        x.map(lambda rows: rows[:, 0], shape=(), dtype=torch.float32)[2, 0].item()
        == values[2, 0, 0]
    )
    with pytest.raises(SelectionError, match="a result for each row"):
        x.map(lambda rows: rows.sum(0))
    wrong = x.map(lambda rows: rows[:1], shape=(8,), dtype=torch.float32)
    with pytest.raises(SelectionError, match="a result of one shape"):
        wrong[1].load()


def test_what_a_function_keeps_is_not_what_is_loaded(world) -> None:
    """A loaded result is the caller's own, also where the function gives memory of its own."""
    x, _ = world.leaves["x"]
    kept = torch.zeros(1, 8)
    y = x.map(lambda rows: kept.expand(len(rows), 8))
    y[1, :1].load().fill_(7)
    assert not kept.any()
    assert not y[1, :1].load().any()


def test_results_are_lazy_tensors_in_full(world) -> None:
    """Indexed, masked with, converted, pickled as far as their functions can be."""
    x, values = world.leaves["x"]
    y = (x * 2).to(torch.float64) + 1
    want = values.double() * 2 + 1
    assert same_bits(
        y[:, -1, 2:4].load(), torch.stack([want[0, 1], want[1, 3], want[2, 2]])[:, 2:4]
    )
    keep = x[..., 0] % 16 == 0
    mask = (values[..., 0] % 16 == 0) & world.there
    assert same_bits(x[keep].load(), values[mask])
    assert [len(part) for part in y.chunks(bytes=200)] == [3, 3, 3]
    assert len({y, y + 0}) == 2
    assert (x == 10**6).any().item() is False
    assert 3 in x
    assert 777 not in x
    assert [tuple(one.shape) for one in y] == [(2, 8), (4, 8), (3, 8)]
    with pytest.raises(SelectionError, match="neither true nor false"):
        bool(x == 1)


def test_operators_with_tensors_and_arrays_on_the_left(world) -> None:
    """`tensor + x` is lazy as `x + tensor` is; numpy's functions give arrays."""
    x, values = world.leaves["x"]
    ones = torch.full((8,), 2.0)
    for function in (*BINARY.values(), *BY_NUMBER.values()):
        if function in (operator.and_, operator.or_, operator.xor):
            continue
        for left in (ones, ones.numpy(), np.float32(2), 2):
            eager = ones if isinstance(left, np.ndarray) else left
            got = function(left, x[1])
            assert type(got) is type(x)
            assert same_bits(got.load(), function(eager, values[1]))
    assert isinstance(np.add(x[1], 1), np.ndarray)
    assert isinstance(torch.add(ones, x[1]), torch.Tensor)
    changed = ones.clone()
    changed += x[1, 0]
    assert same_bits(changed, ones + values[1, 0])


def test_threads_share_an_expression(world) -> None:
    """Eight threads read one expression at once and see the same bits."""
    x, y = world.leaves["x"][0], world.leaves["y"][0]
    lazy = abs(x - y * 2) @ counting(8, 4) + x[:, :1, :4]
    want = lazy.rows.load()
    wrong = []

    def read() -> None:
        wrong.extend(1 for _ in range(20) if not same_bits(lazy.rows.load(), want))

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_an_expression_over_memory_is_pickled(world) -> None:
    """With the tensors it is made of; a function that has no name cannot be."""
    from lazycache.cache.joined.memory_reader import from_tensor

    x = from_tensor(torch.arange(6.0).reshape(3, 2))
    again = pickle.loads(pickle.dumps((x + torch.ones(2)) * 2))
    assert same_bits(again.load(), (torch.arange(6.0).reshape(3, 2) + 1) * 2)
