"""x.group_by: aggregates of all groups in one pass, against pandas and torch in float64."""

import math

import numpy as np
import pytest
import torch
from cache_helpers import same_bits
from hypothesis import given, settings
from hypothesis import strategies as st
from rows_helpers import forget, make

from lazycache.cache.tables import group_aggregates
from lazycache.errors import MemoryBudgetError, QueryError, SelectionError
from lazycache.one_thread import one_thread

DTYPES = [
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.float64,
    torch.int8,
    torch.int64,
    torch.uint8,
    torch.bool,
    torch.float8_e5m2,
]

COLUMNS = {
    "label": lambda t: t.label,
    "position": lambda t: t.position,
    "token": lambda t: t.token,
    "score": lambda t: t.score,
    "position = length - 1": lambda t: t.position == t.length - 1,
    "label || token": lambda t: t.label + t.token,
    "run": lambda t: t.run,
    "NULL::INTEGER": lambda t: t.label.where(t.position < 0),
}


@pytest.fixture(scope="module", autouse=True)
def _forget():
    yield
    forget()


def reference(op: str, values: torch.Tensor) -> torch.Tensor:
    """Reduce [rows, units] of one group as torch does in float64."""
    if op in {"min", "max"}:
        wide = values.double()
        return (wide.amin(0) if op == "min" else wide.amax(0)).to(values.dtype)
    if op == "sum" and not values.dtype.is_floating_point:
        return values.long().sum(0)
    wide = values.double()
    if op == "norm":
        return wide.square().sum(0).sqrt()
    if op in {"var", "std"}:
        nothing = torch.full_like(wide[0], torch.nan)
        return getattr(wide, op)(0) if len(wide) > 1 else nothing
    return getattr(wide, op)(0)


@settings(max_examples=25, deadline=None)
@given(
    shape=st.sampled_from([((3, 0, 1, 4), 2), ((2, 2, 2), 1)]),
    column=st.sampled_from(sorted(COLUMNS)),
    dtype=st.sampled_from(DTYPES),
    tile=st.sampled_from([1, 4, 1 << 24]),
)
def test_groups(shape, column, dtype, tile) -> None:
    """Every aggregate of every group is torch's, for every dtype, over blocks, shards and runs."""
    lengths, runs = shape
    made = make(lengths, runs=runs, dtype=dtype)
    values = COLUMNS[column](made.tokens)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(group_aggregates, "BLOCK_BYTES", tile * 24)
        groups = made.shared["x"].group_by(column)
        keys = sorted(values.dropna().unique().tolist())
        assert groups.keys == (*keys, *([None] if values.isna().any() else []))
        for op in ("mean", "sum", "min", "max", "var", "std", "norm"):
            found = getattr(groups, op)()
            assert found.keys == groups.keys
            for key, result in found:
                mask = np.array(values.isna() if key is None else values == key, dtype=bool)
                want = reference(op, made.x[torch.from_numpy(mask)])
                assert result.dtype == want.dtype
                torch.testing.assert_close(
                    result.double(), want.double(), rtol=1e-12, atol=1e-9, equal_nan=True
                )
        assert groups.count().values.sum() == sum(lengths)


def test_rows_of_a_group() -> None:
    """A group is a lazy tensor of its rows; groups come in order, each row in one."""
    made = make((3, 1, 4, 2), seed=2)
    x = made.open()["x"]
    groups = x.group_by("label")
    assert len(groups) == len(groups.keys)
    assert sum(len(rows) for _, rows in groups) == 10
    for key, rows in groups:
        assert key in groups
        assert set(rows.column("label").tolist()) == {key}
        assert same_bits(groups[key].load(), rows.load())
        assert groups.count()[key] == len(rows)
        assert torch.equal(groups.mean()[key], rows.mean("rows"))
    with pytest.raises(QueryError, match="there is no group 'z'"):
        groups["z"]
    assert "GroupResult(" in repr(groups.mean())
    assert "Groups(" in repr(groups)


