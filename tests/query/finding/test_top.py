"""Rows in which a unit, a direction or a score is largest: those of sorting all values."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from top_helpers import corpus

import lazycache as lc
from lazycache.cache.aggregates import row_stream
from lazycache.cache.joined.join import join
from lazycache.errors import QueryError, SiteNotFoundError

LENGTHS = (7, 1, 300, 40, 2, 250)
ROWS = sum(LENGTHS)


def drawn(seed: int, *shape: int) -> torch.Tensor:
    """Return quarters, of which sums are exact and many tie, with NaN and infinities."""
    random = np.random.default_rng(seed)
    values = torch.from_numpy(np.round(9 * random.normal(size=(ROWS, *shape))) / 4).float()
    for odd in (torch.nan, torch.inf, -torch.inf):
        values[torch.from_numpy(random.random(values.shape) < 0.01)] = odd
    return values


@pytest.fixture(scope="module")
def cache() -> lc.ActivationCache:
    """Return 600 tokens of 6 examples: rows of 5 numbers, of 2 by 3, of one; pooled ones too."""
    sites = {"x": drawn(0, 5).bfloat16(), "z": drawn(1, 2, 3), "norm": drawn(2)}
    sites["n"] = drawn(3).int()
    words = [f" w{i}" for i in range(ROWS)]
    return corpus(sites, LENGTHS, tokens=words, pooled={"pool": torch.arange(12.0).reshape(6, 2)})


def expected(scores: torch.Tensor, k: int, *, largest: bool, rows: np.ndarray | None = None):
    """Return the best rows by sorting, of equal ones the lower, without NaN."""
    wide = scores.double().numpy()
    rows = np.arange(len(wide)) if rows is None else rows
    rows = rows[~np.isnan(wide[rows])]
    return rows[np.lexsort((rows, -wide[rows] if largest else wide[rows]))][:k]


EXAMPLE = np.repeat(np.arange(len(LENGTHS)), LENGTHS)


@given(
    unit=st.integers(-5, 4),
    k=st.sampled_from([1, 20, 40, 2000]),
    largest=st.booleans(),
    where=st.sampled_from([None, "position > 3", "example = 1", "unit(x, 0) > 0", "false"]),
    per_example=st.booleans(),
)
@settings(max_examples=50)
def test_a_unit_is_that_of_sorting(cache, unit, k, largest, where, per_example) -> None:
    """Of all rows or some, each row or the best of an example; NaN is no hit, ties by row."""
    values = cache["x"].rows.load()
    rows = np.arange(ROWS)
    if where is not None:
        found = cache.sql(f"SELECT row FROM tokens WHERE {where} ORDER BY row").fetchall()
        rows = np.array(found, dtype=np.int64).reshape(-1)
    hits = cache.top_k("x", unit, k=k, largest=largest, where=where, per_example=per_example)
    want = expected(values[:, unit], ROWS, largest=largest, rows=rows)
    if per_example:
        want = want[np.sort(np.unique(EXAMPLE[want], return_index=True)[1])]
    assert hits.rows.tolist() == want[:k].tolist()
    assert torch.equal(hits.values, values[want[:k], unit])
    assert hits.examples == EXAMPLE[want[:k]].tolist()


@pytest.mark.parametrize("per_example", [False, True])
@pytest.mark.parametrize("largest", [True, False])
def test_directions_and_scores_are_those_of_sorting(cache, monkeypatch, largest, per_example):
    """Dot products in float32 of any shape, a caller's function; the same on any schedule."""
    # several blocks, whatever is worked on at once
    monkeypatch.setattr(row_stream, "BLOCK_BYTES", 8 * 6 * 100)
    z = cache["z"].rows.load()
    direction = torch.tensor([[1.0, -2.0, 0.5], [0.25, 4.0, -1.0]])  # exact in any order of sums
    dots = (z * direction).sum((1, 2))
    norms = z.square().sum((1, 2))
    asked = [
        (dots, {"direction": direction}),
        (dots, {"direction": direction.flatten().tolist()}),
        (norms, {"score": lambda v: v.square_().sum((1, 2))}),
    ]
    for scores, options in asked:
        want = expected(scores, ROWS, largest=largest)
        if per_example:
            want = want[np.sort(np.unique(EXAMPLE[want], return_index=True)[1])]
        for _ in range(2):
            hits = cache.top_k("z", **options, k=30, largest=largest, per_example=per_example)
            assert hits.rows.tolist() == want[:30].tolist()
            assert torch.equal(hits.values, scores[want[:30]])
    assert torch.equal(cache["z"].rows.load().nan_to_num(), z.nan_to_num())


