"""cache.where, x.where, x.sample, x.columns: rows chosen by what the tables say of them."""

import itertools
import pickle

import numpy as np
import pytest
import torch
from cache_helpers import same_bits
from hypothesis import given, settings
from hypothesis import strategies as st
from rows_helpers import Made, forget, make

import lazycache as lc
from lazycache.cache.selecting.sampling import places
from lazycache.errors import QueryError, ReadOnlyError, SelectionError

LENGTHS = (3, 1, 4, 2, 0, 3, 1)

CONDITIONS = {
    "position > 0": lambda t: t.position > 0,
    "label = 'a'": lambda t: t.label == "a",
    "label IS NULL": lambda t: t.label.isna(),
    "label = 'b' AND position < 2": lambda t: (t.label == "b") & (t.position < 2),
    "token IN ('w0', 'w1') OR score > 0.5": lambda t: t.token.isin(["w0", "w1"]) | (t.score > 0.5),
    "run = 'run1'": lambda t: t.run == "run1",
    "example % 2 = 0 -- half": lambda t: t.example % 2 == 0,
    "position = length - 1": lambda t: t.position == t.length - 1,
    "position > 9": lambda t: t.position > 9,
    "position = 1; ": lambda t: t.position == 1,
    "NOT label = 'a'": lambda t: t.label.notna() & (t.label != "a"),
}
"""Conditions, and what they mean of a frame of tokens."""


@pytest.fixture(scope="module")
def made() -> Made:
    return make(LENGTHS, runs=2, uncovered=1)


@pytest.fixture(scope="module", autouse=True)
def _forget():
    yield
    forget()


def by_example(made: Made, mask: np.ndarray) -> list[torch.Tensor]:
    """Return the kept values of each example that has some."""
    groups = made.tokens[mask].groupby(["r", "example"]).indices
    kept = made.x[torch.from_numpy(np.flatnonzero(mask))]
    return [kept[torch.from_numpy(np.sort(groups[key]))] for key in sorted(groups)]


def same_examples(x, expected: list[torch.Tensor]) -> bool:
    return len(x) == len(expected) and all(
        same_bits(part.load(), values) for part, values in zip(x, expected, strict=True)
    )


@pytest.mark.parametrize("condition", CONDITIONS)
def test_rows(made, condition) -> None:
    """A condition keeps the rows that pandas keeps, of cache and tensor, and reads no shard."""
    cache = made.open()
    mask = np.array(CONDITIONS[condition](made.tokens), dtype=bool)
    expected = by_example(made, mask)
    restricted, x = cache.where(condition)["x"], cache["x"].where(condition)
    assert x.count() == restricted.count() == mask.sum()
    assert cache.where(condition).rows("x") == mask.sum()
    assert x.lengths.tolist() == [len(values) for values in expected]
    assert cache.io.bytes == 0
    assert same_examples(x, expected)
    left = [part for part in restricted if len(part)]
    assert same_examples(left, expected)
    kept = made.x[torch.from_numpy(mask)]
    if len(kept):
        assert torch.allclose(restricted.mean("rows"), kept.double().mean(0))
        assert torch.equal(x.max("rows"), kept.amax(0))


def test_alignment(made) -> None:
    """Entry i is one example in all sites of a restricted cache, also where it has no rows."""
    cache = made.open().where("label = 'a'")
    examples = made.examples[made.examples.label == "a"]
    assert same_bits(cache["pooled"].load(), made.pooled[np.array(examples.index)])
    assert cache["x"].lengths.tolist() == examples.length.tolist()
    assert len(cache["partial"]) == len(cache["x"]) == len(cache["pooled"])
    whole = made.open()["partial"].lengths
    assert cache["partial"].lengths.tolist() == whole[np.array(examples.index)].tolist()
    assert cache["pattern_0"].lengths.tolist() == cache["x"].lengths.tolist()


def test_examples_of_rows(made) -> None:
    """A condition on tokens keeps, of the table of examples, those that have such a token."""
    cache = made.open().where("token = 'w1'")
    there = made.tokens[made.tokens.token == "w1"][["r", "example"]].drop_duplicates()
    found = made.examples.reset_index().merge(there, on=["r", "example"])["index"].to_list()
    assert same_bits(cache["pooled"].load(), made.pooled[found])


