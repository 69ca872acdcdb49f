"""Attention is eager where probabilities are captured, and afterwards what it was."""

import pytest
import torch
import transformers
from capture_helpers import make
from torch import nn

from lazycache.capture.corpus.provenance import describe_capture
from lazycache.capture.sites.resolve import resolve
from lazycache.capture.values.attention import attention_of, eager_attention
from lazycache.errors import CaptureError

GPT2_ATTENTION = "transformer.h.0.attn"


def kinds(model):
    """What each configuration of a model says, sub-configurations by name."""
    config = model.config
    below = {name: getattr(config, name)._attn_implementation for name in config.sub_configs}
    return {"": config._attn_implementation, **below}


@pytest.fixture
def clip():
    """A small CLIP: a model of two models, each with a configuration of its own."""
    size = {"hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2}
    tokens = {"vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2}
    config = transformers.CLIPConfig(
        text_config=size | heads | tokens,
        vision_config=size | heads | {"image_size": 8, "patch_size": 4},
        projection_dim=8,
    )
    return transformers.CLIPModel(config).eval()


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert"])
def test_probabilities_exist_inside_the_block_and_nothing_is_left_after_it(name):
    """A model with another kernel gives probabilities in the block, and runs its kernel again."""
    model = make(name)
    path = {"gpt2": GPT2_ATTENTION, "llama": "model.layers.0.self_attn"}.get(
        name, "bert.encoder.layer.0.attention.self"
    )
    seen = []
    handle = model.get_submodule(path).register_forward_hook(lambda *a: seen.append(a[-1][1]))
    with torch.no_grad():
        with eager_attention(model, [path]) as before:
            model(torch.tensor([[5, 6, 7]]))
        model(torch.tensor([[5, 6, 7]]))
    handle.remove()
    assert before == ("sdpa",)
    assert seen[0].shape == (1, 4, 3, 3)
    assert torch.allclose(seen[0].sum(-1), torch.ones(1, 4, 3))
    assert seen[1] is None
    assert kinds(model) == {"": "sdpa"}


def test_without_patterns_nothing_is_switched():
    """No attention module is asked for: the model keeps its kernel."""
    model = make("gpt2")
    with eager_attention(model, []) as before:
        assert attention_of(model) == ("sdpa",)
    assert before == ()


def test_a_model_that_is_eager_already_is_left_alone():
    """An eager model is not touched, not even for the moment."""
    model = make("gpt2")
    model.config._attn_implementation = "eager"
    with eager_attention(model, [GPT2_ATTENTION]) as before:
        assert attention_of(model) == ("eager",)
    assert before == ()
    assert attention_of(model) == ("eager",)


def test_a_model_of_another_library_is_left_alone():
    """Modules without a configuration of transformers are what they are."""
    model = nn.Sequential(nn.MultiheadAttention(4, 1))
    with eager_attention(model, ["0"]) as before:
        assert before == ()


def test_sub_configurations_come_back_one_by_one(clip):
    """Models in a model that ran different kernels run these again."""
    clip.config.vision_config._attn_implementation = "eager"
    found = kinds(clip)
    assert found == {"": "sdpa", "text_config": "sdpa", "vision_config": "eager"}
    with eager_attention(clip, ["text_model.encoder.layers.0.self_attn"]):
        assert set(kinds(clip).values()) == {"eager"}
    assert kinds(clip) == found


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_it_comes_back_after_an_error(clip, error):
    """An error or an interrupt in the block leaves no trace."""
    found = kinds(clip)
    with pytest.raises(error):
        with eager_attention(clip, ["vision_model.encoder.layers.0.self_attn"]):
            raise error
    assert kinds(clip) == found


def test_a_model_that_cannot_switch_says_how_to_load_it():
    """A class that chose its attention when it was made is refused, and stays as it was."""
    config = transformers.FalconConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=4
    )
    model = transformers.FalconForCausalLM(config)
    assert attention_of(model) == ("sdpa",)
    with pytest.raises(CaptureError, match='attn_implementation="eager"'):
        with eager_attention(model, ["transformer.h.0.self_attention"]):
            pass
    assert attention_of(model) == ("sdpa",)


def test_a_model_that_refuses_eager_says_why():
    """What transformers says against it is in the error."""
    model = make("llama")

    def refuse(kind):
        raise ValueError(f"{kind} is not for this model")

    model.set_attn_implementation = refuse
    with pytest.raises(CaptureError, match="eager is not for this model"):
        with eager_attention(model, ["model.layers.0.self_attn"]):
            pass


@pytest.mark.parametrize(("sites", "kind"), [("resid_out_1", "sdpa"), ("{pattern,z}_1", "eager")])
def test_the_run_says_what_it_ran(sites, kind):
    """Provenance names the attention of the capture, not that of the model before it."""
    model = make("llama")
    described = describe_capture(
        model, resolve(model, sites), tokenizer=None, dtype=None, positions="all"
    )
    assert described["model"]["attention"] == kind