def test_anything_that_is_a_tensor_can_be_asked(cache) -> None:
    """Expressions, numbers per row, examples, a head, whole numbers, what is in memory, joined."""
    x, z = cache["x"].rows.load(), cache["z"].rows.load()
    twice = cache.top_k(cache["x"] * 2, 3, k=5)
    want = expected(2 * x[:, 3], 5, largest=True)
    assert twice.rows.tolist() == want.tolist()
    assert twice.tokens == [f" w{row}" for row in want]
    want = expected(z[:, 1, 2], 3, largest=True)
    assert cache.top_k("z", (1, -1), k=3).rows.tolist() == want.tolist()
    norm = cache["norm"].rows.load()
    assert cache.top_k("norm", k=4).rows.tolist() == expected(norm, 4, largest=True).tolist()
    assert cache.top_k("n", k=4).values.dtype == torch.int32
    pooled = cache.top_k("pool", 1, k=2)
    assert (pooled.examples, pooled.positions, pooled.contexts) == ([5, 4], [None] * 2, [None] * 2)
    memory = cache.top_k(x, 0, k=2, largest=False)
    assert memory.rows.tolist() == expected(x[:, 0], 2, largest=False).tolist()
    assert memory[0].token is None
    assert memory[0].example == memory[0].row
    other = corpus({"x": 3 * x.nan_to_num()[:20]}, [20], tokens=["o"] * 20)
    joined = cache.top_k(join([cache["x"].float(), other["x"]]), 2, k=300, context=1)
    assert "o" in joined.tokens
    assert [h.token for h in joined if h.token != "o"] == [
        f" w{h.row}" for h in joined if h.token != "o"
    ]


def test_of_no_rows_there_are_no_hits(cache) -> None:
    """Also where all of them are NaN."""
    assert len(cache.top_k("x", 0, where="example = 99")) == 0
    assert len(cache.top_k("x", direction=[1.0] * 5, where="example = 99")) == 0
    assert len(cache.top_k(torch.full((9, 2), torch.nan), 1)) == 0
    assert len(cache.top_k(torch.full((9, 2), torch.nan), score=lambda v: v[:, 0])) == 0


def test_what_is_stored_answers_without_a_row() -> None:
    """The greatest of a whole site, also with contexts; few rows of a selection; counters show."""
    random = torch.Generator().manual_seed(1)
    slow = torch.randn(40, 16, generator=random).repeat_interleave(100, 0)
    values = 3 * slow + torch.randn(4000, 16, generator=random)
    cache = corpus({"x": values}, [50] * 80, tokens=[" a"] * 4000, shard_bytes=1 << 20)
    hits = cache.top_k("x", 3, context=4)
    assert hits.rows.tolist() == expected(values[:, 3], 20, largest=True).tolist()
    assert cache.io.rows == 0
    assert cache.io.statistics_bytes > 0
    some = cache.top_k("x", 3, where="position >= 25", largest=False)
    rows = np.flatnonzero(np.arange(4000) % 50 >= 25)
    assert some.rows.tolist() == expected(values[:, 3], 20, largest=False, rows=rows).tolist()
    assert 0 < cache.io.rows < 700
    cache.io.reset()
    each = cache.top_k("x", 3, k=2, per_example=True)
    assert len(set(each.examples)) == 2
    assert cache.io.rows < 1500


def test_errors_say_what_to_do(cache) -> None:
    """What was asked, what is there."""
    for ask, says in [
        (lambda: cache.top_k("x"), "A unit of x is one number, 0 to 4: 0 given"),
        (lambda: cache.top_k("x", 1, direction=[1.0] * 5), "one of them"),
        (lambda: cache.top_k("x", direction=[1.0] * 4), r"\[5\].*\[4\]"),
        (lambda: cache.top_k("x", direction=[torch.inf] * 5), "not finite"),
        (lambda: cache.top_k("x", score=lambda v: v), "one number for each row"),
        (lambda: cache.top_k("x", 0, k=0), "1 at least"),
        (lambda: cache.top_k("x", 0, k=True), "1 at least"),
        (lambda: cache.top_k("x", 1.5), "unit 1.5"),
        (lambda: cache.top_k("x", 0, context=-1), "context of -1"),
        (lambda: cache.top_k("x", 0, where="positon > 1"), "position"),
        (lambda: cache.context([600]), "600 rows"),
        (lambda: cache.context([0.5]), "whole numbers"),
        (lambda: cache.context([1], n=-1), "0 at least"),
        (lambda: cache.context([1], table="examples"), "decoder_tokens"),
        (lambda: lc.ActivationCache().context([1]), "one dataset"),
    ]:
        with pytest.raises(QueryError, match=says):
            ask()
    with pytest.raises(SiteNotFoundError, match="norm"):
        cache.top_k("nrm", 1)
