"""Normalised rows: by the numbers of the statistics, exactly, and back again."""

import json
import pickle

import pytest
import rows_helpers
import torch
from cache_helpers import same_bits

import lazycache as lc
from lazycache.errors import SelectionError
from lazycache.feed import Norm, norms
from lazycache.mapping.activation_cache import ActivationCache

LENGTHS = (3, 1, 5, 2, 4, 6, 1, 2)


@pytest.fixture(scope="module")
def made():
    """Examples of 24 tokens with a site `x` of 3 units."""
    yield rows_helpers.make(LENGTHS, runs=2)
    rows_helpers.forget()


def in_memory(values):
    """Return values as a lazy tensor."""
    cache = ActivationCache()
    cache["a"] = values
    return cache.stack(["a"])["a"]


def by_hand(values, kind):
    """Return shift and spread of rows in float64."""
    wide, zero, one = values.double(), torch.zeros(()).double(), torch.ones(()).double()
    if kind == "center":
        return wide.mean(0), one
    if kind == "standard":
        return wide.mean(0), wide.std(0, correction=0)
    return zero, (wide.square().sum(1).mean() / wide.shape[1]).sqrt()


@pytest.mark.parametrize("kind", ["center", "standard", "scale"])
@pytest.mark.parametrize(
    "select",
    [lambda x: x, lambda x: x[..., 1:], lambda x: x.where("position > 0"), lambda x: x * 2],
    ids=["whole", "units", "where", "expression"],
)
def test_norms_are_those_of_the_selected_rows(made, kind, select):
    """A norm by name has the mean, deviation or length of just the rows and units selected."""
    x = select(made.shared["x"])
    values = x.rows.load()
    norm = norms.norm_of(kind, x)
    shift, spread = by_hand(values, kind)
    torch.testing.assert_close(norm.shift, shift, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(norm.spread, spread, rtol=1e-12, atol=1e-12)
    expected = (values - norm.shift.float()) / norm.spread.float()
    before = values.clone()
    found = norm(values)
    assert found.dtype == torch.float32
    assert same_bits(found, expected)
    assert same_bits(values, before)
    torch.testing.assert_close(norm.invert(found), values, rtol=1e-5, atol=1e-5)


def test_a_whole_site_is_normed_without_a_shard(tmp_path):
    """Of a whole site with statistics, no norm reads a row."""
    model = torch.nn.Sequential(torch.nn.Linear(8, 64))
    with lc.capture(model, str(tmp_path), "0:out"):
        model(torch.randn(20_000, 8))
    cache = lc.open(str(tmp_path))
    for kind in ("center", "standard", "scale"):
        Norm.of(cache["0:out"], kind)
    assert cache.io.rows == 0
    Norm.of(cache["0:out"].where("example = 1"), "center")
    assert cache.io.rows > 0


def test_what_a_norm_promises():
    """Standard: mean 0 and mean square 1 of each unit; scale: mean squared length = units."""
    values = torch.randn(500, 8, generator=torch.Generator().manual_seed(0)) * 3 + 5
    x = in_memory(values)
    standard, scaled = (Norm.of(x, kind)(values, torch.float64) for kind in ("standard", "scale"))
    torch.testing.assert_close(standard.mean(0), torch.zeros(8).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(standard.square().mean(0), torch.ones(8).double())
    assert scaled.square().sum(1).mean().item() == pytest.approx(8, rel=1e-12)


def test_units_that_never_change_become_zero():
    """A unit that is the same in all rows becomes 0 and comes back, however small its spread."""
    values = torch.tensor([[3.0, 1.0], [3.0, 2.0]])
    norm = Norm.of(in_memory(values), "standard")
    assert norm(values).tolist() == [[0.0, -1.0], [0.0, 1.0]]
    assert norm.invert(norm(values)).tolist() == values.tolist()
    assert Norm(0.0, 1e-60)(torch.ones(2)).tolist() == [0.0, 0.0]
    zeros = Norm.of(in_memory(torch.zeros(2, 2)), "scale")
    assert zeros(torch.zeros(2, 2)).tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_dtypes_of_what_comes_out():
    """float32 unless another dtype is asked for; float64 is worked out in float64."""
    norm = Norm(torch.tensor([0.1, 0.2], dtype=torch.float64), 3.0)
    values = torch.tensor([[1, 2]], dtype=torch.bfloat16)
    assert norm(values).dtype == torch.float32
    assert norm(values, torch.bfloat16).dtype == torch.bfloat16
    exact = norm(values.double(), torch.float64)
    assert same_bits(exact, (values.double() - norm.shift) / 3)
    assert norm.invert(exact, torch.float16).dtype == torch.float16


def test_a_norm_is_kept_as_tensors():
    """Its tensors, and its pickle, make a norm that does the same."""
    norm = Norm(torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.0]))
    values = torch.tensor([[3.0, 2.0]])
    for again in (Norm.from_tensors(norm.tensors()), pickle.loads(pickle.dumps(norm))):
        assert same_bits(again(values), norm(values))
        assert same_bits(again.invert(values), norm.invert(values))
    assert repr(norm) == "Norm(shift: [2], spread: [2])"
    assert repr(Norm(0.0, 0.5)) == "Norm(shift=0, spread=0.5)"
    with pytest.raises(SelectionError, match="'shift' and 'spread'"):
        Norm.from_tensors({"mean": torch.ones(1)})


