"""Selection and reduction on the device: transform, heads and units, pool."""

import capture_helpers as h
import numpy as np
import pytest
import torch
from torch import nn

from lazycache.capture.sites.heads import Cut, HeadShape
from lazycache.capture.sites.names import HookPoint
from lazycache.capture.sites.resolve import resolve
from lazycache.capture.values.reduce import make_reductions, pooled
from lazycache.errors import CaptureError, UnsupportedDtypeError

IDS = h.ids(2, 4)
MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
HEADS = HeadShape(heads=4, kv_heads=2, d_head=3)
POINTS = {
    "z_0": HookPoint("z", "in", cut=Cut("heads", HEADS)),
    "values_0": HookPoint("v", "out", cut=Cut("kv_heads", HEADS)),
    "pattern_0": HookPoint("attn", "out", 1, cut=Cut("pattern", HEADS)),
    "mlp.act:out": HookPoint("mlp.act", "out"),
}


@pytest.fixture
def sink():
    return h.ListSink()


def _record(sink, sites="resid_out_0", name="llama", **options):
    model = h.make(name)
    with h.recorder(model, sites, sink, **options) as record, torch.no_grad():
        out = model(IDS, attention_mask=MASK, output_hidden_states=True)
    return record, out.hidden_states[1]


@pytest.mark.parametrize("pool", ["mean", "sum", "max"])
def test_pooled_rows_are_columns_of_examples(sink, pool):
    """Over the kept rows of each example, padding left out; tokens stay rows of their own."""
    _, states = _record(sink, pool=pool)
    kept = [states[0, :3], states[1]]
    expected = [rows.amax(0) if pool == "max" else getattr(rows, pool)(0) for rows in kept]
    assert sink.batches[0].sites["resid_out_0"].table == "examples"
    assert torch.equal(sink.values("resid_out_0"), torch.stack(expected))
    assert sink.column("tokens", "position") == [0, 1, 2, 0, 1, 2, 3]


def test_pooling_follows_the_positions(sink):
    """Only the selected tokens of each example are pooled."""
    _, states = _record(sink, pool="mean", positions=slice(-2, None))
    expected = torch.stack([states[0, 1:3].mean(0), states[1, 2:].mean(0)])
    assert torch.equal(sink.values("resid_out_0"), expected)


def test_pooling_nothing_is_an_error_that_names_the_example(sink):
    """An example without a kept row has no mean."""
    with pytest.raises(CaptureError, match="resid_out_0: example 0 of the batch has no kept row"):
        _record(sink, pool="mean", positions=slice(3, None))
    assert sink.batches == []


def test_narrow_floats_are_pooled_in_float32():
    """The mean of many 16-bit numbers is that of float32, cast once."""
    rows = torch.full((4096, 2), 0.1, dtype=torch.bfloat16)
    rows[0] = 300.0
    expected = rows.float().mean(0, keepdim=True).bfloat16()
    assert torch.equal(pooled(rows, [4096], "mean"), expected)
    assert pooled(rows.double(), [4096], "sum").dtype == torch.float64


def test_pooled_integers_and_truths():
    """A sum of them is int64, a mean float32, a maximum what they are."""
    rows = torch.tensor([[1, 2], [4, 1]], dtype=torch.int32)
    assert pooled(rows, [2], "sum").tolist() == [[5, 3]]
    assert pooled(rows, [2], "mean").tolist() == [[2.5, 1.5]]
    assert pooled(rows, [1, 1], "max").dtype == torch.int32
    assert pooled(rows > 1, [2], "max").tolist() == [[True, True]]


def test_an_example_is_pooled_alike_in_every_batch():
    """What it gives does not depend on the examples beside it, bit for bit."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(700, 5, generator=generator)
    whole = pooled(rows, [100, 400, 200], "mean")
    assert torch.equal(whole[1:2], pooled(rows[100:500].clone(), [400], "mean"))


def test_sites_of_examples_are_pooled_already(sink):
    """A row per example stays what it is."""
    model = h.make("bert-base")
    with h.recorder(model, "pooler", sink, pool="max"), torch.no_grad():
        pooler = model(IDS).pooler_output
    assert torch.equal(sink.values("pooler:out"), pooler)


def test_transforms_see_the_kept_rows(sink):
    """They are applied after the selection of rows, and what they return is stored."""
    seen = []

    def norm(rows):
        seen.append(rows.shape)
        return rows.norm(dim=-1)

    _, states = _record(sink, transform={"resid_*": norm}, positions="last")
    assert seen == [(2, h.HIDDEN)]
    expected = torch.stack([states[0, 2].norm(), states[1, 3].norm()])
    assert torch.equal(sink.values("resid_out_0"), expected)
    assert sink.batches[0].sites["resid_out_0"].table == "tokens"


def test_transforms_may_write_into_their_rows(sink):
    """They get memory of their own, also where the model's would do."""
    model = nn.Sequential(nn.Embedding(h.VOCAB, 4), nn.Identity())
    with h.recorder(model, ["0", "1"], sink, transform={"0": lambda rows: rows.zero_()}):
        out = model(IDS)
    assert sink.values("0:out").abs().sum() == 0
    assert torch.equal(sink.values("1:out"), out.detach().flatten(0, 1))
    assert out.abs().sum() > 0


