"""Linear probes: their optimum beside autograd, their split, what they refuse."""

import math
from unittest import mock

import numpy as np
import pytest
import torch
from rows_helpers import make

from lazycache.errors import MemoryBudgetError, QueryError
from lazycache.mapping.activation_cache import ActivationCache
from lazycache.query.probes import probe_rows
from lazycache.query.probes.probe_rows import split
from lazycache.query.probes.probe_targets import targets_of

CACHE = ActivationCache()


def rows(count=300, units=6, seed=0):
    """Rows of units of very different means and sizes, one of them constant."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, units, generator=generator).double()
    x = x @ torch.randn(units, units, generator=generator).double()
    x = x * torch.logspace(-2, 3, units).double() + torch.linspace(-50, 2e4, units).double()
    x[:, 3] = 0.1
    return x


def standardised(x):
    """Rows scaled as the fit scales them, weights of the constant unit left out."""
    deviation = x.std(0, correction=0)
    deviation[3] = torch.inf
    return (x - x.mean(0)) / deviation, deviation


@pytest.mark.parametrize("held", [0, 1 << 30], ids=["streamed", "held"])
@pytest.mark.parametrize("classes", [2, 4])
def test_a_logistic_probe_is_the_optimum_that_autograd_knows(classes, held):
    """The gradient of the penalised loss is zero at its weights, for two classes and for more."""
    x = rows()
    z, deviation = standardised(x)
    noise = torch.rand(len(x), generator=torch.Generator().manual_seed(1))
    target = ((z[:, 0] + noise).argsort().argsort() * classes // len(x)).tolist()
    with mock.patch.object(probe_rows, "HELD_BYTES", held):
        probe = CACHE.probe(x, [f"c{i}" for i in target], l2=0.01, test=0)
    assert probe.classes == tuple(f"c{i}" for i in range(classes))
    assert probe.converged
    weights = (probe.weights.reshape(-1, 6) * deviation.where(deviation < torch.inf, 0)).T
    bias = probe.bias.reshape(-1) + x.mean(0) @ probe.weights.reshape(-1, 6).T
    weights, bias = weights.clone().requires_grad_(), bias.clone().requires_grad_()
    logits, codes = z @ weights + bias, torch.tensor(target)
    if classes == 2:
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits[:, 0], codes.double())
    else:
        loss = torch.nn.functional.cross_entropy(logits, codes)
    (loss + 0.005 * weights.square().sum()).backward()
    assert weights.grad.abs().max() < 1e-6
    assert bias.grad.abs().max() < 1e-6
    assert probe.weights.reshape(-1, 6)[:, 3].eq(0).all()
    said = logits[:, 0].gt(0).long() if classes == 2 else logits.argmax(1)
    assert probe.train.score == pytest.approx((said == codes).double().mean().item())
    assert probe.predict(x).tolist() == [f"c{i}" for i in said.tolist()]


@pytest.mark.parametrize("held", [0, 1 << 30], ids=["streamed", "held"])
def test_a_ridge_probe_solves_the_normal_equations(held):
    """Weights, bias and R2 are those of a plain solution of standardised rows."""
    x = rows()
    z, deviation = standardised(x)
    y = 3e3 + z[:, 1] * 5 + torch.randn(len(x), generator=torch.Generator().manual_seed(2)).double()
    with mock.patch.object(probe_rows, "HELD_BYTES", held):
        probe = CACHE.probe(x, y, l2=0.1, test=0)
    system = z.T @ z / len(z) + 0.1 * torch.eye(6).double()
    weights = torch.linalg.solve(system, z.T @ (y - y.mean()) / len(z))
    torch.testing.assert_close(probe.weights, weights / deviation)
    predicted = z @ weights + y.mean()
    torch.testing.assert_close(probe.predict(x), predicted)
    spread = (y - y.mean()).square().sum()
    assert probe.train.score == pytest.approx((1 - (y - predicted).square().sum() / spread).item())
    assert probe.train.baseline == pytest.approx(0, abs=1e-12)
    assert (probe.classes, probe.test, probe.kind) == (None, None, "ridge")


def test_rows_of_one_example_are_never_on_both_sides():
    """Labels by chance, learned by heart from what tells an example, are not known of others."""
    cache = make((5,) * 60).shared
    generator = torch.Generator().manual_seed(0)
    signature = torch.randn(60, 80, generator=generator)
    label = torch.rand(60, generator=generator) > 0.5
    example = torch.tensor(cache["x"].rows.column("example").tolist())
    values = signature[example] + 0.01 * torch.randn(300, 80, generator=generator)
    # values that tell the example, of rows that the dataset knows
    found = cache.probe(cache["x"].rows[:, :1] * 0 + values, label[example], l2=1e-4)
    assert found.train.score == 1.0
    assert found.test.score < 0.85
    assert (found.train.examples, found.test.examples) == (48, 12)
    assert (found.train.rows, found.test.rows) == (240, 60)


def test_a_text_that_two_runs_saw_is_on_one_side():
    """Of the same examples seen by two models, both views are learned from or tested on."""
    both = ActivationCache()
    for seed in (0, 3):
        both.cat(make((3, 7, 1, 5, 4), seed=seed).open())
    x = both["x"]
    train, tested = split(x, targets_of(x, list(range(40)), "ridge"), 0.4, 0)
    of = np.array(x.rows.column("example").tolist())
    ids = [set(of[np.asarray(part.rows)].tolist()) for part in (train, tested)]
    assert not ids[0] & ids[1]
    assert (train.examples, tested.examples) == (3, 2)
    assert len(train.rows) + len(tested.rows) == 40


@pytest.mark.parametrize("ask", ["probe", "correlate"])
def test_numbers_of_another_dataset_are_those_of_the_same_tokens(ask):
    """A site stored in another order is paired by example and position, never by row number."""
    one, other = make((3, 7, 1, 5, 4)).shared, make((3, 7, 1, 5, 4), seed=3, batches=3).shared
    beside = torch.empty(20, dtype=torch.float64)
    place = dict(one.sql("SELECT (example, position)::VARCHAR, row FROM tokens").fetchall())
    for name, row in other.sql("SELECT (example, position)::VARCHAR, row FROM tokens").fetchall():
        beside[place[name]] = other["x"].rows[row, 0].load()
    if ask == "probe":
        found, wanted = (
            one.probe("x", target, kind="ridge").weights for target in (other["x"][..., 0], beside)
        )
    else:
        found, wanted = (one.correlate("x", column) for column in (other["x"][..., 0], beside))
    torch.testing.assert_close(found, wanted)
    with pytest.raises(QueryError, match="not of the same rows"):
        getattr(one, ask)("x", make((3, 7, 1, 5, 3)).shared["x"][..., 0])


def test_a_site_of_one_number_for_each_row_has_a_probe():
    """Weights are one number then, and scores have the shape of the rows."""
    x = torch.randn(30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    probe = CACHE.probe(x, 3 * x + 1, l2=1e-9)
    assert probe.weights.shape == probe.direction.shape == ()
    torch.testing.assert_close(probe.scores(x), 3 * x + 1)
    assert CACHE.probe(x, x > 0).predict(x).tolist() == (x > 0).tolist()
    alone = CACHE.probe(x, 3 * x + 1, test=0.01).test
    assert alone.rows == 1
    assert math.isnan(alone.score), "one row has no variance to explain"


def examples_of(cache, rows):
    """Run and example of rows of the table of tokens."""
    query = "SELECT DISTINCT run, example FROM tokens WHERE row IN (SELECT unnest(?::BIGINT[]))"
    return set(cache.sql(query, [np.asarray(rows)]).fetchall())


@pytest.mark.parametrize("select", [lambda x: x, lambda x: x.rows, lambda x: x[:, ::2]])
def test_the_split_is_one_of_examples_however_rows_are_selected(select):
    """Of grids, of rows one by one: sides share no example, and a seed says which they are."""
    cache = make((3, 7, 1, 5, 4, 2, 6), runs=2).shared
    x = select(cache["x"])
    targets = targets_of(x, "position", "ridge")
    train, test = split(x, targets, 0.3, 5)
    sides = [examples_of(cache, part.rows) for part in (train, test)]
    assert not sides[0] & sides[1]
    assert (len(sides[0]), len(sides[1])) == (5, 2)
    again = split(x, targets, 0.3, 5)[1]
    assert np.asarray(again.rows).tolist() == np.asarray(test.rows).tolist()
    others = {tuple(np.asarray(split(x, targets, 0.3, seed)[1].rows)) for seed in range(6)}
    assert len(others) > 1


def test_columns_are_targets_and_rows_without_one_are_left_out():
    """Text makes classes, NULL none; the majority is the baseline; the probe works on lazy rows."""
    made = make((6, 7, 5, 5, 4, 2, 6, 8), dtype=torch.bfloat16)
    cache = made.shared
    probe = cache.probe("x", "label", test=0, where="position < 5")
    kept = made.tokens[made.tokens.position < 5]
    labels = kept.label.dropna()
    assert probe.left_out == int(kept.label.isna().sum()) > 0
    assert (probe.classes, probe.train.rows) == (("a", "b"), len(labels))
    assert probe.train.baseline == pytest.approx(labels.value_counts(normalize=True).max())
    predicted = probe.predict(cache["x"])
    assert len(predicted) == len(made.tokens)
    hits = cache.top_k("x", direction=probe.direction, k=len(made.tokens))
    assert predicted[hits.rows[0]] == probe.classes[1]
    scores = probe.scores(cache["x"]).rows.load()[hits.rows]
    assert scores.dtype == torch.float64
    assert (scores.diff() <= 1e-3).all()
    torch.testing.assert_close(probe.direction_of("a"), -probe.direction)
    assert "label" not in repr(probe)
    assert "accuracy" in repr(probe)


KINDS = {
    "bools": ([True, False] * 20, "logistic", (False, True)),
    "few numbers": ([3, 1, 2, 1] * 10, "logistic", (1, 2, 3)),
    "many numbers": (list(range(40)), "ridge", None),
    "floats": ([0.0, 1.0] * 20, "ridge", None),
    "floats with NaN": (torch.tensor([0.0, 1.0, math.nan, 5.0] * 10), "ridge", None),
    "an array of bfloat16": (torch.arange(40).bfloat16(), "ridge", None),
    "text": (np.array(["a", "b"] * 20), "logistic", ("a", "b")),
}


@pytest.mark.parametrize(("target", "kind", "classes"), KINDS.values(), ids=KINDS.keys())
def test_the_kind_follows_from_the_target(target, kind, classes):
    """What has few values that have no size is told apart; numbers are found."""
    x = torch.randn(40, 2, 3, generator=torch.Generator().manual_seed(0)).half()
    probe = CACHE.probe(x, target)
    assert (probe.kind, probe.classes) == (kind, classes)
    several = (3,) if classes == (1, 2, 3) else ()
    assert probe.weights.shape == (*several, 2, 3)
    assert probe.scores(x).shape == (40, *several)
    if several:
        assert probe.direction_of(2).shape == (2, 3)
        with pytest.raises(QueryError, match="direction_of"):
            _ = probe.direction
        with pytest.raises(QueryError, match="no class 7"):
            probe.direction_of(7)
    with pytest.raises(QueryError, match=r"\[2, 3\]"):
        probe.scores(x[:, 0])


X = torch.randn(12, 2, generator=torch.Generator().manual_seed(0))
HALF = [True, False] * 6
WRONG = {
    "one class": (lambda: CACHE.probe(X, [True] * 12), "one class, True"),
    "a constant": (lambda: CACHE.probe(X, [0.5] * 12), r"are 0\.5"),
    "one example": (lambda: CACHE.probe(X[:1], [True]), "two are needed"),
    "no targets": (lambda: CACHE.probe(X, [None] * 12, kind="logistic"), "0 examples"),
    "NaN": (lambda: CACHE.probe(X.index_fill(0, torch.tensor(7), math.nan), HALF), "row 7"),
    "an infinity": (
        lambda: CACHE.probe(X.index_fill(0, torch.tensor(2), -math.inf), HALF, test=0),
        "row 2",
    ),
    "infinite targets": (lambda: CACHE.probe(X, [math.inf] * 12), "12 targets are infinite"),
    "too few targets": (lambda: CACHE.probe(X, HALF[:5]), "12 rows with 5 targets"),
    "a matrix of targets": (lambda: CACHE.probe(X, X), r"\[12, 2\]"),
    "text as numbers": (lambda: CACHE.probe(X, ["a"] * 12, kind="ridge"), "kind='logistic'"),
    "too many classes": (
        lambda: CACHE.probe(torch.zeros(1200, 1), list(map(str, range(1200)))),
        "1,200 classes",
    ),
    "no such kind": (lambda: CACHE.probe(X, HALF, kind="svm"), "one of auto"),
    "no penalty": (lambda: CACHE.probe(X, HALF, l2=0), "above 0"),
    "no share": (lambda: CACHE.probe(X, HALF, test=1), "0 to 1"),
    "no units": (lambda: CACHE.probe(X[:, :0], HALF), "at least one unit"),
    "no such column": (lambda: make((3, 4)).shared.probe("x", "lable"), "label"),
    "patterns": (lambda: make((3, 4)).shared.probe("pattern_0", "label"), "different width"),
}


@pytest.mark.parametrize(("ask", "says"), WRONG.values(), ids=WRONG.keys())
def test_what_cannot_be_learned_is_said(ask, says):
    """Each refusal names what is wrong."""
    with pytest.raises(QueryError, match=says):
        ask()


def test_too_many_units_are_refused_before_anything_is_read():
    """The matrix of units would not fit: the error has its size."""
    with pytest.raises(MemoryBudgetError, match="Select units"):
        CACHE.probe(torch.zeros(2, 1).expand(2, 20_000), [True, False])