def test_composed(made) -> None:
    """A where of a where keeps what satisfies both, of every table, in every order."""
    cache = made.open()
    both = cache.where("label = 'b' AND position > 0")["x"]
    for first, second in (("label = 'b'", "position > 0"), ("position > 0", "label = 'b'")):
        steps = cache.where(first).where(second)
        assert same_examples([p for p in steps["x"] if len(p)], [p.load() for p in both if len(p)])
        assert same_examples(
            [p for p in cache.where(first)["x"].where(second) if len(p)],
            [p.load() for p in both if len(p)],
        )
    assert cache.where("label = 'a'").where("label = 'b'")["x"].count() == 0


def test_sites_in_conditions(made) -> None:
    """A site in a condition is read for the rows that are left, one unit of each."""
    cache = made.open()
    some = cache.where("label = 'a'")
    rows = some["x"].count()
    assert cache.io.rows == 0
    high = some.where("unit(x, 1) > 0")
    assert cache.io.rows == rows
    mask = np.array(made.tokens.label == "a") & (made.x[:, 1] > 0).numpy()
    assert same_examples([part for part in high["x"] if len(part)], by_example(made, mask))
    means = made.open().where("unit(pooled, 0) > 0")["pooled"].load()
    assert same_bits(means, made.pooled[made.pooled[:, 0] > 0])


def test_sql(made) -> None:
    """SQL on a restricted cache sees its rows only, and of these all columns, sites too."""
    cache = made.open().where("label = 'a' AND position > 0")
    mask = np.array((made.tokens.label == "a") & (made.tokens.position > 0))
    assert cache.sql("SELECT count(*) FROM tokens").fetchall() == [(mask.sum(),)]
    found = cache.sql(
        "SELECT run, example, position, x FROM tokens ORDER BY run, example, position"
    )
    rows = found.fetchall()
    expected = made.tokens[mask][["run", "example", "position"]].itertuples(index=False, name=None)
    assert [row[:3] for row in rows] == list(expected)
    assert torch.equal(torch.tensor([row[3] for row in rows]), made.x[torch.from_numpy(mask)])
    kept = made.tokens[mask][["run", "example"]].drop_duplicates()
    assert cache.sql("SELECT count(*) FROM examples").fetchall() == [(len(kept),)]
    cache.io.reset()
    cache.sql("SELECT row FROM tokens WHERE unit(x, 0) > -1e9").fetchall()
    assert cache.io.rows == mask.sum()
    with pytest.raises(ReadOnlyError):
        cache.sql("DELETE FROM lazycache_kept.tokens")
    with pytest.raises((QueryError, ReadOnlyError)):
        cache.sql("WITH d AS (DELETE FROM lazycache_kept.tokens RETURNING *) FROM d").fetchall()


@pytest.mark.parametrize(
    "condition",
    [
        "1 = 1) OR (1 = 1",
        "true; DROP TABLE tokens",
        "true UNION SELECT true",
        "position > 0 LIMIT 1",
        "true ORDER BY row",
        "true, true",
        "true AS yes",
        "*",
        "",
        "position > (DELETE FROM tokens)",
        "count(*) > 1",
        "position > 'x'",
        3,
        "(SELECT count(*) FROM read_csv('/etc/passwd')) > 0",
    ],
)
def test_no_condition(made, condition) -> None:
    """What is not one expression of this dataset is refused at once, whatever it closes."""
    cache = made.open()
    for asked in (cache, cache["x"], cache["x"][:0]):
        with pytest.raises(QueryError):
            asked.where(condition)


def test_unknown_column(made) -> None:
    """An unknown column is an error that names the nearest, of all that take columns."""
    x = made.open()["x"]
    for ask in (made.open().where, x.where, x.group_by, x.columns):
        with pytest.raises(QueryError, match="label"):
            ask("lable")


def test_parameters(made) -> None:
    """Values of a condition can be given apart from it, by place and by name."""
    cache = made.open()
    asked = cache.where("label = ? AND position > ?", ["a", 0])["x"]
    named = cache["x"].where("label = $label", {"label": "a"}).where("position > $p", {"p": 0})
    assert asked.count() == named.count() == cache["x"].where("label='a' AND position>0").count()
    assert cache.where("label = ?", ["x' OR 'a' = 'a"])["x"].count() == 0
    values = ["a"]
    later = cache.where("label = ?", values)
    values[0] = "b"  # changes nothing, here or in another process
    assert pickle.loads(pickle.dumps(later)) == later == cache.where("label = 'a'")


def test_opened(made) -> None:
    """lc.open(url, where=...) is the restricted cache; closing it refuses further reads."""
    with made.open(where="label = 'a'") as cache:
        x = cache["x"]
        expected = by_example(made, np.array(made.tokens.label == "a"))
        assert same_examples([part for part in x if len(part)], expected)
    with pytest.raises(Exception, match="closed"):
        x.rows.load()
    whole = made.open()
    with whole.where("label = 'a'"):
        pass
    assert whole["x"].rows.load().shape == made.x.shape


