"""A generation that cannot be followed, or is broken off, leaves nothing behind."""

import pytest
import torch
from capture_helpers import ListSink, hook_count, ids, recorder
from generation_helpers import strong
from torch import nn
from transformers import StoppingCriteria, StoppingCriteriaList

from lazycache.errors import CaptureError


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("way", ["criteria", "module"])
def test_a_generation_that_is_broken_off_is_not_stored(error, way):
    """Nothing of it is there, the next one is whole, and the model is as it was."""
    model, sink = strong("llama"), ListSink()
    count = 0

    def fail(*_, **__):
        nonlocal count
        count += 1
        if count == 3:
            raise error
        return torch.zeros(2, dtype=torch.bool) if way == "criteria" else None

    class Fail(StoppingCriteria):
        __call__ = staticmethod(fail)

    given = {"stopping_criteria": StoppingCriteriaList([Fail()])} if way == "criteria" else {}
    handle = None
    if way == "module":
        handle = model.model.layers[1].mlp.register_forward_pre_hook(fail)
    before = dict(vars(model))

    def run():
        with torch.no_grad(), recorder(model, "resid_out_1", sink) as rec:
            with pytest.raises(error):
                rec.annotate(example=[70, 71])
                model.generate(ids(2, 3), max_new_tokens=6, **given)
            assert sink.batches == []
            model.generate(ids(2, 4), max_new_tokens=3)

    with pytest.warns(RuntimeWarning, match="not recorded: 3"):
        run()
    if handle is not None:
        handle.remove()
    [batch] = sink.batches
    assert batch.tables["examples"].columns["example"].tolist() == [0, 1]
    assert batch.tables["tokens"].columns["step"].tolist() == [0, 0, 0, 0, 1, 2] * 2
    assert dict(vars(model)).keys() == before.keys()
    assert hook_count(model) == 0


def test_a_loop_that_is_broken_off_is_not_stored():
    """An error that ends the block in the middle of a loop drops the loop, not what came before."""
    model, sink = strong("llama"), ListSink()
    with pytest.raises(KeyboardInterrupt):
        with torch.no_grad(), recorder(model, "resid_out_1", sink) as rec:
            model(ids(1, 4))
            model(ids(1, 3), use_cache=True)
            raise KeyboardInterrupt
    assert [batch.tables["tokens"].rows for batch in sink.batches] == [4]
    assert rec.passes.dropped == 1


@pytest.mark.parametrize(
    ("given", "words"),
    [({"num_beams": 2}, "beam search"), ({"prompt_lookup_num_tokens": 2}, "assisted")],
)
def test_what_cannot_be_followed_is_refused_before_any_row(given, words):
    """Beams and assistants: the error says what to do instead, and nothing is stored."""
    model, sink = strong("llama"), ListSink()
    with pytest.raises(CaptureError, match=words):
        with recorder(model, "resid_out_1", sink):
            model.generate(ids(1, 3), max_new_tokens=2, **given)
    assert sink.batches == []


def test_gradients_have_no_generation():
    """Gradients come in a backward pass, and generate has none."""
    model, sink = strong("llama"), ListSink()
    with pytest.raises(CaptureError, match="gradients are captured"):
        with recorder(model, "model.layers.0:grad_out", sink):
            model.generate(ids(1, 3), max_new_tokens=2)


def test_a_site_with_a_row_per_example_is_refused():
    """Each step would give another value for the same row."""

    class Summed(nn.Module):
        def forward(self, x):
            return x.sum(1)

    model, sink = strong("llama"), ListSink()
    model.model.summed = Summed()
    model.model.norm.register_forward_hook(lambda _m, _a, out: (model.model.summed(out), out)[1])
    with pytest.raises(CaptureError, match="summed"):
        with recorder(model, ["resid_out_1", "model.summed"], sink):
            model.generate(ids(2, 3), max_new_tokens=3)
    assert sink.batches == []


def test_generate_inside_generate_is_refused():
    """There is no telling whose rows its tokens would be; the outer one is dropped with it."""
    model, sink = strong("llama"), ListSink()

    class Again(StoppingCriteria):
        def __call__(self, input_ids, *_, **__):
            model.generate(input_ids, max_new_tokens=1)

    with pytest.raises(CaptureError, match="generate was called inside generate"):
        with recorder(model, "resid_out_1", sink):
            criteria = StoppingCriteriaList([Again()])
            model.generate(ids(1, 3), max_new_tokens=3, stopping_criteria=criteria)
    assert sink.batches == []


def test_what_is_paused_is_neither_recorded_nor_refused():
    """Beams run unseen inside `paused`, also inside another generation; its rows stay whole."""
    model, sink = strong("llama"), ListSink()

    class Beside(StoppingCriteria):
        def __call__(self, input_ids, *_, **__):
            with rec.paused():
                model.generate(input_ids, max_new_tokens=2, num_beams=2)
            return torch.zeros(len(input_ids), dtype=torch.bool)

    with torch.no_grad(), recorder(model, "resid_out_1", sink) as rec:
        with rec.paused():
            model.generate(ids(1, 3), max_new_tokens=2, num_beams=2)
        criteria = StoppingCriteriaList([Beside()])
        model.generate(ids(1, 3), max_new_tokens=3, stopping_criteria=criteria)
    [batch] = sink.batches
    assert batch.tables["tokens"].columns["step"].tolist() == [0, 0, 0, 1, 2]
    assert rec.passes.dropped == 0
