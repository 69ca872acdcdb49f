"""What changes between two caches, row by row, beside numpy."""

import itertools
import math
import pickle

import numpy as np
import pytest
import torch
from rows_helpers import make

import lazycache as lc
from lazycache.errors import LazycacheError, QueryError, SelectionError
from lazycache.mapping.activation_cache import ActivationCache

LENGTHS = (3, 7, 1, 5, 4)


def numbers(before, after):
    """Mean norm, relative norm and mean cosine of rows that are finite, as numpy has them."""
    a, b = before.double().numpy(), after.double().numpy()
    with np.errstate(invalid="ignore", divide="ignore"):
        kept = np.isfinite(a).all(1) & np.isfinite(b).all(1)
        a, b = a[kept], b[kept]
        lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        cosines = ((a * b).sum(1) / lengths)[lengths > 0]
        relative = np.linalg.norm(b - a) / np.linalg.norm(a)
    return [np.linalg.norm(b - a, axis=1).mean(), relative, cosines.mean()], int((~kept).sum())


def said(one):
    return [one.mean_norm, one.relative_norm, one.mean_cosine]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_rows_of_two_datasets_are_paired_by_example_and_position(dtype):
    """Stored in other orders and batches, the change of each row is that of its own row."""
    base, tuned = make(LENGTHS, dtype=dtype), make(LENGTHS, seed=3, batches=3)
    change = base.shared.diff(tuned.shared, "x", by="position")
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    a, b = base.x.to(wide), tuned.x.to(wide)
    offsets = np.cumsum([0, *LENGTHS])
    for i, (start, stop) in enumerate(itertools.pairwise(offsets)):
        part = slice(start, stop)
        assert torch.equal(change.delta[i].load(), b[part] - a[part])
        norms = torch.linalg.vector_norm(b[part].double() - a[part].double(), dim=1)
        torch.testing.assert_close(change.norms[i].load(), norms)
        cosines = torch.cosine_similarity(a[part].double(), b[part].double())
        torch.testing.assert_close(change.cosines[i].load(), cosines)
    summary = change.summary
    np.testing.assert_allclose(said(summary), numbers(a, b)[0])
    delta = (b - a).double()
    torch.testing.assert_close(summary.units.mean, delta.mean(0))
    torch.testing.assert_close(summary.units.std, delta.std(0))
    assert (summary.rows, summary.nonfinite) == (20, 0)
    position = base.tokens.position.to_numpy()
    for group in summary.groups.to_pylist():
        mine = torch.tensor((position == group["position"]).tolist())
        assert group["rows"] == int(mine.sum())
        found = [group[name] for name in ("mean_norm", "relative_norm", "mean_cosine")]
        np.testing.assert_allclose(found, numbers(a[mine], b[mine])[0])


def test_a_condition_is_on_the_rows_of_this_side():
    """`where` and `by` ask this cache's tables; NULL labels are a group; reads happen once."""
    base, tuned = make(LENGTHS), make(LENGTHS, seed=3, batches=3)
    with lc.open(base.url) as cache, lc.open(tuned.url) as other:
        change = cache.diff(other, "x", by="label", where="unit(x, 0) > $low", params={"low": -2})
        kept = base.x[:, 0] > -2
        before = cache.io.rows, other.io.rows
        summary = change.summary
        assert change.summary is summary
        assert (cache.io.rows - before[0], other.io.rows - before[1]) == (int(kept.sum()),) * 2
        np.testing.assert_allclose(said(summary), numbers(base.x[kept], tuned.x[kept])[0])
        labels = base.tokens.label.to_numpy()[kept.numpy()]
        groups = summary.groups.to_pydict()
        there = {label: int(sum(x is label or x == label for x in labels)) for label in labels}
        assert dict(zip(groups["label"], groups["rows"], strict=True)) == there
        assert "groups by label" in repr(summary)