def test_pickled(made, tmp_path) -> None:
    """A tensor of a restricted cache is pickled by its address and its conditions."""
    x = made.open().where("label = $l", {"l": "a"}).where("position > 0")["x"]
    again = pickle.loads(pickle.dumps(x))
    assert same_bits(again.padded(), x.padded())


def test_in_memory() -> None:
    """A cache without a dataset has no rows to choose; a tensor in memory is not in the result."""
    with pytest.raises(QueryError, match="in memory"):
        lc.ActivationCache().where("position > 0")
    cache = make((2, 3)).open()
    cache["mine"] = torch.ones(2)
    assert list(cache.where("position > 0")) == ["partial", "pattern_0", "pooled", "x"]


index = st.sampled_from(
    [
        (),
        (slice(1, None),),
        (slice(None), slice(1, None)),
        (slice(None, None, -1), slice(None, None, 2)),
        ([2, 0, 0],),
        (slice(None), slice(None, None, -1)),
        (3,),
        (slice(0, 0),),
        (slice(None), slice(0, 2), slice(1, 3)),
    ]
)


@settings(max_examples=60, deadline=None)
@given(part=index, condition=st.sampled_from(sorted(CONDITIONS)))
def test_after_indexing(part, condition) -> None:
    """x[index].where(c) keeps the selected rows that c is true of, example by example, in order."""
    made = make((3, 1, 4, 2), seed=3)
    x = made.shared["x"][part]
    true = np.array(CONDITIONS[condition](made.tokens), dtype=bool)
    units = part[2] if len(part) > 2 else slice(None)
    flat = {tuple(row.tolist()) for row in made.x[torch.from_numpy(true)][:, units]}
    kept = x.where(condition)
    entries = list(x) if x.lead_ndim == 2 else [x]
    expected = [
        torch.stack(rows) if rows else entry.load()[:0]
        for entry in entries
        for rows in [[row for row in entry.load() if tuple(row.tolist()) in flat]]
    ]
    if x.lead_ndim == 2:
        assert same_examples(kept, [values for values in expected if len(values)])
    else:
        assert same_bits(kept.load(), expected[0])


def test_examples_chosen_twice() -> None:
    """An example that was chosen several times is there as often, and counts as often."""
    small = make((2, 2, 2), batches=1)
    x, parts = small.shared["x"], list(small.x.split(2))
    for chosen in itertools.permutations(range(3), 2):
        examples = [*chosen, chosen[0]]
        kept = x[examples].where("position < 2")
        assert same_examples(kept, [parts[e] for e in examples])
        assert same_bits(kept.rows.load().sort(0).values, kept.load().flatten(0, 1).sort(0).values)
        assert torch.equal(kept.max("rows"), kept.load().amax((0, 1)))
        torch.testing.assert_close(kept.sum("rows"), kept.load().double().sum((0, 1)))
        assert same_examples(kept.where("position = 1"), [parts[e][1:] for e in examples])


def test_dense(made) -> None:
    """Rows that are not in examples by positions stay one after the other, in their order."""
    cache = made.open()
    last = cache["x"].where("length > 0")[:, -1]
    mask = (made.tokens.position == made.tokens.length - 1) & (made.tokens.label == "a")
    expected = made.x[torch.from_numpy(np.array(mask))]
    assert same_bits(last.where("label = 'a'").load(), expected)
    assert same_bits(last[:, 1].where("label = 'a'").load(), expected[:, 1])
    grid = cache["x"].where("length > 1")[:, [0, 1]]
    assert grid.where("position = 1").shape == (grid.shape[0], 3)
    assert cache["x"][0, 0].where("position = 0").shape == (1, 3)
    rows = cache["x"].rows
    labels = rows.column("label")
    values = rows.load()
    assert same_bits(rows.where("label = 'b'").load(), values[torch.from_numpy(labels == "b")])


def test_queries(made) -> None:
    """Of attention patterns rows are queries: they go, and the keys of those that stay are all."""
    x = made.open()["pattern_0"]
    for condition in ("position > 0", "label = 'a'", "position = length - 1"):
        kept = x.where(condition)
        lengths = made.tokens[CONDITIONS[condition](made.tokens)].groupby(["r", "example"]).size()
        assert kept.lengths.tolist() == lengths.tolist()
        rows = x.rows
        mask = rows.where(condition)
        assert np.allclose(kept.rows.padded(-1).sum(), mask.padded(-1).sum())
    last = x[:, 0].where("position = length - 1")
    for i, (_, example) in enumerate(zip(range(len(last)), last, strict=True)):
        whole = x.where("length > 0")[i, 0]
        assert same_bits(example.load(), whole[-1:].load())
    assert x.where("length > 1")[:, 1, -1].where("label = 'a'").ndim == 2
    with pytest.raises(SelectionError, match="keys"):
        x[..., 0].where("position > 0")


