"""Stacks: several sites as one tensor, against torch.stack of what they hold."""

import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from cache_helpers import Dataset, counting, same_bits
from hypothesis import given, settings
from hypothesis import strategies as st

import lazycache as lc
from lazycache.cache.stacks.stack import LazyStack
from lazycache.cache.tensor.lazy_tensor import LazyTensor
from lazycache.errors import MemoryBudgetError, SelectionError, SiteNotFoundError
from lazycache.samples import pattern_cache
from lazycache.storage.open_store import open_store

LAYERS, EXAMPLES, LENGTH, UNITS = 4, 3, 5, 6
ROWS = EXAMPLES * LENGTH


def values(layer: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(layer)
    return torch.randn(ROWS, UNITS, generator=generator)


def uniform(**options: object) -> lc.ActivationCache:
    dataset = Dataset(open_store("memory://stack", create=True, storage_options=None))
    sites = {f"resid_out_{layer}": values(layer) for layer in range(LAYERS)}
    dataset.commit([(example, LENGTH) for example in range(EXAMPLES)], sites)
    return dataset.cache(**options)


def ragged() -> lc.ActivationCache:
    dataset = Dataset(open_store("memory://ragged", create=True, storage_options=None))
    sites = {f"resid_out_{layer}": values(layer) for layer in range(LAYERS)}
    dataset.commit([(0, 7), (1, 2), (2, 6)], sites)
    return dataset.cache()


STACK = uniform().stack("resid_out_*")
DENSE = torch.stack([values(i).reshape(EXAMPLES, LENGTH, UNITS) for i in range(LAYERS)])


def _part(size: int) -> st.SearchStrategy:
    slices = st.slices(size).filter(lambda s: (s.step or 1) > 0 and len(range(size)[s]) > 0)
    return st.one_of(st.integers(-size, size - 1), slices, st.just(slice(None)))


@st.composite
def indices(draw: st.DrawFn) -> tuple:
    """Parts for the first and for the last dimensions, at most one of them an array."""
    first = draw(st.integers(0, DENSE.ndim))
    last = draw(st.integers(0, DENSE.ndim - first))
    dims = [*range(first), *range(DENSE.ndim - last, DENSE.ndim)]
    parts = [draw(_part(DENSE.shape[d])) for d in dims]
    if dims and draw(st.booleans()):
        at = draw(st.integers(0, len(dims) - 1))
        places = st.integers(-DENSE.shape[dims[at]], DENSE.shape[dims[at]] - 1)
        parts[at] = draw(st.lists(places, min_size=1, max_size=5))
    ellipsis = [Ellipsis] if last or draw(st.booleans()) else []
    return (*parts[:first], *ellipsis, *parts[first:])


@settings(max_examples=100, deadline=None)
@given(indices())
def test_an_index_selects_what_torch_selects(index: tuple) -> None:
    """Shape and bits of any index are those of the stacked tensors; composing it reads nothing."""
    STACK_IO.reset()
    chosen, want = STACK[index], DENSE[index]
    assert STACK_IO.bytes == 0
    assert chosen.shape == want.shape
    assert chosen.ndim == want.ndim
    assert chosen.nbytes == want.nbytes
    assert same_bits(chosen.load(), want.contiguous())


STACK_IO = STACK.members[0].source.reader.io


DIMS = st.lists(st.integers(0, 3), min_size=1, max_size=4, unique=True)
TORCH: dict[str, Callable] = {
    "mean": torch.mean,
    "sum": torch.sum,
    "min": torch.amin,
    "max": torch.amax,
    "var": torch.var,
    "std": torch.std,
    "norm": torch.linalg.vector_norm,
}


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(TORCH)), DIMS, st.booleans())
def test_an_aggregate_is_that_of_torch(op: str, dims: list[int], keepdim: bool) -> None:
    """Over any dimensions, the layers among them or not, with float64 as the yardstick."""
    wide = DENSE if op in ("min", "max") else DENSE.double()
    want = TORCH[op](wide, dim=dims, keepdim=keepdim)
    found = getattr(STACK, op)(dims, keepdim=keepdim)
    found = found if isinstance(found, torch.Tensor) else found.load()
    assert found.dtype == want.dtype
    assert found.shape == want.shape
    torch.testing.assert_close(found, want, rtol=1e-12, atol=1e-12, equal_nan=True)