def test_the_rows_that_change_most_are_hits():
    """`top_k` has rows of this side's table, with the norms of their change."""
    base, tuned = make(LENGTHS), make(LENGTHS, seed=3, batches=3)
    change = base.shared.diff(tuned.shared, "x")
    hits = change.top_k(4)
    norms = (tuned.x.double() - base.x.double()).norm(dim=1)
    best = norms.topk(4)
    torch.testing.assert_close(hits.values, best.values)
    expected = base.tokens.iloc[best.indices.tolist()]
    assert hits.examples == expected.example.tolist()
    assert hits.positions == expected.position.tolist()
    assert hits.tokens == expected.token.tolist()
    least = change.top_k(2, largest=False)
    torch.testing.assert_close(least.values, norms.topk(2, largest=False).values)


def test_two_sites_of_one_cache_and_rows_without_numbers():
    """What is not finite is counted and hides nothing; rows of zeros have no cosine."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 40, 2, 3, generator=generator).bfloat16()
    a[3, 0, 1], b[5, 1, 2], a[7, 0, 0], b[7, 0, 0] = math.nan, -math.inf, math.inf, math.inf
    a[9] = 0
    cache = ActivationCache({"a": a, "b": b})
    change = cache.diff(cache, "a", other_site="b")
    summary = change.summary
    expected, odd = numbers(a.flatten(1), b.flatten(1))
    assert (summary.rows, summary.nonfinite) == (40, odd) == (40, 3)
    np.testing.assert_allclose(said(summary), expected)
    assert summary.units.mean.shape == (2, 3)
    assert summary.units.nans.sum() == 2
    assert summary.units.neg_infs.sum() == 1
    assert change.cosines[9].load().isnan()
    assert summary.groups is None
    assert change.top_k(40).rows[:1].tolist() == [5]
    again = pickle.loads(pickle.dumps(change.norms))
    assert torch.equal(again.load().nan_to_num(), change.norms.load().nan_to_num())
    integers = torch.tensor([[250], [1]], dtype=torch.uint8)
    down = cache.diff(cache, integers, other_site=integers.flip(0)).delta.load()
    assert down.tolist() == [[-249.0], [249.0]]


WRONG = {
    "other lengths": (
        lambda c: c[0].diff(c[2], "x"),
        SelectionError,
        "example 2 has 1 rows and 2",
    ),
    "fewer examples": (lambda c: c[0].diff(c[3], "x"), SelectionError, "as many examples"),
    "other positions": (
        lambda c: c[0].diff(c[0], c[0]["x"][:, 1:], other_site=c[0]["x"][:, :-1]),
        SelectionError,
        "position 1 in the one and position 0",
    ),
    "rows one by one": (
        lambda c: c[0].diff(c[1], c[0]["x"].rows[:2], other_site=c[1]["x"].rows[2:4]),
        SelectionError,
        "in the one and",
    ),
    "other shapes": (lambda c: c[0].diff(c[1], "pooled", other_site="x"), QueryError, "shapes"),
    "no cache": (lambda c: c[0].diff("b", "x"), QueryError, "takes a cache"),
    "one tensor": (lambda c: c[0].diff(c[1], c[0]["x"]), QueryError, "other_site"),
    "no such site": (lambda c: c[0].diff(c[1], "y"), LazycacheError, "x"),
    "no rows": (
        lambda c: c[0].diff(c[1], "x", where="position > 9").summary,
        SelectionError,
        "no rows",
    ),
    "no such column": (lambda c: c[0].diff(c[1], "x", by="lable"), QueryError, "label"),
}


@pytest.mark.parametrize(("ask", "error", "says"), WRONG.values(), ids=WRONG.keys())
def test_what_cannot_be_paired_is_said(ask, error, says):
    """Each refusal says how the two sides differ, or what is missing."""
    caches = [
        make(LENGTHS).shared,
        make(LENGTHS, seed=3, batches=3).shared,
        make((3, 7, 2, 5, 4)).shared,
        make((3, 7)).shared,
    ]
    with pytest.raises(error, match=says):
        ask(caches)