def test_torch_where(made) -> None:
    """torch.where is torch's: the method of that name does not come between."""
    x = made.open()["x"].rows
    loaded = x.load()
    assert torch.equal(
        torch.where(loaded > 0, x, torch.zeros(())), torch.where(loaded > 0, loaded, 0.0)
    )


@settings(max_examples=50, deadline=None)
@given(
    lengths=st.sampled_from([(3, 0, 1, 4), (1,), (2, 2, 2)]),
    seed=st.integers(0, 50),
    data=st.data(),
)
def test_sample(lengths, seed, data) -> None:
    """A sample has n different rows in order, the same for a seed however batches were stored."""
    made, other = make(lengths, batches=1), make(lengths, batches=3)
    rows = sum(lengths)
    n = data.draw(st.integers(0, rows))
    drawn = made.shared["x"].sample(n, seed=seed)
    assert drawn.shape == (n, 3)
    chosen = places(rows, n, seed=seed)
    assert len(set(chosen.tolist())) == n
    assert same_bits(drawn.load(), made.x[torch.from_numpy(chosen)])
    again = other.shared["x"].sample(n, seed=seed).columns("example", "position")
    assert again == drawn.columns("example", "position")
    with pytest.raises(SelectionError, match=f"{rows:,}"):
        made.shared["x"].sample(rows + 1)


def test_sample_is_fair() -> None:
    """Every row is drawn as often as another, whatever part of all is drawn."""
    for n in (1, 3, 7):
        drawn = np.concatenate([places(10, n, seed=seed) for seed in range(2000)])
        counts = np.bincount(drawn, minlength=10)
        assert abs(counts - 200 * n).max() < 6 * (200 * n) ** 0.5


def test_sample_of_others(made) -> None:
    """Examples are drawn of a site of examples, queries of patterns; numbers are checked."""
    cache = made.open()
    assert same_bits(cache["pooled"].sample(7).load(), made.pooled)
    assert len(cache["pattern_0"].sample(4, seed=2)) == 4
    assert cache["x"].where("label = 'a'").sample(2, seed=1).column("label").tolist() == ["a", "a"]
    for wrong in (-1, 1.5, True, "2"):
        with pytest.raises(SelectionError):
            cache["x"].sample(wrong)
    with pytest.raises(SelectionError):
        cache["x"].sample(1, seed=-1)


def test_columns(made) -> None:
    """Columns have an entry for each row of the tensor, in its order, with NULL where it is."""
    cache = made.open()
    x = cache["x"]
    table = x.columns("run", "example", "position", "token", "label", "score", "upper(token)")
    assert table.column_names[-1] == "upper(token)"
    assert cache.io.bytes == 0
    found = table.to_pandas().rename(columns={"upper(token)": "upper"})
    expected = made.tokens.assign(upper=made.tokens.token.str.upper())
    assert found.label.isna().tolist() == expected.label.isna().tolist()
    names = ["run", "example", "position", "token", "label", "score", "upper"]
    assert found.fillna("none").to_dict("list") == expected[names].fillna("none").to_dict("list")
    rows, values = x.rows.columns("run", "example", "position"), x.rows.load()
    keys = [tuple(row.values()) for row in rows.to_pylist()]
    known = {
        (t.run, t.example, t.position): made.x[i] for i, t in enumerate(made.tokens.itertuples())
    }
    assert same_bits(values, torch.stack([known[key] for key in keys]))
    assert (
        x[[2, 0, 2]].column("example").tolist()
        == np.repeat(made.examples.example[[2, 0, 2]], made.examples.length[[2, 0, 2]]).tolist()
    )
    labels = [label if isinstance(label, str) else None for label in made.examples.label]
    assert cache["pooled"].column("label").tolist() == labels
    assert x[:0].columns("label", "position").num_rows == 0


def test_few_of_many() -> None:
    """A few rows that lie far apart are asked for one by one, in any order, twice if they are."""
    made = make((30,) * 40)
    rows = made.open()["x"].rows[[1199, 0, 600, 0]]
    assert rows.column("position").tolist() == [29, 0, 0, 0]