def test_after_indexing() -> None:
    """Groups are of the rows and units that are selected, also of computed ones, read once."""
    made = make((3, 1, 4, 2), seed=4)
    cache = made.open()
    x = cache["x"]
    mask = np.array(made.tokens.position == made.tokens.length - 1)
    last, labels = made.x[torch.from_numpy(mask)][:, 1:], made.tokens.label[mask]
    found = x[:, -1, 1:].group_by("label").mean()
    for key, result in found:
        mine = np.array(labels.isna() if key is None else labels == key, dtype=bool)
        assert torch.allclose(result, last[torch.from_numpy(mine)].double().mean(0))
    twice = (x + x).group_by("label").mean()
    assert torch.allclose(twice.values, 2 * x.group_by("label").mean().values)
    cache.io.reset()
    groups = x.group_by("token")
    assert groups.count().values.sum() == 10
    assert cache.io.rows == 0
    groups.var()
    assert cache.io.rows == 10
    assert x.where("position > 7").group_by("label").mean().values.shape == (0, 3)
    pooled = cache["pooled"].group_by("score").sum()
    assert torch.allclose(pooled.values.sum(0), made.pooled.double().sum(0))


def test_not_a_number() -> None:
    """NaN and infinity stay in their group, as torch leaves them there."""
    made = make((4, 4), seed=1)
    x = made.open()["x"]
    odd = x.map(
        lambda rows: torch.where(rows > 4, torch.nan, torch.where(rows < -6, torch.inf, rows))
    )
    values, position = odd.load().flatten(0, 1), odd.column("position")
    for op in ("mean", "sum", "min", "max", "var", "norm"):
        for key, result in getattr(odd.group_by("position"), op)():
            want = reference(op, values[torch.from_numpy(position == key)])
            torch.testing.assert_close(result, want, equal_nan=True, check_dtype=False)


def test_nan_is_a_key() -> None:
    """The group of rows whose column is NaN is found by any NaN."""
    x = make((3, 2)).open()["x"]
    groups = x.group_by("CASE WHEN position = 0 THEN 'nan'::DOUBLE ELSE 1 END")
    assert np.float64("nan") in groups
    assert groups[np.float64("nan")].column("position").tolist() == [0, 0]


def test_far_from_zero() -> None:
    """A mean that is large beside the deviations costs no digits of the variance."""
    made = make((50,) * 8, seed=1, dtype=torch.float64)
    far = made.open()["x"] + 1e9
    values, position = far.load().flatten(0, 1) - 1e9, far.column("position")
    for key, result in far.group_by("position").var():
        want = values[torch.from_numpy(position == key)].var(0)
        torch.testing.assert_close(result, want, rtol=1e-12, atol=0)


def test_rows_are_added_on_one_thread(monkeypatch) -> None:
    """Sums of runs and of groups that change with every row are float64's, without torch's team."""
    made = make((40, 3, 90), seed=2, dtype=torch.bfloat16)
    x = made.open()["x"]
    values, seen = x.rows.load().double(), set()
    of_torch = torch.Tensor.index_add_

    def noted(*given: object) -> torch.Tensor:
        seen.add(torch.get_num_threads())
        return of_torch(*given)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_thread() as works:
            pass
        monkeypatch.setattr(torch.Tensor, "index_add_", noted)
        for column in ("example", "position"):
            keys = torch.from_numpy(np.array(x.rows.column(column)))
            for key, result in x.group_by(column).sum():
                exact = [math.fsum(unit) for unit in values[keys == key].T.tolist()]
                assert result.tolist() == exact
        assert seen == {1 if works else 2}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_refused() -> None:
    """Too many groups are refused with the size, lists and several columns as no key at all."""
    made = make((3, 2))
    x = made.open()["x"]
    small = made.open()
    small.stored._budget_bytes = 100
    with pytest.raises(MemoryBudgetError, match="groups of 3 units needs 360 bytes"):
        small["x"].group_by("row").var()
    with pytest.raises(QueryError, match="unit"):
        x.group_by("x")
    with pytest.raises(QueryError):
        x.group_by("label, token")
    with pytest.raises(SelectionError, match="different width"):
        made.open()["pattern_0"].group_by("label").mean()
    patterns = made.open()["pattern_0"].group_by("position")
    assert patterns.count()[2] == 1
    assert np.array_equal(patterns[2].column("position"), [2])
