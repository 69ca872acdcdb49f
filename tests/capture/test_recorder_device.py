"""A whole capture from a device whose copies arrive late: the CPU stands in for the device."""

import gc
import threading
import time
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor

import capture_helpers as h
import numpy as np
import pytest
import torch
from device_helpers import LateLink
from torch import nn

import lazycache as lc
from lazycache.capture.device import staging
from lazycache.errors import CaptureError, StorageError

THREAD = "lazycache-delivery"


@pytest.fixture
def link(monkeypatch):
    """From now on the CPU is a device."""
    late = LateLink()
    monkeypatch.setattr(staging, "cuda_link", lambda _: late)
    return late


class Shared(nn.Module):
    """One module called twice, what passes it is then changed in place; a float for each token."""

    def __init__(self):
        super().__init__()
        self.embed, self.twice = nn.Embedding(h.VOCAB, 8), nn.Linear(8, 8)

    def forward(self, input_ids, attention_mask=None):
        del attention_mask
        x = self.twice(self.embed(input_ids) * 1e5)
        with torch.no_grad():
            x.data.mul_(-3)
        return self.twice(x).relu_()


def shared():
    torch.manual_seed(0)
    return Shared()


def batches():
    """Batches of several lengths, padded on the left."""
    for n, (batch, length) in enumerate([(3, 6), (2, 4), (4, 6)]):
        ids = h.ids(batch, length, seed=n)
        mask = torch.ones(batch, length, dtype=torch.long)
        mask[0, :n] = 0
        yield {"input_ids": ids, "attention_mask": mask}


def eventually(condition):
    """Wait for what another thread will do."""
    for _ in range(1000):
        if condition():
            return True
        time.sleep(0.01)
    return False


def captured(make, patterns, *, backward=False, **given):
    """Return the sink of a capture of fresh weights, and what the recorder counted."""
    model, sink = make(), h.ListSink()
    with (
        warnings.catch_warnings(),
        torch.set_grad_enabled(backward),
        h.recorder(model, patterns, sink, **given) as record,
    ):
        warnings.simplefilter("ignore")
        for n, batch in enumerate(batches()):
            record.annotate(label=[f"{n}.{i}" for i in range(len(batch["input_ids"]))])
            out = model(**batch)
            if backward:
                (out.logits if hasattr(out, "logits") else out).sum().backward()
    return sink, record


CASES = {
    "all": (shared, "embed", {}),
    "positions": (shared, "embed", {"positions": -1}),
    "asked": (shared, "embed", {"positions": lambda ids, mask: mask & (ids % 2 == 0)}),
    "dtype": (shared, "embed", {"dtype": torch.bfloat16}),
    "overflow": (shared, ["embed", "twice:in@1"], {"dtype": torch.float16}),
    "calls": (shared, ["twice:out@*", "embed"], {"dtype": torch.float16}),
    "one call": (shared, "twice:out@1", {}),
    "gradients": (shared, ["embed:grad_out", "twice:out@0"], {"backward": True}),
    "where": (shared, "embed", {"where": lambda b: [i % 2 == 1 for i in b["example"]]}),
    "pool": (shared, "embed", {"pool": "mean"}),
    "transform": (shared, "embed", {"transform": {"embed": lambda rows: rows.mul_(2).sum(1)}}),
    "units": (shared, "embed", {"units": {"embed": [3, 1]}}),
    "gpt2": (lambda: h.make("gpt2"), "resid_*", {}),
    "patterns": (lambda: h.make("gpt2"), ["pattern_0", "resid_in_1"], {"dtype": torch.float16}),
    "gpt2, bf16": (lambda: h.make("gpt2", dtype=torch.bfloat16), ["mlp_act_*", "z_0"], {}),
}


