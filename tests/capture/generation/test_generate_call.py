"""Calls of `generate` are watched for the length of a block; what cannot be followed is refused."""

import pytest
import torch
import transformers
from capture_helpers import ids, make
from generation_helpers import Stop
from torch import nn
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from lazycache.capture.generation.generate_call import GenerateCall, watched_generate
from lazycache.errors import CaptureError


class Heard:
    """A listener that writes down what it hears."""

    def __init__(self) -> None:
        self.events, self.call, self.calls = [], None, []
        self.open = True

    def listens(self) -> bool:
        return self.open

    def generate_begins(self, call) -> None:
        self.events.append("begins")
        self.call = call
        self.calls.append(call)

    def generate_ends(self) -> None:
        self.events.append("ends")
        self.call = None

    def generate_failed(self) -> None:
        self.events.append("failed")
        self.call = None

    def generating(self):
        return self.call


@pytest.fixture
def model():
    """A small Llama."""
    return make("llama")


def test_a_call_is_heard_from_its_beginning_to_its_end(model):
    """The listener hears of each call, with what it was called with."""
    heard = Heard()
    mask = torch.tensor([[0, 1], [1, 1]])
    with watched_generate(model, heard, all_logits=False):
        model.generate(ids(2, 2), attention_mask=mask, max_new_tokens=3, num_return_sequences=1)
        model.generate(ids(1, 2), max_new_tokens=2, do_sample=True, num_return_sequences=3)
    assert heard.events == ["begins", "ends"] * 2
    first, second = heard.calls
    assert first.mask.tolist() == [[False, True], [True, True]]
    assert (first.copies, first.padding) == (1, None)
    assert (second.copies, second.padding, second.mask) == (3, 0, None)


@pytest.mark.parametrize("padded", [True, False])
def test_tokens_are_counted_until_an_example_is_finished(padded):
    """With padding each example ends by itself; without, all go on until the last one is done."""
    call = GenerateCall(copies=1, mask=None, padding=None, seen=4)
    for step in range(1, 5):
        done = torch.tensor([step >= 1, step >= 3])
        call.chosen(done, padded=padded)
    assert call.prompt == 4
    assert call.tokens() == ([1, 3] if padded else [3, 3])


def test_examples_end_where_the_criteria_of_generate_say(model):
    """Criteria of the user count as the end token does, and their answers are what they were."""
    heard, prompts = Heard(), ids(3, 4)
    stop = StoppingCriteriaList([Stop(6, 8, 7)])
    options = {"max_new_tokens": 9, "stopping_criteria": stop, "pad_token_id": 0}
    plain = model.generate(prompts, **options)
    with watched_generate(model, heard, all_logits=False):
        watched = model.generate(prompts, **options)
    assert torch.equal(plain, watched)
    assert heard.calls[0].tokens() == [2, 4, 3]