def test_aggregates_over_rows_are_those_of_each_layer() -> None:
    """Of examples of different length too: one result for each layer."""
    stack = ragged().stack("resid_out_*")
    rows = torch.stack([values(layer) for layer in range(LAYERS)]).double()
    torch.testing.assert_close(stack.mean("rows"), rows.mean(1))
    torch.testing.assert_close(stack.var("rows", correction=0), rows.var(1, correction=0))
    torch.testing.assert_close(stack.std((0, 1, 2)), rows.std((0, 1)))
    torch.testing.assert_close(stack.std(), rows.std())
    parts = [part.flatten(0, 1) for part in rows.split([7, 2, 6], dim=1)]
    torch.testing.assert_close(stack.var((0, 2)), torch.stack([part.var(0) for part in parts]))
    assert stack.count().tolist() == [ROWS] * LAYERS
    assert stack.count(2).tolist() == [[7, 2, 6]] * LAYERS
    with pytest.raises(SelectionError, match="count over layers"):
        stack.count(0)


def test_examples_of_different_length_stay_apart() -> None:
    """Lengths, padding and rows are those of each layer; a dense load says what else there is."""
    stack = ragged().stack("resid_out_*")
    assert stack.shape == (LAYERS, 3, 7, UNITS)
    assert stack.is_ragged
    assert stack.lengths.tolist() == [7, 2, 6]
    assert stack.nbytes == LAYERS * ROWS * UNITS * 4
    padded = stack.padded(-1)
    assert same_bits(padded[2, 1, :2], values(2)[7:9])
    assert bool((padded[:, 1, 2:] == -1).all())
    assert same_bits(stack.rows.load(), torch.stack([values(layer) for layer in range(LAYERS)]))
    assert same_bits(stack[:, :, -1].load()[3], values(3)[[6, 8, 14]])
    with pytest.raises(SelectionError, match="padded"):
        stack.load()


def test_layers_have_names() -> None:
    """A layer is found by its name or several by theirs; an unknown one names the nearest."""
    assert STACK.names == tuple(f"resid_out_{layer}" for layer in range(LAYERS))
    assert same_bits(STACK["resid_out_2", 1].load(), DENSE[2, 1])
    chosen = STACK[["resid_out_3", "resid_out_1"], :, 0]
    assert chosen.names == ("resid_out_3", "resid_out_1")
    assert same_bits(chosen.load(), DENSE[[3, 1], :, 0])
    assert [layer.site for layer in STACK] == list(STACK.names)
    assert STACK[torch.tensor([True, False, False, True])].names == ("resid_out_0", "resid_out_3")
    with pytest.raises(SelectionError, match=r"no layer 'resid_out_9' in this stack\. Nearest"):
        STACK["resid_out_9"]


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (4, "index 4 is out of range: there are 4 layers"),
        (slice(4, 9), "selects no layer"),
        ((0, 0, 0, 0, 0), "5 indices for 4 dimensions"),
        (None, "None adds no dimension before the layers"),
        (True, "True is no index of layers"),
        (([0, 1], slice(None), [0, 1]), "in two steps"),
        (torch.ones(3, dtype=torch.bool), r"a mask of shape \(3,\) for 4 layers"),
        (1.5, "1.5 is no index of layers"),
        ([[0, 1]], "integers, names, or a mask"),
    ],
)
def test_an_index_that_does_not_fit_says_so(index: object, message: str) -> None:
    """Each names what was wrong."""
    with pytest.raises(SelectionError, match=message):
        STACK[index]


def test_operators_are_those_of_each_layer() -> None:
    """Elementwise with numbers, tensors, one lazy tensor for all layers, or another stack."""
    bias = torch.arange(6.0)
    each = torch.arange(4.0).reshape(4, 1, 1, 1)
    pairs = {
        "number": ((STACK * 2 + 1)[1:], (DENSE * 2 + 1)[1:]),
        "reflected": (1 - STACK, 1 - DENSE),
        "units": (STACK + bias, DENSE + bias),
        "layers": (STACK * each, DENSE * each),
        "array": (STACK * each.numpy(), DENSE * each),
        "layer": (STACK - STACK[0], DENSE - DENSE[0]),
        "stack": (STACK[1:] - STACK[:-1], DENSE[1:] - DENSE[:-1]),
        "one": (STACK + STACK[:1], DENSE + DENSE[:1]),
        "before": (STACK[3] - STACK, DENSE[3] - DENSE),
        "tensor before": (DENSE[3] - STACK, DENSE[3] - DENSE),
        "array before": (bias.numpy() - STACK, bias - DENSE),
        "sign": (-STACK, -DENSE),
        "masks": (((STACK > 0) & ~(STACK > 1)) * 1.0, ((DENSE > 0) & ~(DENSE > 1)) * 1.0),
        "map": (STACK.map(torch.relu), DENSE.relu()),
        "matrix": (STACK @ torch.eye(6)[:, :2], DENSE @ torch.eye(6)[:, :2]),
    }
    for name, (found, want) in pairs.items():
        assert isinstance(found, LazyStack), name
        assert same_bits(found.load(), want.contiguous()), name
    with pytest.raises(SelectionError, match="4 layers and 2 do not go together"):
        STACK + STACK[:2]
    with pytest.raises(SelectionError, match="neither true nor false"):
        bool(STACK)