@pytest.mark.parametrize("case", CASES)
def test_what_arrives_late_is_what_is_there_at_once(case, link, monkeypatch):
    """Every table, value and count is that of a capture whose copies are waited for."""
    make, patterns, given = CASES[case]
    late, counted = captured(make, patterns, **given)
    monkeypatch.undo()
    now, expected = captured(make, patterns, **given)
    assert link.waited
    assert len(late.batches) == len(now.batches) == 3
    for ours, theirs in zip(late.batches, now.batches, strict=True):
        assert ours.sites.keys() == theirs.sites.keys()
        for name, site in ours.sites.items():
            _check_equal(site, theirs.sites[name])
        assert ours.tables.keys() == theirs.tables.keys()
        for name, table in ours.tables.items():
            assert _plain(table) == _plain(theirs.tables[name])
    for name in ("forwards", "rows", "examples", "stray", "dropped", "overflowed"):
        assert getattr(counted.passes, name) == getattr(expected.passes, name)


def _check_equal(ours, theirs):
    assert (ours.table, ours.shape) == (theirs.table, theirs.shape)
    assert ours.values.dtype == theirs.values.dtype
    assert torch.equal(ours.values.view(torch.uint8), theirs.values.view(torch.uint8))


def _plain(table):
    return table.rows, {name: np.asarray(v).tolist() for name, v in table.columns.items()}


@pytest.mark.parametrize("case", ["positions", "overflow", "gradients", "where", "gpt2, bf16"])
def test_the_thread_of_the_model_waits_for_nothing(case, link):
    """Events are waited for by the delivery alone, however late the copies are."""
    make, patterns, given = CASES[case]
    captured(make, patterns, **given)
    assert {thread.name for thread in link.waited} == {THREAD}


def test_a_forward_pass_returns_before_its_copies_arrive(link):
    """The sink gets nothing until they do, and then each pass in its order."""
    link.on_demand = False
    model, sink = shared(), h.ListSink()
    record = h.recorder(model, "embed", sink)
    with torch.no_grad(), record:
        for batch in batches():
            model(**batch)
        assert (record.passes.forwards, len(sink.batches)) == (3, 0)
        link.land()
        record.drain()
        assert len(sink.batches) == 3
    assert sink.column("examples", "example") == list(range(9))


def test_overflows_are_counted_when_they_have_arrived(link):
    """The warning at the end knows all of them."""
    model, sink = shared(), h.ListSink()
    record = h.recorder(model, "twice:in@0", sink, dtype=torch.float16)
    with torch.no_grad(), pytest.warns(RuntimeWarning, match="cannot hold"), record:  # noqa: PT031
        for batch in batches():
            model(**batch)
    assert record.passes.overflowed["twice:in@0"] == sum(
        int(batch.sites["twice:in@0"].values.isinf().sum()) for batch in sink.batches
    )


class BrokenSink(h.ListSink):
    """Takes one batch, and then no more."""

    def write(self, batch):
        if self.batches:
            raise StorageError("disk full")
        super().write(batch)


def test_an_error_of_the_sink_is_raised_by_a_later_call(link):
    """The call of the model that comes after it, or the end of the block; nothing is skipped."""
    link.on_demand = False
    model, sink = shared(), BrokenSink()
    record = h.recorder(model, "embed", sink)
    with torch.no_grad(), pytest.raises(StorageError, match="disk full"):
        with record:
            for batch in batches():
                model(**batch)
            link.land()
            with pytest.raises(StorageError, match="disk full"):
                record.drain()
            with pytest.raises(StorageError, match="disk full"):
                model(**batch)
    assert len(sink.batches) == 1
    assert h.hook_count(model) == 0


def test_another_error_of_the_block_stays_the_one_that_is_raised(link):
    """What is lost with it is a note."""
    link.on_demand = False
    model = shared()
    with torch.no_grad(), pytest.raises(ZeroDivisionError) as caught:
        with h.recorder(model, "embed", BrokenSink()):
            for batch in batches():
                model(**batch)
            link.land()
            raise ZeroDivisionError
    assert "disk full" in caught.value.__notes__[0]


def test_a_pass_that_fails_leaves_nothing_on_its_way(link):
    """Its copies end, and nobody gets them."""

    class Fails(Shared):
        def forward(self, input_ids, attention_mask=None, fail=False):
            out = super().forward(input_ids, attention_mask)
            if fail:
                raise ValueError("broken")
            return out

    model, sink = Fails(), h.ListSink()
    record = h.recorder(model, "embed", sink)
    with torch.no_grad(), pytest.warns(RuntimeWarning, match="not recorded: 1"), record:  # noqa: PT031
        for n, batch in enumerate(batches()):
            if n == 1:
                with pytest.raises(ValueError, match="broken"):
                    model(**batch, fail=True)
            else:
                model(**batch)
    assert sink.column("examples", "example") == list(range(7))


