"""lazycache.cache.tensor.aggregate and reduce: aggregates in a stream, exact to float64."""

import math

import numpy as np
import pytest
import torch
from cache_helpers import Dataset, small_cache
from hypothesis import given
from hypothesis import strategies as st

from lazycache.cache.tensor.lazy_tensor import LazyTensor
from lazycache.codec.dtypes import DTYPES
from lazycache.errors import SelectionError
from lazycache.storage.open_store import open_store

TORCH = {
    "mean": torch.mean,
    "sum": torch.sum,
    "min": torch.amin,
    "max": torch.amax,
    "std": torch.std,
    "var": torch.var,
    "norm": torch.linalg.vector_norm,
}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch) -> None:
    """Several blocks, tiles and threads even for a handful of rows."""
    monkeypatch.setattr("lazycache.cache.aggregates.row_stream.BLOCK_BYTES", 8 * 12 * 5)
    monkeypatch.setattr("lazycache.cache.aggregates.reduce.PIECE_VALUES", 30)
    monkeypatch.setattr("lazycache.cache.files.parallel.PARALLEL_BYTES", 1)


def lazy(values: torch.Tensor, lengths: list[int], *, order: list[int] | None = None) -> LazyTensor:
    dataset = Dataset(open_store("memory://aggregate", create=True, storage_options=None))
    ids = order if order is not None else list(range(len(lengths)))
    dataset.commit(list(zip(ids, lengths, strict=True)), {"s": values})
    return dataset.cache()["s"]