REFUSED = {
    "num_beams": 2,
    "prompt_lookup_num_tokens": 2,
    "assistant_model": object(),
    "penalty_alpha": 0.5,
    "guidance_scale": 1.5,
    "dola_layers": "low",
    "token_healing": True,
    "custom_generate": print,
    "cache_implementation": "paged",
    "force_words_ids": [[1]],
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_followed_is_refused_before_it_runs(model, name):
    """The error names the argument and what to do instead."""
    heard = Heard()
    with watched_generate(model, heard, all_logits=False):
        with pytest.raises(CaptureError, match=rf"(?s){name.split('_')[0]}.*run the model once"):
            model.generate(ids(1, 3), **{name: REFUSED[name]})
    assert heard.events == ["begins", "failed"]


def test_a_configuration_that_is_passed_or_the_models_own_counts_too(model):
    """Beams are found wherever they are asked for; an argument goes before a configuration."""
    heard = Heard()
    with watched_generate(model, heard, all_logits=False):
        with pytest.raises(CaptureError, match="num_beams"):
            model.generate(ids(1, 3), GenerationConfig(num_beams=2))
        model.generation_config.num_beams = 3
        with pytest.raises(CaptureError, match="num_beams"):
            model.generate(ids(1, 3))
        model.generate(ids(1, 3), num_beams=1, max_new_tokens=2)
    assert heard.events == ["begins", "failed"] * 2 + ["begins", "ends"]


def test_an_encoder_decoder_model_is_refused():
    """What its decoder reads step by step is not followed."""
    config = transformers.T5Config(
        vocab_size=50, d_model=16, d_kv=4, d_ff=20, num_layers=1, num_heads=2
    )
    model = transformers.T5ForConditionalGeneration(config)
    with watched_generate(model, Heard(), all_logits=False):
        with pytest.raises(CaptureError, match="encoder-decoder"):
            model.generate(ids(1, 3))


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_call_that_is_broken_off_is_heard_as_that(model, error):
    """An error or an interrupt inside generate reaches the caller, and the listener."""
    heard = Heard()

    class Break(StoppingCriteria):
        def __call__(self, *_, **__):
            raise error

    with watched_generate(model, heard, all_logits=False):
        with pytest.raises(error):
            stop = StoppingCriteriaList([Break()])
            model.generate(ids(1, 3), max_new_tokens=2, stopping_criteria=stop)
    assert heard.events == ["begins", "failed"]


def test_the_model_is_as_it_was_afterwards(model):
    """No attribute stays on the instance, and the class was never touched."""
    before, of_class = dict(vars(model)), type(model).generate
    with watched_generate(model, Heard(), all_logits=False):
        assert "generate" in vars(model)
        assert type(model).generate is of_class
    assert vars(model) == before


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_an_attribute_of_the_users_comes_back(model, error):
    """A generate that was put on the instance is called in the block and there after it."""
    called = []
    original = model.generate

    def own(*args, **kwargs):
        called.append(1)
        return original(*args, **kwargs)

    model.generate = own
    heard = Heard()
    try:
        with watched_generate(model, heard, all_logits=False):
            model.generate(ids(1, 3), max_new_tokens=1)
            if error is not None:
                raise error
    except (RuntimeError, KeyboardInterrupt):
        pass
    assert vars(model)["generate"] is own
    assert called == [1]
    assert heard.events == ["begins", "ends"]


def test_a_block_that_is_over_hears_nothing_more(model):
    """Blocks may end in the wrong order; whoever still has a method of one calls the model."""
    first, second = Heard(), Heard()
    outer = watched_generate(model, first, all_logits=False)
    inner = watched_generate(model, second, all_logits=False)
    outer.__enter__()
    inner.__enter__()
    outer.__exit__(None, None, None)
    model.generate(ids(1, 3), max_new_tokens=1)
    inner.__exit__(None, None, None)
    model.generate(ids(1, 3), max_new_tokens=1)
    assert first.events == []
    assert second.events == ["begins", "ends"]


def test_a_listener_that_does_not_listen_is_told_nothing(model):
    """Calls go by unchanged then, beams too."""
    heard = Heard()
    heard.open = False
    with watched_generate(model, heard, all_logits=False):
        model.generate(ids(1, 3), max_new_tokens=2, num_beams=2)
    assert heard.events == []


@pytest.mark.parametrize("all_logits", [True, False])
def test_logits_of_the_whole_prompt_are_made_if_asked_for(model, all_logits):
    """Transformers would leave out all but the last, whatever the caller says."""
    shapes = []
    handle = model.lm_head.register_forward_hook(lambda *args: shapes.append(args[-1].shape[1]))
    with watched_generate(model, Heard(), all_logits=all_logits):
        model.generate(ids(1, 5), max_new_tokens=2)
    handle.remove()
    assert shapes == [5 if all_logits else 1, 1]


def test_compilation_is_switched_off(model, monkeypatch):
    """A call that could compile the model past the hooks is told not to."""
    seen = []
    config = transformers.CompileConfig()
    monkeypatch.setattr(
        type(model),
        "_valid_auto_compile_criteria",
        lambda _self, _kwargs, config: seen.append(config.disable_compile),
    )
    with watched_generate(model, Heard(), all_logits=False):
        model.generate(ids(1, 3), max_new_tokens=2, compile_config=config)
    assert seen == [True]


def test_a_generate_of_another_library_is_left_alone():
    """A model with a method of that name that is not of transformers keeps it."""

    class Own(nn.Module):
        def generate(self):
            return "own"

    model = Own()
    with watched_generate(model, Heard(), all_logits=False):
        assert "generate" not in vars(model)
        assert model.generate() == "own"
