"""A loop over a key-value cache is a generation, from its first pass to the next other one."""

import re

import pytest
import torch
from capture_helpers import ListSink, hook_count, ids, make, recorder
from generation_helpers import by_hand, check, generate, left_padded, strong
from transformers import DynamicCache, StoppingCriteria, StoppingCriteriaList

from lazycache.errors import CaptureError

SITES = ["embed", "resid_out_*", "mlp_act_1", "logits"]
LENGTHS = (6, 4, 1)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_loop_over_a_cache_is_a_generation_too(name):
    """It is stored when the block ends, and holds what generate gives."""
    model = strong(name)
    prompts, mask = left_padded(*LENGTHS)
    wanted, _ = generate(model, SITES, prompts, mask, eos_token_id=None, max_new_tokens=5)
    sink = ListSink()
    with torch.no_grad(), recorder(model, SITES, sink) as rec:
        by_hand(model, prompts, mask, 5)
        assert sink.batches == []
    [batch] = sink.batches
    assert (rec.passes.forwards, rec.passes.dropped, rec.passes.examples) == (5, 0, 3)
    for name_, values in wanted.tables["tokens"].columns.items():
        assert batch.tables["tokens"].columns[name_].tolist() == values.tolist()
    for site, block in wanted.sites.items():
        assert torch.equal(batch.sites[site].values, block.values), site


def test_a_loop_ends_with_the_next_forward_pass_that_does_not_continue_it():
    """Loops, generate and plain passes in one block are batches of their own, in order."""
    model, prompts, sink = strong("llama"), ids(2, 3), ListSink()
    with torch.no_grad(), recorder(model, "resid_out_1", sink) as rec:
        by_hand(model, prompts, None, 3)
        past = model(prompts, use_cache=True).past_key_values
        assert len(sink.batches) == 1
        model(prompts[:, :1], past_key_values=past)
        rec.annotate(label=["x", "y"])
        model(prompts)
        assert len(sink.batches) == 3
        by_hand(model, prompts, None, 2)
        model.generate(prompts, max_new_tokens=2)
        model.generate(prompts, max_new_tokens=3)
        assert len(sink.batches) == 6
    steps = [batch.tables["tokens"].columns.get("step") for batch in sink.batches]
    wanted = [[0, 0, 0, 1, 2], [0, 0, 0, 1], None, [0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 1, 2]]
    assert [s if s is None else s.tolist() for s in steps] == [
        w if w is None else w * 2 for w in wanted
    ]
    assert sink.column("examples", "example") == list(range(12))
    assert [batch.tables["examples"].columns.get("label") for batch in sink.batches] == [
        None,
        None,
        ["x", "y"],
        None,
        None,
        None,
    ]
    assert (rec.passes.forwards, rec.passes.dropped) == (13, 0)


def test_a_loop_ends_when_it_is_told_to():
    """`end_generation` (what commit calls) hands it on; what continues it then is refused."""
    model, sink = strong("llama"), ListSink()
    with pytest.raises(CaptureError, match="nothing comes between"):
        with torch.no_grad(), recorder(model, "resid_out_1", sink) as rec:
            past = model(ids(1, 3), use_cache=True).past_key_values
            rec.end_generation()
            assert len(sink.batches) == 1
            rec.end_generation()
            assert len(sink.batches) == 1
            model(ids(1, 1), past_key_values=past)
    assert len(sink.batches) == 1


def test_inside_generate_nothing_ends():
    """A commit in the middle of generate leaves it whole."""
    model, sink = strong("llama"), ListSink()

    class Commit(StoppingCriteria):
        def __call__(self, input_ids, *_, **__):
            rec.end_generation()
            return torch.zeros(len(input_ids), dtype=torch.bool)

    with torch.no_grad(), recorder(model, "resid_out_1", sink) as rec:
        criteria = StoppingCriteriaList([Commit()])
        model.generate(ids(1, 3), max_new_tokens=3, stopping_criteria=criteria)
    [batch] = sink.batches
    assert batch.tables["tokens"].rows == 5


