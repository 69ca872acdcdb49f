"""Decoders: sites against hooks set by hand, and what holds between them."""

import decoder_models as d
import pytest
import stack_helpers as h
import torch
import transformers

from lazycache.capture.sites.site_info import available

FIVE = int(transformers.__version__.split(".")[0]) >= 5
MOVED = ("gpt2", "gptj", "gpt-neox", "opt", "bloom", "falcon")
"""Families of which transformers 4 has no patterns."""


def make(name, dtype=torch.float32):
    kind, config, hands = d.MODELS[name]
    model = h.make(getattr(transformers, kind), config()).to(dtype)
    return model, h.names(hands, d.LAYERS)


@pytest.fixture(params=d.MODELS, name="case")
def _case(request):
    return make(request.param)


def patterned(model):
    return FIVE or not h.stack(model).family.name.startswith(MOVED)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", d.MODELS)
def test_every_site_equals_a_hook_that_was_set_by_hand(name, dtype):
    """Each site has the bits that a hook at the place read in the model's source sees."""
    model, hands = make(name, dtype)
    values, by_hand = h.see(model, {"input_ids": d.ids()}, hands)
    patterns = [values.pop(f"pattern_{n}") for n in range(d.LAYERS) if patterned(model)]
    h.same_bits(values, by_hand)
    said = h.attentions(model, {"input_ids": d.ids()}).attentions
    for layer, found in enumerate(patterns):
        assert torch.equal(found, said[layer])
        assert found.dtype == dtype


def test_the_stream_adds_up(case):
    """Pre-norm, post-norm, sandwich or parallel: the stream is the sum that the family says."""
    model, _ = case
    values, _ = h.see(model, {"input_ids": d.ids()})
    h.check_residuals(model, values)


def test_the_heads_add_up_to_what_attention_adds(case):
    """The sum of all heads, plus the bias and through a sandwich norm, is `attn_out`."""
    model, _ = case
    values, _ = h.see(model, {"input_ids": d.ids()})
    h.check_heads(model, values)


def test_patterns_mix_values_to_z(case):
    """Rows sum to 1, see no later token, and mix each head's own `values` to its `z`."""
    model, _ = case
    if not patterned(model):
        pytest.skip("transformers 4 returns patterns elsewhere; the family has none there")
    values, _ = h.see(model, {"input_ids": d.ids()})
    h.check_patterns(model, values)


@pytest.mark.parametrize("side", ["left", "right"])
def test_no_token_attends_to_padding(case, side):
    """A key that the attention mask leaves out has probability 0, wherever the padding is."""
    model, _ = case
    if not patterned(model):
        pytest.skip("transformers 4 returns patterns elsewhere; the family has none there")
    mask = torch.ones(3, 7, dtype=torch.long)
    mask[1, (slice(0, 3) if side == "left" else slice(4, 7))] = 0
    values, _ = h.see(model, {"input_ids": d.ids(), "attention_mask": mask})
    real = mask[1] == 1
    for layer in range(d.LAYERS):
        pattern = values[f"pattern_{layer}"][1]
        assert (pattern[:, real][:, :, ~real] == 0).all()
        rows = pattern[:, real][:, :, real].sum(-1)
        torch.testing.assert_close(rows, torch.ones(d.HEADS, int(real.sum())))


@pytest.mark.parametrize("name", [name for name in d.BASES if name in d.MODELS])
def test_a_model_without_head_has_all_but_the_logits(name):
    """The transformer proper has the same sites under its own paths, and no `logits`."""
    full, _ = make(name)
    config = d.MODELS[name][1]()
    base = h.make(getattr(transformers, d.BASES[name]), config)
    assert set(h.points(base)) == set(h.points(full)) - {"logits"}
    values, _ = h.see(base, {"input_ids": d.ids()})
    h.check_residuals(base, values)
    h.check_heads(base, values)


def test_listed_shapes_and_bytes_are_those_of_a_forward_pass(case):
    """What `lc.sites` says without running is what a forward pass gives."""
    model, _ = case
    values, _ = h.see(model, {"input_ids": d.ids()})
    listed = {site.name: site for site in available(model)}
    assert set(listed) == set(values) | {f"head_out_{n}" for n in range(d.LAYERS)}
    for name, value in values.items():
        site = listed[name]
        if name.startswith("pattern"):
            assert site.shape == (value.shape[1], -1)
            assert site.row_bytes == value.shape[1] * value.itemsize
        else:
            row = value[0, 0] if value.shape[:2] == (3, 7) else value[0]
            assert site.shape == tuple(row.shape), name
            assert site.row_bytes == row.nbytes
        assert site.dtype == "float32"


def test_variants_that_the_table_does_not_describe_have_no_canonical_names():
    """A stream that goes on from the norm, or cross attention: no name may lie about it."""
    bloom = d.MODELS["bloom"][1]()
    bloom.apply_residual_connection_post_layernorm = True
    gpt2 = d.MODELS["gpt2"][1]()
    gpt2.add_cross_attention = True
    assert not h.points(h.make(transformers.BloomForCausalLM, bloom))
    assert not h.points(h.make(transformers.GPT2LMHeadModel, gpt2))