def test_several_threads_keep_their_passes_whole(link):
    """Batches come in the order of the ids, each with its own tokens and values."""

    class Echo(nn.Module):
        def __init__(self):
            super().__init__()
            self.site = nn.Identity()

        def forward(self, input_ids):
            return self.site(input_ids[..., None].float()).mul_(-1)

    model, sink = Echo(), h.ListSink()

    def work(n):
        for call in range(30):
            model(torch.tensor([[n, call]]))

    with torch.no_grad(), h.recorder(model, "site", sink) as record:
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(work, range(3)))
    assert (record.passes.forwards, record.passes.dropped) == (90, 0)
    assert sink.column("examples", "example") == list(range(90))
    for batch in sink.batches:
        ids = batch.tables["tokens"].columns["token_id"].tolist()
        assert batch.sites["site:out"].values[:, 0].tolist() == ids
    assert THREAD not in {thread.name for thread in threading.enumerate()}


def test_a_commit_has_every_pass_that_was_recorded(link, tmp_path):
    """It waits for those that are on their way."""
    model, expected = shared(), []
    model.embed.register_forward_hook(lambda _m, _a, out: expected.append(out.clone()))
    with torch.no_grad(), lc.capture(model, tmp_path / "acts", "embed") as run:
        for n in range(4):
            model(h.ids(3, 5, seed=n))
            if n == 2:
                assert run.commit() == 1
                assert lc.open(tmp_path / "acts").snapshot.rows("examples") == 9
    stored = lc.open(tmp_path / "acts")["embed:out"].rows.load()
    assert torch.equal(stored, torch.cat(expected).flatten(0, 1))
    assert len(link.flying) == 0


def test_a_capture_of_the_cpu_starts_no_thread(tmp_path):
    """Its values are there when the hook returns."""
    model = shared()
    with torch.no_grad(), lc.capture(model, tmp_path / "acts", "embed"):
        model(h.ids(3, 5))
        assert THREAD not in {thread.name for thread in threading.enumerate()}


def test_a_generation_is_whole_though_its_steps_arrive_late(link, monkeypatch):
    """Its passes are put together from what has arrived."""

    def generated():
        model, sink = h.make("gpt2"), h.ListSink()
        with torch.no_grad(), h.recorder(model, "resid_out_*", sink, positions="all"):
            model.generate(h.ids(2, 4), max_new_tokens=5, do_sample=False, pad_token_id=0)
        return sink

    late = generated()
    monkeypatch.undo()
    now = generated()
    assert late.column("tokens", "token_id") == now.column("tokens", "token_id")
    assert torch.equal(late.values("resid_out_1"), now.values("resid_out_1"))


class Fading(h.ListSink):
    """Remembers the values of its batches, and keeps none."""

    def write(self, batch):
        self.batches += [weakref.ref(site.values) for site in batch.sites.values()]

    def is_empty(self):
        return not any(values() is not None for values in self.batches)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("site", ["twice:out@0", "embed:grad_out"])
def test_a_recorded_pass_is_let_go_of_at_once(site, late, link, monkeypatch):
    """Its memory does not wait for the garbage collector: neither here nor on a device."""
    if not late:
        monkeypatch.undo()
    model, sink = shared(), Fading()
    gc.disable()
    try:
        with h.recorder(model, ["embed", site], sink) as record:
            for batch in batches():
                model(**batch).sum().backward()
            record.drain()
            assert len(sink.batches) == 6
            assert eventually(sink.is_empty)
    finally:
        gc.enable()


def test_closing_an_untouched_capture_says_that_nothing_was_recorded(link):
    """As on the CPU."""
    with pytest.raises(CaptureError, match="Nothing was recorded"):
        with h.recorder(shared(), "embed", h.ListSink()):
            pass
    assert not link.waited