def test_token_ids(tmp_path) -> None:
    """cache["input_ids"] has the ids of the tokens, by example, restricted and joined too."""
    model = torch.nn.Sequential(torch.nn.Embedding(20, 4))
    data = [{"input_ids": [5, 6, 7], "label": "a"}, {"input_ids": [1, 2]}, {"input_ids": [9]}]
    cache = lc.extract(model, data, tmp_path, "0", batch_size=1, progress=False)
    ids = cache["input_ids"]
    assert ids.padded(-1).tolist() == [[5, 6, 7], [1, 2, -1], [9, -1, -1]]
    assert ids.dtype == torch.int64
    assert "input_ids" in cache
    assert "input_ids" not in list(cache)
    assert cache.io.bytes == 0
    kept = cache.where("token_id % 2 = 1")
    assert kept["input_ids"].padded(-1).tolist() == [[5, 7], [1, -1], [9, -1]]
    assert same_bits(kept["0:out"].rows.load(), cache["0:out"][ids.padded() % 2 == 1].load())
    assert pickle.loads(pickle.dumps(ids)).rows.load().tolist() == [5, 6, 7, 1, 2, 9]
    twice = cache.copy()
    twice.cat(lc.open(tmp_path))
    assert twice["input_ids"].lengths.tolist() == [3, 2, 1, 3, 2, 1]
    with pytest.raises(KeyError):
        make((2, 3)).open()["input_ids"]


def test_token_ids_fit_the_sites(tmp_path) -> None:
    """They are of the rows that the sites are joined of, or there are none: never of others."""
    model = torch.nn.Sequential(torch.nn.Embedding(20, 4))
    for name, data in (("a", [[5, 6, 7], [1, 2]]), ("b", [[9]])):
        lc.extract(model, data, tmp_path / name, "0", batch_size=1, progress=False)
    a, b = lc.open(tmp_path / "a"), lc.open(tmp_path / "b")
    right = a + b
    assert right["input_ids"].lengths.tolist() == right["0:out"].lengths.tolist() == [1]
    twice = a.copy()
    twice.cat(twice)
    assert twice["input_ids"].lengths.tolist() == twice["0:out"].lengths.tolist() == [3, 2, 3, 2]
    mixed = a.copy()
    mixed.cat(lc.ActivationCache({"0:out": torch.zeros(1, 2, 4)}))
    several = a.copy()
    several["0:in"] = torch.zeros(1)
    several.update({"other": b["0:out"]})
    assert "input_ids" in several  # what is in memory has no tokens of its own
    assert "input_ids" not in mixed
    with pytest.raises(KeyError, match="different tokens"):
        mixed["input_ids"]


def test_joined(made) -> None:
    """Of joined caches each dataset is asked; what is left is joined as they were."""
    other = make((2, 3), seed=9)
    cache = made.open()
    cache.cat(other.open())
    masks = [np.array((m.tokens.label == "a") & (m.tokens.position > 0)) for m in (made, other)]
    expected = [
        part for m, mask in zip((made, other), masks, strict=True) for part in by_example(m, mask)
    ]
    condition = "label = 'a' AND position > 0"
    assert same_examples([p for p in cache.where(condition)["x"] if len(p)], expected)
    assert same_examples(cache["x"].where(condition), expected)
    labels = made.shared["x"].column("label").tolist() + other.shared["x"].column("label").tolist()
    assert cache["x"].column("label").tolist() == labels
    counts = cache["x"].group_by("label").count()
    assert counts["a"] == labels.count("a")
    assert cache["x"].sample(5, seed=1).columns("token", "run").num_rows == 5


def test_derived(made) -> None:
    """What is computed of sites has the rows of its operands, and their columns."""
    cache = made.open()
    x = cache["x"]
    double = x + x
    mask = np.array(made.tokens.label == "a")
    kept = [part for part in double.where("label = 'a'") if len(part)]
    assert same_examples(kept, [2 * values for values in by_example(made, mask)])
    assert double.column("label").tolist() == x.column("label").tolist()
    flat = pickle.loads(pickle.dumps(x.rows[::-1] * 2.0))
    assert flat.column("position").tolist() == x.rows.column("position")[::-1].tolist()


def test_row_of_the_table(made) -> None:
    """`row` in a condition is the row of the tensor's own table, not that of its example."""
    x = made.open()["x"].where("row % 3 = 1 AND row < 20")
    every = made.open()["x"].column("row").tolist()
    assert sorted(x.column("row").tolist()) == [r for r in sorted(every) if r % 3 == 1 and r < 20]
    assert made.open()["pooled"].where("row = 2").column("row").tolist() == [2]