def test_what_keeps_every_row_is_lazy() -> None:
    """Over units, or over layers alone, examples of different length stay as they are."""
    stack = ragged().stack("resid_out_*")
    rows = torch.stack([values(layer) for layer in range(LAYERS)]).double()
    stack.members[0].source.reader.io.reset()
    over_layers = {
        "mean": (stack.mean(0), rows.mean(0)),
        "max": (stack.max((0, -1)), rows.float().amax((0, 2))),
        "min": (stack.min(0), rows.float().amin(0)),
        "std": (stack.std(0), rows.std(0)),
        "any": ((stack > 2).any(0), (rows > 2).any(0)),
        "norm": (stack.norm((0, -1)), rows.norm(dim=(0, 2))),
        "sum": ((stack > 0).sum(0), (rows > 0).sum(0)),
    }
    norms = (stack[1:] - stack[:-1]).norm(-1)
    assert stack.members[0].source.reader.io.bytes == 0
    assert all(isinstance(found, LazyTensor) for found, _ in over_layers.values())
    for found, want in over_layers.values():
        torch.testing.assert_close(found.rows.load(), want)
    assert isinstance(norms, LazyStack)
    want = (rows[1:].float() - rows[:-1].float()).double().norm(dim=-1)
    torch.testing.assert_close(norms.mean("rows"), want.mean(1))
    kept = stack.mean(0, keepdim=True)
    assert isinstance(kept, LazyStack)
    assert kept.shape == (1, 3, 7, UNITS)
    assert isinstance(np.mean(STACK, axis=0), torch.Tensor)
    assert isinstance(torch.mean(STACK, 0), torch.Tensor)


def test_ranks_are_those_of_each_layer() -> None:
    """Quantile, median and places of each layer; over layers they are refused."""
    rows = DENSE.flatten(1, 2)
    q = torch.tensor([0.5, 0.1], dtype=torch.float64)
    torch.testing.assert_close(STACK.quantile(0.5), rows.double().quantile(0.5, dim=1))
    torch.testing.assert_close(STACK.quantile(q), rows.double().quantile(q, dim=1))
    assert torch.equal(STACK.median(), rows.median(1).values)
    assert torch.equal(STACK.argmax("rows"), rows.argmax(1))
    assert torch.equal(STACK.argmin(2), DENSE.argmin(2))
    assert torch.equal((STACK > 3).any((1, 2)), (rows > 3).any(1))
    for refused in (STACK.argmax, lambda: STACK.quantile(0.5, 0), lambda: STACK.median((0, 1))):
        with pytest.raises(SelectionError, match="over layers is not put together"):
            refused()


def test_functions_of_torch_and_numpy_give_numbers_within_the_budget() -> None:
    """They load; aggregates among them stream; what is too large names its size."""
    assert same_bits(torch.exp(STACK), torch.exp(DENSE))
    assert same_bits(torch.stack([STACK[0].load(), DENSE[1]]), DENSE[:2])
    torch.testing.assert_close(torch.mean(STACK, 0), DENSE.mean(0))
    assert np.array_equal(np.asarray(STACK), DENSE.numpy())
    assert np.asarray(STACK, dtype=np.float64).dtype == np.float64
    assert same_bits(STACK.to(torch.float64).load(), DENSE.double())
    small = uniform(budget_bytes=DENSE.nbytes - 1).stack("resid_out_*")
    with pytest.raises(MemoryBudgetError, match=f"{DENSE.nbytes:,} bytes"):
        torch.exp(small)
    with pytest.raises(MemoryBudgetError, match="an array"):
        np.asarray(small)
    assert same_bits(torch.exp(small[1:]), torch.exp(DENSE[1:]))


