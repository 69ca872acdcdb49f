"""T5, mT5, UMT5 and BART, both stacks: sites against hooks set by hand, and what holds between."""

import pytest
import stack_helpers as h
import torch
from stack_helpers import Hand
from transformers import (
    BartConfig,
    BartForCausalLM,
    BartForConditionalGeneration,
    BartModel,
    MT5Config,
    MT5ForConditionalGeneration,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
    T5ForSequenceClassification,
    T5ForTokenClassification,
    T5Model,
    UMT5Config,
    UMT5ForConditionalGeneration,
)

from lazycache.capture.sites.architectures import locate
from lazycache.types import DECODER_TOKENS, TOKENS

ENCODER_LAYERS, DECODER_LAYERS, HEADS, VOCAB = 2, 3, 4, 50
T5 = {
    "d_model": 16,
    "d_kv": 5,
    "d_ff": 40,
    "num_layers": ENCODER_LAYERS,
    "num_decoder_layers": DECODER_LAYERS,
    "num_heads": HEADS,
    "vocab_size": VOCAB,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
GATED = {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
BART = {
    "d_model": 16,
    "encoder_layers": ENCODER_LAYERS,
    "decoder_layers": DECODER_LAYERS,
    "encoder_attention_heads": HEADS,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 24,
    "vocab_size": VOCAB,
    "max_position_embeddings": 64,
}


def _t5(at, feed_forward, layers, prefix):
    block = f"{at}block.{{}}.layer"
    attention = f"{block}.0.SelfAttention"
    dense = f"{block}.{feed_forward}.DenseReluDense"
    kinds = {
        "embed": Hand(f"{at}block.0.layer.0", "in"),
        "resid_in": Hand(f"{block}.0.layer_norm", "in"),
        "attn_in": Hand(f"{block}.0.layer_norm"),
        "queries": Hand(f"{attention}.q", heads=HEADS),
        "keys": Hand(f"{attention}.k", heads=HEADS),
        "values": Hand(f"{attention}.v", heads=HEADS),
        "pattern": Hand(f"{block}.0", pick=-1),
        "z": Hand(f"{attention}.o", "in", heads=HEADS),
        "attn_out": Hand(f"{attention}.o"),
        "resid_mid": Hand(f"{block}.0", pick=0),
        "mlp_in": Hand(f"{block}.{feed_forward}.layer_norm"),
        "mlp_act": Hand(f"{dense}.dropout"),
        "mlp_out": Hand(f"{dense}.wo"),
        "resid_out": Hand(f"{block}.{feed_forward}"),
        "final_norm": Hand(at.removesuffix("."), pick=0),
    }
    if prefix == "decoder.":
        kinds |= {
            "cross_attn_in": Hand(f"{block}.1.layer_norm"),
            "cross_attn_out": Hand(f"{block}.1.EncDecAttention.o"),
            "cross_pattern": Hand(f"{block}.1", pick=-1),
            "resid_cross": Hand(f"{block}.1", pick=0),
        }
    return h.names(kinds, layers, prefix)


def _t5_encoder(at="encoder."):
    return _t5(at, 1, ENCODER_LAYERS, "encoder.")


def _t5_both(at="", logits=True):
    hands = _t5_encoder(f"{at}encoder.") | _t5(f"{at}decoder.", 2, DECODER_LAYERS, "decoder.")
    return hands | ({"logits": Hand("", pick="logits")} if logits else {})


def _bart(at, layers, prefix, heads):
    layer = f"{at}layers.{{}}"
    attention = f"{layer}.self_attn"
    kinds = {
        "embed": Hand(f"{at}layernorm_embedding"),
        "resid_in": Hand(attention, "in"),
        "attn_in": Hand(f"{attention}.q_proj", "in"),
        "queries": Hand(f"{attention}.q_proj", heads=heads),
        "keys": Hand(f"{attention}.k_proj", heads=heads),
        "values": Hand(f"{attention}.v_proj", heads=heads),
        "pattern": Hand(attention, pick=1),
        "z": Hand(f"{attention}.out_proj", "in", heads=heads),
        "attn_out": Hand(f"{attention}.out_proj"),
        "resid_mid": Hand(f"{layer}.self_attn_layer_norm"),
        "mlp_in": Hand(f"{layer}.self_attn_layer_norm"),
        "mlp_act": Hand(f"{layer}.activation_fn"),
        "mlp_out": Hand(f"{layer}.fc2"),
        "resid_out": Hand(f"{layer}.final_layer_norm"),
        "final_norm": Hand(at.removesuffix("."), pick=0),
    }
    if prefix == "decoder.":
        cross = f"{layer}.encoder_attn"
        kinds |= {
            "mlp_in": Hand(f"{layer}.fc1", "in"),
            "cross_attn_in": Hand(f"{cross}.q_proj", "in"),
            "cross_attn_out": Hand(f"{cross}.out_proj"),
            "cross_pattern": Hand(cross, pick=1),
            "resid_cross": Hand(f"{layer}.fc1", "in"),
        }
    return h.names(kinds, layers, prefix)


def _bart_both(at, logits):
    hands = _bart(f"{at}encoder.", ENCODER_LAYERS, "encoder.", HEADS)
    hands |= _bart(f"{at}decoder.", DECODER_LAYERS, "decoder.", 2)
    return hands | ({"logits": Hand("", pick="logits")} if logits else {})


MODELS = {
    "t5": (T5ForConditionalGeneration, T5Config(**T5), _t5_both()),
    "flan-t5": (T5ForConditionalGeneration, T5Config(**GATED), _t5_both()),
    "t5-base": (T5Model, T5Config(**T5), _t5_both(logits=False)),
    "mt5": (MT5ForConditionalGeneration, MT5Config(**GATED), _t5_both()),
    "umt5": (UMT5ForConditionalGeneration, UMT5Config(**GATED), _t5_both()),
    "bart": (BartForConditionalGeneration, BartConfig(**BART), _bart_both("model.", True)),
    "bart-base": (BartModel, BartConfig(**BART), _bart_both("", False)),
}


@pytest.fixture(params=MODELS, name="case")
def _case(request):
    kind, config, hands = MODELS[request.param]
    return h.make(kind, config), hands


def _ids(batch, length, seed):
    return torch.randint(3, VOCAB, (batch, length), generator=torch.Generator().manual_seed(seed))


def _inputs(**more):
    return {"input_ids": _ids(3, 7, 1), "decoder_input_ids": _ids(3, 5, 2), **more}


def test_every_site_equals_a_hook_that_was_set_by_hand(case):
    """Each site of both stacks has the bits that a hook at the place read in the source sees."""
    model, hands = case
    h.same_bits(*h.see(model, _inputs(), hands))


def test_the_stream_of_both_stacks_adds_up(case):
    """Attention, cross attention and MLP add to the stream: normed after it in BART, not in T5."""
    model, _ = case
    values, _ = h.see(model, _inputs())
    for prefix in ("encoder.", "decoder."):
        h.check_residuals(model, values, prefix)


def test_the_heads_add_up_to_what_attention_adds(case):
    """The sum of all heads through the output projection, plus its bias, is `attn_out`."""
    model, _ = case
    values, _ = h.see(model, _inputs())
    for prefix in ("encoder.", "decoder."):
        h.check_heads(model, values, prefix)


def test_patterns_are_those_of_the_model_and_reproduce_the_heads(case):
    """Rows sum to 1, mix `values` to `z`, and are what `output_attentions` gives."""
    model, _ = case
    values, _ = h.see(model, _inputs())
    said = h.attentions(model, _inputs())
    for prefix, own in (
        ("encoder.", said.encoder_attentions),
        ("decoder.", said.decoder_attentions),
    ):
        h.check_patterns(model, values, prefix)
        for layer, expected in enumerate(own):
            assert torch.equal(values[f"{prefix}pattern_{layer}"], expected)
    for layer, expected in enumerate(said.cross_attentions):
        pattern = values[f"decoder.cross_pattern_{layer}"]
        assert torch.equal(pattern, expected)
        assert pattern.shape[2:] == (5, 7)
        torch.testing.assert_close(pattern.sum(-1), torch.ones(pattern.shape[:3]))


@pytest.mark.parametrize("side", ["left", "right"])
def test_no_token_attends_to_padding(case, side):
    """Padding has probability 0: the encoder's also in cross attention."""
    model, _ = case
    mask, decoder_mask = torch.ones(3, 7, dtype=torch.long), torch.ones(3, 5, dtype=torch.long)
    mask[1, (slice(0, 3) if side == "left" else slice(4, 7))] = 0
    decoder_mask[2, (slice(0, 2) if side == "left" else slice(3, 5))] = 0
    masks = {"attention_mask": mask, "decoder_attention_mask": decoder_mask}
    values, _ = h.see(model, _inputs(**masks))
    for name, pattern in values.items():
        kind = name.split(".")[-1].rsplit("_", 1)[0]
        if kind not in ("pattern", "cross_pattern"):
            continue
        keys = mask if name.startswith("encoder.") or kind == "cross_pattern" else decoder_mask
        queries = mask if name.startswith("encoder.") else decoder_mask
        for row in range(3):
            seen = pattern[row][:, queries[row] == 1]
            assert (seen[:, :, keys[row] == 0] == 0).all()
            torch.testing.assert_close(
                seen[:, :, keys[row] == 1].sum(-1), torch.ones(seen.shape[:2])
            )


def test_each_stack_has_its_own_names_and_rows(case):
    """Names begin with `encoder.` or `decoder.`; rows of the decoder are of its own table."""
    model, _ = case
    for name, point in h.points(model).items():
        decoder = name == "logits" or name.startswith("decoder.")
        assert decoder or name.startswith("encoder.")
        assert point.table == (DECODER_TOKENS if decoder else TOKENS)


def test_an_encoder_alone_has_the_names_of_its_stack():
    """`T5EncoderModel` has the encoder's sites only."""
    model = h.make(T5EncoderModel, T5Config(**T5))
    h.same_bits(*h.see(model, {"input_ids": _ids(3, 7, 1)}, _t5_encoder()))


@pytest.mark.parametrize(
    ("kind", "hands"),
    [
        (T5ForSequenceClassification, _t5_both("transformer.", logits=False)),
        (T5ForTokenClassification, _t5_encoder("transformer.encoder.")),
    ],
)
def test_models_with_another_head_have_the_same_sites(kind, hands):
    """Classifiers keep the stacks one level deeper, under the same names."""
    ids = _ids(3, 7, 1)
    ids[:, -1] = 1  # a sequence classifier reads the one end-of-sequence token
    h.same_bits(*h.see(h.make(kind, T5Config(**T5)), {"input_ids": ids}, hands))


def test_the_heads_of_each_stack_of_bart_are_its_own():
    """Encoder and decoder may have different numbers of heads."""
    model = h.make(BartForConditionalGeneration, BartConfig(**BART))
    assert h.stack(model, "encoder.").heads.heads == HEADS
    assert h.stack(model, "decoder.").heads.heads == 2


def test_a_decoder_of_bart_alone_is_in_no_table():
    """Its rows are no `decoder_tokens` and its cross attention never runs: no name may say so."""
    assert locate(h.make(BartForCausalLM, BartConfig(**BART))) == ()


def test_a_model_of_an_older_library_has_no_patterns():
    """Where attention does not return its weights third, no other tensor is called a pattern."""
    model = h.make(T5ForConditionalGeneration, T5Config(**T5))
    for module in model.modules():
        if hasattr(module, "EncDecAttention"):
            del module.EncDecAttention.scaling
        if hasattr(module, "SelfAttention"):
            del module.SelfAttention.scaling
    names = set(h.points(model))
    assert {"encoder.z_0", "decoder.cross_attn_out_2", "logits"} <= names
    assert not {name for name in names if "pattern" in name}