@pytest.mark.parametrize(
    ("function", "error", "says"),
    [
        (lambda rows: rows[:1], CaptureError, r"resid_out_0: transform returned \[1, 16\] for \[7"),
        (lambda rows: rows.sum(), CaptureError, r"transform returned \[\]"),
        (lambda _: None, CaptureError, "transform returned NoneType"),
        (lambda rows: rows.to(torch.complex64), UnsupportedDtypeError, "resid_out_0: dtype"),
        (lambda _: 1 / 0, ZeroDivisionError, "division"),
    ],
)
def test_transforms_that_do_not_fit_stop_the_forward_pass(sink, function, error, says):
    """As many rows are needed; what the function raises comes out as it is."""
    with pytest.raises(error, match=says):
        _record(sink, transform={"resid_out_0": function})
    assert sink.batches == []


def test_order_of_reductions(sink):
    """Transform, then units, then pool, then dtype."""
    options = {
        "transform": {"resid_out_0": lambda rows: rows * 2},
        "units": {"resid_out_*": [5, 0]},
        "pool": "sum",
        "dtype": torch.float16,
    }
    record, states = _record(sink, **options)
    rows = (states[MASK == 1] * 2)[:, [5, 0]]
    expected = torch.stack([rows[:3].sum(0), rows[3:].sum(0)]).half()
    assert torch.equal(sink.values("resid_out_0"), expected)
    assert record.subset == {"resid_out_0": {"axis": "units", "index": [5, 0]}}


def test_heads_are_counted_as_the_site_has_them(sink):
    """Of keys and values they are the heads that the model really has of them."""
    model, whole = h.make("llama"), h.ListSink()
    for target, options in ((whole, {}), (sink, {"heads": {"z_0": [2, 3], "values_*": [1]}})):
        with h.recorder(model, ["z_0", "values_0"], target, **options) as record, torch.no_grad():
            model(IDS)
    assert torch.equal(sink.values("z_0"), whole.values("z_0")[:, [2, 3]])
    assert torch.equal(sink.values("values_0"), whole.values("values_0")[:, [1]])
    assert record.subset == {
        "values_0": {"axis": "heads", "index": [1]},
        "z_0": {"axis": "heads", "index": [2, 3]},
    }


def test_units_beyond_the_row_are_an_error(sink):
    """Where only the forward pass can tell how wide a row is, it does."""
    with pytest.raises(CaptureError, match=r"resid_out_0: units \[16\] .*shape \[16\]"):
        _record(sink, units={"resid_out_0": [16]})


@pytest.mark.parametrize("index", [[1, 0], (1, 0), np.array([1, 0]), torch.tensor([1, 0])])
def test_numbers_may_come_in_any_list(index):
    """Lists, tuples, arrays and tensors; their order is that of what is stored."""
    reductions = make_reductions(POINTS, units={"mlp.act": index})
    assert reductions["mlp.act:out"].subset.index == (1, 0)
    assert reductions["z_0"].subset is None


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"pool": "median"}, "pool='median': it can be 'mean'"),
        ({"pool": "mean"}, "pool cannot be applied to pattern_0"),
        ({"transform": {"pattern_*": abs}}, "transform cannot be applied to pattern_0"),
        ({"transform": {"z_0": 3}}, "transform of z_0: 3 cannot be called"),
        ({"transform": abs}, r"transform=.*is a builtin_function_or_method; a mapping of site"),
        ({"transform": {"zz_0": abs}}, "transform: 'zz_0' fits none .*Nearest: z_0"),
        ({"transform": {3: abs}}, "transform: 3 is no name"),
        ({"transform": {"z_*": abs, "z_0": abs}}, "transform: two patterns fit z_0"),
        ({"heads": {"mlp.act:out": [0]}}, "mlp.act:out has no heads"),
        ({"heads": {"z_0": [4]}}, r"heads of z_0: 4 of 4 \(0 to 3\)"),
        ({"heads": {"values_0": [2]}}, r"heads of values_0: 2 of 2"),
        ({"heads": {"z_0": [-1]}}, "heads of z_0: .* is no list of numbers; they count from 0"),
        ({"heads": {"z_0": []}}, "is no list of numbers"),
        ({"heads": {"z_0": [True]}}, "is no list of numbers"),
        ({"heads": {"z_0": 1}}, "is no list of numbers"),
        ({"heads": {"z_0": "01"}}, "is no list of numbers"),
        ({"heads": {"z_0": [1.0]}}, "is no list of numbers"),
        ({"heads": {"z_0": [1, 1]}}, "names one twice"),
        ({"heads": {"z_0": [1]}, "units": {"z_*": [1]}}, "z_0: heads and units were given"),
        ({"units": {"pattern_0": [1]}}, "units cannot be applied to pattern_0"),
        ({"units": {"z_0": [3]}}, "units of z_0: 3 of 3"),
        ({"units": ["z_0"]}, "units=.* is a list"),
    ],
)
def test_bad_arguments_are_refused_at_construction(options, says):
    """Every argument is checked before the model runs, against the sites that are captured."""
    with pytest.raises(CaptureError, match=says):
        make_reductions(POINTS, **options)


def test_heads_of_head_out_are_those_of_z():
    """Who asks for `head_out` captures `z`: its heads may be chosen under either name."""
    points = resolve(h.make("llama"), "head_out_*")
    reductions = make_reductions(points, heads={"head_out_1": [2, 0]})
    assert reductions["z_1"].subset.index == (2, 0)
    assert reductions["z_0"].subset is None