def test_what_cannot_be_stacked_is_named(tmp_path) -> None:
    """Other shapes, rows and tables, and what is no tensor at all."""
    dataset = Dataset(open_store(f"memory://{tmp_path}", create=True, storage_options=None))
    dataset.commit([(0, 2), (1, 3)], {"a_0": counting(5, 3), "a_1": counting(5, 4)})
    dataset.commit([(2, 2)], {"a_2": counting(2, 3)})
    dataset.commit([(0, 1), (1, 1), (2, 1)], {"pooled": counting(3, 3)}, table="examples")
    cache = dataset.cache()
    for names, message in {
        ("a_0", "a_1"): "'a_0' and 'a_1' cannot be stacked: their shapes are",
        ("a_0", "a_2"): "'a_0' and 'a_2' cannot be stacked",
        ("a_0", "pooled"): "'a_0' and 'pooled' cannot be stacked",
    }.items():
        with pytest.raises(SelectionError, match=message):
            cache.stack(list(names))
    with pytest.raises(SelectionError, match="'b' is a list: only tensors"):
        LazyStack({"a": torch.ones(2), "b": [1, 2]})
    with pytest.raises(SelectionError, match="a layer at least"):
        cache.stack()
    with pytest.raises(SiteNotFoundError, match="fits 'b_"):
        cache.stack("b_*")


def test_dtypes_become_one_that_holds_all() -> None:
    """As in torch.stack."""
    tensors = {"a": torch.ones(2, 3, dtype=torch.bfloat16), "b": torch.ones(2, 3)}
    stack = LazyStack(tensors)
    assert stack.dtype == torch.float32
    assert same_bits(stack.load(), torch.ones(2, 2, 3))


def test_tensors_in_memory_are_stacked() -> None:
    """A cache without a dataset has stacks too, in numeric order."""
    cache = lc.ActivationCache()
    for layer in (10, 2):
        cache[f"resid_out_{layer}"] = torch.full((2, 3, 4), float(layer))
    stack = cache.stack("resid_out_*")
    assert stack.names == ("resid_out_2", "resid_out_10")
    assert stack.shape == (2, 2, 3, 4)
    assert stack[:, 0, 0, 0].load().tolist() == [2, 10]
    assert stack.mean((1, 2, 3)).tolist() == [2, 10]
    assert cache["resid_post", -1] is cache["resid_out_10"]


def test_joined_datasets_are_stacked() -> None:
    """Two datasets behind each other have one stack, whose examples are those of both."""
    cache = uniform()
    cache.cat(uniform())
    stack = cache.stack("resid_out_*")
    assert same_bits(stack.load(), torch.cat([DENSE, DENSE], dim=1))
    assert stack.count().tolist() == [2 * ROWS] * LAYERS


def test_a_stack_is_read_in_pieces() -> None:
    """Chunks have the same rows of all layers, at most as many bytes as were said."""
    stack = ragged().stack("resid_out_*")
    pieces = list(stack.chunks(bytes=4 * LAYERS * UNITS * 4))
    assert [piece.shape[1] for piece in pieces] == [4, 4, 4, 3]
    assert same_bits(torch.cat(pieces, dim=1), stack.rows.load())
    with pytest.raises(SelectionError, match="differ in width"):
        next(pattern_cache().stack("pattern_*").chunks())


def test_a_stack_is_pickled_by_address(tmp_path) -> None:
    """A worker process gets a stack of the same rows, and no values."""
    model = torch.nn.Sequential(torch.nn.Embedding(9, 64), torch.nn.Linear(64, 64))
    stack = lc.extract(model, [[1, 2, 3], [4, 5, 6]], tmp_path, "*").stack("*")
    there = pickle.loads(pickle.dumps(stack[:, 0]))
    assert there.names == ("0:out", "1:out")
    assert same_bits(there.load(), stack[:, 0].load())


def test_patterns_are_stacked() -> None:
    """Attention patterns: [layers, examples, heads, query, key], padded as each of them."""
    cache = pattern_cache()
    stack = cache.stack("pattern_*")
    assert stack.shape == (1, 3, 2, 3, 3)
    assert same_bits(stack.padded(-1)[0], cache["pattern_0"].padded(-1))
    assert same_bits(stack[0, 1].load(), cache["pattern_0"][1].load())
    assert same_bits(stack[:, 1, 0].load()[0], cache["pattern_0"][1, 0].load())
    heads = cache.stack("pattern_L0H1", "pattern_L0H0")
    assert heads.names == ("pattern_L0H1", "pattern_L0H0")
    assert same_bits(heads[:, 2].load()[1], cache["pattern_0"][2, 0].load())
    with pytest.raises(SelectionError, match="one of them is an attention pattern"):
        cache.stack("pattern_0", "z_0")