def test_a_static_cache_that_is_used_again_is_a_new_generation():
    """A cache that was reset holds nothing: what comes is a beginning."""
    model, sink = strong("llama"), ListSink()
    cache = DynamicCache()
    with torch.no_grad(), recorder(model, "resid_out_1", sink):
        for _ in range(2):
            model(ids(1, 3), past_key_values=cache)
            model(ids(1, 1), past_key_values=cache)
            cache.crop(0)
            cache.reset()
    assert [batch.tables["tokens"].rows for batch in sink.batches] == [4, 4]


def test_several_tokens_at_once_continue_a_loop():
    """A pass of the loop may feed more than one token; steps count them."""
    model, sink, tokens = strong("llama"), ListSink(), ids(2, 7)
    cache = DynamicCache()
    with torch.no_grad(), recorder(model, SITES, sink):
        for start, stop in ((0, 3), (3, 5), (5, 7)):
            model(tokens[:, start:stop], past_key_values=cache)
    for row in range(2):
        check(model, sink.batches[0], row, tokens[row].tolist(), 3)


REFUSED_STEPS = {
    "other examples": lambda model, cache: model(ids(1, 1), past_key_values=cache),
    "another mask": lambda model, cache: model(
        ids(2, 1), past_key_values=cache, attention_mask=torch.ones(2, 5)
    ),
    "a short mask": lambda model, cache: model(
        ids(2, 1), past_key_values=cache, attention_mask=torch.ones(2, 1)
    ),
    "a cropped cache": lambda model, cache: (
        cache.crop(-1),
        model(ids(2, 1), past_key_values=cache),
    ),
}
SAID = {
    "other examples": "continued with 1",
    "another mask": "says otherwise than before",
    "a short mask": r"needs \[batch, tokens so far\] = \[2, 5\]",
    "a cropped cache": "was cropped",
}


@pytest.mark.parametrize("step", REFUSED_STEPS)
def test_a_step_that_does_not_fit_is_refused(step):
    """The whole of the loop is dropped, and the error says why."""
    model, sink = strong("llama"), ListSink()
    prompts, mask = left_padded(4, 2)
    with pytest.raises(CaptureError, match=SAID[step]):
        with torch.no_grad(), recorder(model, "resid_out_1", sink):
            cache = DynamicCache()
            model(prompts, attention_mask=mask, past_key_values=cache)
            REFUSED_STEPS[step](model, cache)
    assert sink.batches == []
    assert hook_count(model) == 0


def test_an_annotation_in_the_middle_is_refused():
    """It holds for the whole generation, so it comes before its first pass."""
    model, sink = strong("llama"), ListSink()
    with pytest.raises(CaptureError, match="middle of a generation"):
        with torch.no_grad(), recorder(model, "resid_out_1", sink) as rec:
            past = model(ids(1, 3), use_cache=True).past_key_values
            rec.annotate(label=["late"])
            model(ids(1, 1), past_key_values=past)


@pytest.mark.parametrize("how", ["loop", "generate", "plain begin"])
def test_a_beginning_that_was_not_seen_is_refused(how):
    """Tokens without those before them are not stored; the error says how to begin."""
    model, sink = strong("llama"), ListSink()
    with torch.no_grad():
        past = model(ids(1, 3)).past_key_values
    with pytest.raises(CaptureError, match=r"cache of 3 tokens whose beginning"):
        with torch.no_grad(), recorder(model, "resid_out_1", sink):
            if how == "loop":
                model(ids(1, 1), past_key_values=past)
            elif how == "generate":
                model.generate(ids(1, 5), past_key_values=past, max_new_tokens=2)
            else:
                past = model(ids(1, 3)).past_key_values
                model(ids(1, 1), past_key_values=past)
    assert len(sink.batches) == (how == "plain begin")


def test_the_refusal_of_a_cache_says_what_to_do():
    """Its message names both ways to begin a loop."""
    model = make("llama")
    with pytest.raises(CaptureError) as caught:
        with torch.no_grad(), recorder(model, "resid_out_1", ListSink()):
            past = model(ids(1, 2)).past_key_values
            model(ids(1, 1), past_key_values=past)
    assert re.search(r"DynamicCache\(\).*use_cache=True.*run the model once", str(caught.value))