def close(found: torch.Tensor | LazyTensor, want: torch.Tensor) -> None:
    found = found.load() if isinstance(found, LazyTensor) else found
    torch.testing.assert_close(found, want, rtol=1e-12, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("op", TORCH)
@pytest.mark.parametrize("dim", ["rows", (0, 1), 0, 1, -1, (2,), (0, 1, 2), None, (1, 2), (0, 3)])
def test_agrees_with_torch_in_float64(op: str, dim) -> None:
    """Every aggregate over any dimensions of uniform examples is torch's on float64."""
    values = torch.randn(24, 3, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    x, dense = lazy(values, [4] * 6), values.double().view(6, 4, 3, 4)
    dims = {"rows": (0, 1), None: (0, 1, 2, 3)}.get(dim, dim)
    found = getattr(x, op)(dim)
    assert found.dtype == (torch.bfloat16 if op in {"min", "max"} else torch.float64)
    close(found.double(), TORCH[op](dense, dim=dims))


@pytest.mark.parametrize("op", TORCH)
def test_ragged_examples_over_rows_and_by_example(op: str) -> None:
    """Rows count once each, whatever example they are in; dim=1 gives one result per example."""
    values = torch.randn(16, 5, generator=torch.Generator().manual_seed(1))
    lengths, order = [5, 2, 9], [2, 0, 1]
    x = lazy(values, lengths, order=order)
    close(getattr(x, op)("rows").double(), TORCH[op](values.double(), dim=0))
    parts = dict(zip(order, values.double().split(lengths), strict=True))
    want = torch.stack([TORCH[op](parts[i], dim=0) for i in range(3)])
    close(getattr(x, op)(1).double(), want)
    want = torch.stack([TORCH[op](parts[i]) for i in range(3)])
    close(getattr(x, op)((1, 2)).double(), want)
    close(getattr(x.rows, op)(-1).double(), TORCH[op](values.double(), dim=1))
    one = getattr(x[0], op)(0)
    close(one.double(), TORCH[op](parts[0], dim=0))


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_every_dtype(dtype) -> None:
    """Sums of integers are int64, of floats float64; extremes keep the dtype."""
    raw = torch.arange(1, 61).reshape(12, 5) % 100
    values = raw.to(dtype.torch)
    x, wide = lazy(values, [12]), values.to(torch.float64)
    is_float = dtype.torch.is_floating_point
    assert x.sum("rows").dtype == (torch.float64 if is_float else torch.int64)
    close(x.sum("rows").double(), wide.sum(0))
    close(x.mean("rows"), wide.mean(0))
    close(x.std("rows"), wide.std(0))
    for op in ("min", "max"):
        found = getattr(x, op)("rows")
        assert found.dtype == dtype.torch
        close(found.to(torch.float64), TORCH[op](wide, dim=0))
        assert getattr(x, op)(-1).dtype == dtype.torch


@given(st.lists(st.floats(width=32), min_size=1, max_size=40))
def test_nan_and_infinity_go_through_as_in_torch(numbers: list[float]) -> None:
    """No value is dropped: what is not finite shows, in the units where it is."""
    column = torch.tensor(numbers, dtype=torch.float32)
    values = torch.stack([column, torch.ones_like(column)], 1)
    x, wide = lazy(values, [len(numbers)]), values.double()
    for op in ("mean", "sum", "min", "max"):
        found, want = getattr(x, op)("rows").double(), TORCH[op](wide, dim=0)
        torch.testing.assert_close(found, want, rtol=1e-9, atol=1e-300, equal_nan=True)
    assert x.std("rows")[1].item() == 0 or len(numbers) == 1
    assert torch.isfinite(x.var("rows"))[0] == torch.isfinite(wide.var(0, correction=0))[0] or (
        len(numbers) == 1
    )


def test_variance_of_a_large_mean_keeps_its_digits() -> None:
    """Chan's merge: blocks far from zero lose nothing that float64 can hold."""
    values = (torch.arange(4000, dtype=torch.float64) % 7 + 1e9).unsqueeze(1)
    x = lazy(values, [4000])
    assert math.isclose(
        x.var("rows").item(), float(np.var(values.numpy() - 1e9, ddof=1)), rel_tol=1e-9
    )
    close(x.var("rows", correction=0), values.sub(1e9).var(0, correction=0))


def test_results_do_not_depend_on_threads(monkeypatch) -> None:
    """Blocks are merged in order, so that a number is the same number each time."""
    x = lazy(torch.randn(500, 7), [500])
    found = [x.std("rows"), x.mean("rows")]
    monkeypatch.setattr("lazycache.cache.files.parallel.MOST_THREADS", 1)
    assert [t.tolist() for t in found] == [x.std("rows").tolist(), x.mean("rows").tolist()]


def test_of_nothing() -> None:
    """Mean of no rows is nan and sum zero, as in torch; an extreme has no value."""
    x = small_cache()["resid_out_0"][:0]
    assert x.mean("rows").isnan().all()
    assert x.sum("rows").tolist() == [0, 0]
    assert x.var("rows").isnan().all()
    assert x.norm("rows").tolist() == [0, 0]
    for op in ("min", "max"):
        with pytest.raises(SelectionError, match="no rows"):
            getattr(x, op)("rows")
    assert x.mean(-1).shape == (0, 3)


def test_of_one_row() -> None:
    """The sample variance of one row is nan, as in torch; the population variance is zero."""
    x = small_cache()["resid_out_0"][2]
    assert x.var(0).isnan().all()
    assert x.var(0, correction=0).tolist() == [0, 0]
    assert x.std("rows", correction=3).isnan().all()


def test_counts_read_nothing() -> None:
    """Counting rows, of all or of each example, comes from the log."""
    cache = small_cache()
    x = cache["resid_out_0"]
    assert (x.count(), x[1:].count("rows"), x[:, -1].count()) == (6, 4, 3)
    assert x.count(1).tolist() == [2, 3, 1]
    assert x.rows.count(-1) == 2
    assert cache.io.bytes == 0


def test_reads_what_is_selected_once(tmp_path) -> None:
    """An aggregate of one unit of some rows reads these bytes and no others."""
    dataset = Dataset(open_store(str(tmp_path), create=True, storage_options=None))
    dataset.commit([(0, 2), (1, 4)], {"s": torch.ones(6, 2)})
    cache = dataset.cache()
    cache["s"][1:, :, 0].std("rows")
    assert (cache.io.rows, cache.io.bytes) == (4, 4 * 4)


@pytest.mark.parametrize(
    ("dim", "says"),
    [
        (0, "different length"),
        ("positions", "only name is 'rows'"),
        (3, "out of range"),
        ((0, 0), "twice"),
        ((), "no dimension"),
    ],
)
def test_dimensions_that_cannot_go_say_why(dim, says: str) -> None:
    """What has no dense result, or is no dimension, is refused with the alternatives."""
    with pytest.raises(SelectionError, match=says):
        small_cache()["resid_out_0"].mean(dim)


def test_conversion_comes_first() -> None:
    """An aggregate of `x.to(dtype)` is the aggregate of the converted values."""
    x = lazy(torch.tensor([[1.001], [2.001]]), [2])
    assert x.to(torch.int32).sum("rows").tolist() == [3]
    assert x.to(torch.bfloat16).max("rows").dtype == torch.bfloat16