@pytest.mark.parametrize("kinds", [("center", "standard"), ("scale", "scale"), ("scale", "center")])
def test_a_stack_is_normed_layer_by_layer(kinds):
    """The norms of layers, stacked, do to [rows, layers, *row] what each does to its layer."""
    layers = [torch.randn(6, 2, 3, generator=torch.Generator().manual_seed(s)) for s in (0, 1)]
    each = [Norm.of(in_memory(v), kind) for v, kind in zip(layers, kinds, strict=True)]
    both = Norm.stacked(each, row_ndim=2)(torch.stack(layers, 1))
    apart = [norm(v) for norm, v in zip(each, layers, strict=True)]
    assert same_bits(both, torch.stack(apart, 1))


def test_a_loader_hands_out_normed_rows(made):
    """norm= of a loader is applied to each site by its own numbers, and shown."""
    cache = made.shared
    loader = cache.loader(["x", "partial"], 24, shuffle=False, norm="standard")
    (batch,) = loader
    for name in ("x", "partial"):
        assert same_bits(batch[name], Norm.of(cache[name], "standard")(cache[name].rows.load()))
        assert set(loader.norm[name].tensors()) == {"shift", "spread"}
    norm = Norm(1.0, 2.0)
    with cache["x"].loader(24, shuffle=False, norm=norm, dtype=torch.float64) as one:
        (values,) = one
        assert one.norm is norm
    assert same_bits(values, (cache["x"].rows.load().double() - 1) / 2)
    (halved,) = cache["x"].loader(24, shuffle=False, norm=lambda rows: rows / 2)
    assert same_bits(halved, cache["x"].rows.load() / 2)
    assert json.dumps(loader.state_dict())


@pytest.mark.parametrize(
    ("asked", "values", "says"),
    [
        ("standart", torch.ones(2, 2), "Nearest: standard"),
        ("center", torch.tensor([[1.0, torch.nan], [1.0, 1.0]]), "1 of 2 numbers .*not finite"),
        ("scale", torch.tensor([[torch.inf, 1.0]]), "not finite"),
        ("center", torch.ones(0, 2), "no rows"),
        (Norm(torch.ones(3), 1.0), torch.ones(2, 2), "does not fit rows of shape"),
        (7, torch.ones(2, 2), "a Norm or a function, not 7"),
    ],
)
def test_norms_that_cannot_be(asked, values, says):
    """What is no norm, does not fit, or would make every row NaN is refused before it is used."""
    with pytest.raises(SelectionError, match=says):
        norms.norm_of(asked, in_memory(values))


def test_numbers_of_a_norm_are_checked():
    """A norm has finite numbers, and divides by none below zero."""
    for shift, spread in ((torch.nan, 1.0), (0.0, torch.inf), (0.0, -1.0)):
        with pytest.raises(SelectionError, match=r"not finite|not negative"):
            Norm(shift, spread)
