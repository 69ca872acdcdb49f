"""Modules that one forward pass calls several times."""

import capture_helpers as h
import numpy as np
import pytest
import torch
from torch import nn

from lazycache.capture.sites.names import HookPoint
from lazycache.capture.values.calls import Piece, call_tables, join_calls
from lazycache.errors import CaptureError
from lazycache.types import SiteBlock, TableBlock

IDS = h.ids(2, 4)
MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])


class Loop(nn.Module):
    """Calls one layer as often as it is told to, and another once more."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.layer = nn.Embedding(h.VOCAB, 4), nn.Linear(4, 4)
        self.other = nn.Linear(4, 4)

    def forward(self, input_ids, attention_mask=None, times=2):  # noqa: ARG002  # for the recorder
        x = self.embed(input_ids)
        for _ in range(times):
            x = self.layer(x)
            self.other(x)
        return self.other(x)

    def states(self, input_ids, times=2):
        """What the layer gives in each call."""
        states = [self.embed(input_ids)]
        for _ in range(times):
            states.append(self.layer(states[-1]))
        return states[1:]


@pytest.fixture
def sink():
    return h.ListSink()


def test_all_calls_are_rows_in_order(sink):
    """Call after call, each with the kept rows in order; the table says which is which."""
    model = Loop()
    with h.recorder(model, ["layer", "embed"], sink), torch.no_grad():
        model(IDS, MASK)
        expected = torch.cat([state[MASK == 1] for state in model.states(IDS)])
    block, calls = sink.batches[0].sites["layer:out"], sink.batches[0].tables["calls"]
    assert (block.table, calls.rows, block.rows) == ("calls", 14, 14)
    assert torch.equal(block.values, expected)
    assert calls.columns["call"].tolist() == [0] * 7 + [1] * 7
    assert calls.columns["example"].tolist() == [0, 0, 0, 1, 1, 1, 1] * 2
    assert calls.columns["position"].tolist() == [0, 1, 2, 0, 1, 2, 3] * 2
    assert [calls.columns[name].dtype for name in ("example", "position", "call")] == [
        np.int64,
        np.int32,
        np.int32,
    ]
    assert sink.batches[0].sites["embed:out"].table == "tokens"


def test_a_site_with_fewer_calls_has_the_first_rows(sink):
    """The table is as long as the site with most calls; the other has a prefix of its rows."""
    model = Loop()
    with h.recorder(model, ["layer", "other"], sink), torch.no_grad():
        model(IDS)
    sites, calls = sink.batches[0].sites, sink.batches[0].tables["calls"]
    assert (sites["layer:out"].rows, sites["other:out"].rows, calls.rows) == (16, 24, 24)


def test_one_call_is_chosen_by_its_number(sink):
    """`@k` is the k-th call from 0, a plain row of tokens; the others are not copied."""
    model = Loop()
    with h.recorder(model, ["layer:out@1", "layer:in@0"], sink), torch.no_grad():
        model(IDS)
        second = model.states(IDS)[1].flatten(0, 1)
        embedded = model.embed(IDS).flatten(0, 1)
    assert torch.equal(sink.values("layer:out@1"), second)
    assert torch.equal(sink.values("layer:in@0"), embedded)
    assert sink.batches[0].sites["layer:out@1"].table == "tokens"
    assert "calls" not in sink.batches[0].tables


def test_a_call_that_does_not_come_is_an_error(sink):
    """The message says how many there were."""
    record = h.recorder(Loop(), "layer:out@2", sink)
    with pytest.raises(CaptureError, match=r"layer:out@2: call 2 was asked for .*called 2 times"):
        with record:
            record._model(IDS)
    assert sink.batches == []


def test_all_calls_are_rows_of_calls_even_if_there_is_one(sink):
    """`@*` has the table of calls from the first forward pass on, however many there are."""
    model = Loop()
    with h.recorder(model, "layer:out@*", sink), torch.no_grad():
        for times in (1, 3, 2):
            model(IDS, times=times)
    blocks = [batch.sites["layer:out@*"] for batch in sink.batches]
    assert [(block.table, block.rows) for block in blocks] == [
        ("calls", 8),
        ("calls", 24),
        ("calls", 16),
    ]


def test_a_second_call_after_a_single_one_is_an_error(sink):
    """Its rows are in `tokens` already: the error names both ways to ask."""
    model = Loop()
    record = h.recorder(model, "layer", sink)
    says = r"called 2 times, but once .*'tokens'.*'layer:out@\*'.*'layer:out@0'"
    with pytest.raises(CaptureError, match=says), record:
        model(IDS, times=1)
        model(IDS, times=2)
    assert len(sink.batches) == 1


def test_a_single_call_after_several_stays_in_their_table(sink):
    """The first rows of the table of calls are call 0."""
    model = Loop()
    with h.recorder(model, "layer", sink):
        model(IDS, times=2)
        model(IDS, times=1)
    assert [batch.sites["layer:out"].table for batch in sink.batches] == ["calls"] * 2
    assert sink.batches[1].tables["calls"].columns["call"].tolist() == [0] * 8


def test_calls_of_rows_per_example(sink):
    """A module of vectors has a table of its own for its calls."""
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    model.append(model[0])
    x = torch.randn(5, 3)
    with h.recorder(model, "0", sink), torch.no_grad():
        model(x)
        first = model[0](x)
    block = sink.batches[0].sites["0:out"]
    assert block.table == "example_calls"
    assert torch.equal(block.values, torch.cat([first, model[0](first.relu())]))
    calls = sink.batches[0].tables["example_calls"].columns
    assert calls["example"].tolist() == [0, 1, 2, 3, 4] * 2
    assert set(calls) == {"example", "call"}


def test_a_module_under_two_names_is_one_module(sink):
    """Each of its names means all of its calls; tied weights are two modules with one call each."""

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = self.b = nn.Linear(3, 3)
            self.c = nn.Linear(3, 3)
            self.c.weight = self.a.weight

        def forward(self, x):
            return self.c(self.b(self.a(x)))

    model, x = Tied(), torch.randn(2, 3)
    with h.recorder(model, ["a:out", "b:out", "b:out@1", "c"], sink):
        model(x)
    sites = sink.batches[0].sites
    assert torch.equal(sites["a:out"].values, sites["b:out"].values)
    assert sites["a:out"].values.shape == (4, 3)
    assert torch.equal(sites["b:out@1"].values, sites["a:out"].values[2:])
    assert torch.equal(sites["c:out"].values, model.c(sites["b:out@1"].values))


def test_calls_that_differ_are_an_error(sink):
    """Rows of two shapes are no column: the error says which and how to choose one."""

    class Growing(nn.Module):
        def __init__(self):
            super().__init__()
            self.same = nn.Identity()

        def forward(self, x):
            return self.same(torch.cat([self.same(x)] * 2, dim=1))

    record = h.recorder(Growing(), "same", sink)
    says = r"same:out: the calls .*shape \(3,\) in 'examples' in call 0.*shape \(6,\).*'same:out@0'"
    with pytest.raises(CaptureError, match=says), record:
        record._model(torch.ones(2, 3))


def test_ragged_calls_keep_their_widths():
    """Rows of their own width stay one behind the other, with the widths of each."""
    piece = Piece("tokens", torch.arange(5.0), shape=(1, -1), widths=np.array([2, 3], np.int32))
    block = join_calls("p", HookPoint("p", "out"), [piece, piece], before=None)
    assert block.values.tolist() == [0, 1, 2, 3, 4] * 2
    assert block.widths.tolist() == [2, 3, 2, 3]
    assert (block.table, block.shape, block.rows) == ("calls", (1, -1), 4)


def test_batches_without_rows_have_empty_tables():
    """No row is kept: the table of calls is there, and empty."""
    base = TableBlock(0, {"example": np.array([], np.int64), "position": np.array([], np.int32)})
    site = SiteBlock("calls", torch.ones(0, 3))
    block = call_tables({"tokens": base}, {"x": site})["calls"]
    assert (block.rows, len(block.columns["call"])) == (0, 0)
