"""BERT, RoBERTa and DistilBERT: sites against hooks set by hand, and what holds between them."""

import pytest
import stack_helpers as h
import torch
from stack_helpers import Hand
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertLMHeadModel,
    BertModel,
    CamembertConfig,
    CamembertForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    DistilBertModel,
    RobertaConfig,
    RobertaForCausalLM,
    RobertaForMaskedLM,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
)

from lazycache.capture.sites.architectures import locate

LAYERS, HEADS, VOCAB = 2, 4, 50
SIZE = {
    "num_hidden_layers": LAYERS,
    "hidden_size": 16,
    "intermediate_size": 40,
    "num_attention_heads": HEADS,
    "vocab_size": VOCAB,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
DISTIL = {
    "n_layers": LAYERS,
    "dim": 16,
    "hidden_dim": 40,
    "n_heads": HEADS,
    "vocab_size": VOCAB,
    "max_position_embeddings": 64,
}


def _bert(base, logits):
    layer, attention = f"{base}encoder.layer.{{}}", f"{base}encoder.layer.{{}}.attention"
    return {
        "embed": Hand(f"{base}embeddings"),
        "resid_in": Hand(attention, "in"),
        "attn_in": Hand(f"{attention}.self", "in"),
        "queries": Hand(f"{attention}.self.query", heads=HEADS),
        "keys": Hand(f"{attention}.self.key", heads=HEADS),
        "values": Hand(f"{attention}.self.value", heads=HEADS),
        "pattern": Hand(attention, pick=1),
        "z": Hand(f"{attention}.self", pick=0, heads=HEADS),
        "attn_out": Hand(f"{attention}.output.dense"),
        "resid_mid": Hand(f"{attention}.output.LayerNorm"),
        "mlp_in": Hand(f"{layer}.intermediate.dense", "in"),
        "mlp_act": Hand(f"{layer}.intermediate"),
        "mlp_out": Hand(f"{layer}.output.dense"),
        "resid_out": Hand(f"{layer}.output.LayerNorm"),
        "final_norm": Hand(f"{base}encoder", pick=0),
        **({"logits": Hand("", pick="logits")} if logits else {}),
    }


def _distilbert(base, logits):
    layer, attention = f"{base}transformer.layer.{{}}", f"{base}transformer.layer.{{}}.attention"
    return {
        "embed": Hand(f"{base}embeddings"),
        "resid_in": Hand(f"{attention}.q_lin", "in"),
        "attn_in": Hand(f"{attention}.v_lin", "in"),
        "queries": Hand(f"{attention}.q_lin", heads=HEADS),
        "keys": Hand(f"{attention}.k_lin", heads=HEADS),
        "values": Hand(f"{attention}.v_lin", heads=HEADS),
        "pattern": Hand(attention, pick=1),
        "z": Hand(f"{attention}.out_lin", "in", heads=HEADS),
        "attn_out": Hand(f"{attention}.out_lin"),
        "resid_mid": Hand(f"{layer}.ffn.lin1", "in"),
        "mlp_in": Hand(f"{layer}.sa_layer_norm"),
        "mlp_act": Hand(f"{layer}.ffn.activation"),
        "mlp_out": Hand(f"{layer}.ffn.lin2"),
        "resid_out": Hand(f"{layer}.output_layer_norm"),
        "final_norm": Hand(f"{base}transformer", pick=0),
        **({"logits": Hand("", pick="logits")} if logits else {}),
    }


DECODER = {**SIZE, "is_decoder": True}
MODELS = {
    "bert": (BertForMaskedLM, BertConfig(**SIZE), _bert("bert.", True)),
    "bert-base": (BertModel, BertConfig(**SIZE), _bert("", False)),
    "bert-classifier": (
        BertForSequenceClassification,
        BertConfig(**SIZE),
        _bert("bert.", False),
    ),
    "bert-decoder": (BertLMHeadModel, BertConfig(**DECODER), _bert("bert.", True)),
    "roberta": (RobertaForMaskedLM, RobertaConfig(**SIZE), _bert("roberta.", True)),
    "roberta-base": (RobertaModel, RobertaConfig(**SIZE), _bert("", False)),
    "roberta-decoder": (RobertaForCausalLM, RobertaConfig(**DECODER), _bert("roberta.", True)),
    "xlm-roberta": (XLMRobertaForMaskedLM, XLMRobertaConfig(**SIZE), _bert("roberta.", True)),
    "camembert": (CamembertForMaskedLM, CamembertConfig(**SIZE), _bert("roberta.", True)),
    "distilbert": (
        DistilBertForMaskedLM,
        DistilBertConfig(**DISTIL),
        _distilbert("distilbert.", True),
    ),
    "distilbert-base": (DistilBertModel, DistilBertConfig(**DISTIL), _distilbert("", False)),
}


@pytest.fixture(params=MODELS, name="case")
def _case(request):
    kind, config, kinds = MODELS[request.param]
    return h.make(kind, config), h.names(kinds, LAYERS)


def _ids(batch=3, length=7):
    return torch.randint(3, VOCAB, (batch, length), generator=torch.Generator().manual_seed(1))


def test_every_site_equals_a_hook_that_was_set_by_hand(case):
    """Each site has the bits that a hook at the place read in the model's source sees."""
    model, hands = case
    h.same_bits(*h.see(model, {"input_ids": _ids()}, hands))


def test_the_stream_adds_up_through_the_norms(case):
    """`resid_mid` is norm(`resid_in` + `attn_out`), `resid_out` norm(`resid_mid` + `mlp_out`)."""
    model, _ = case
    family = h.stack(model).family
    assert family.attn_norm is not None
    assert family.mlp_norm is not None
    values, _ = h.see(model, {"input_ids": _ids()})
    h.check_residuals(model, values)
    assert torch.equal(values["final_norm"], values[f"resid_out_{LAYERS - 1}"])


def test_the_heads_add_up_to_what_attention_adds(case):
    """The sum of all heads through the output projection, plus its bias, is `attn_out`."""
    model, _ = case
    values, _ = h.see(model, {"input_ids": _ids()})
    h.check_heads(model, values)


def test_patterns_are_those_of_the_model_and_reproduce_the_heads(case):
    """Rows sum to 1, mix `values` to `z`, and are what `output_attentions` gives."""
    model, _ = case
    inputs = {"input_ids": _ids()}
    values, _ = h.see(model, inputs)
    causal = h.stack(model).family.causal
    h.check_patterns(model, values, scale=None if causal else (16 // HEADS) ** -0.5)
    for layer, expected in enumerate(h.attentions(model, inputs).attentions):
        assert torch.equal(values[f"pattern_{layer}"], expected)


@pytest.mark.parametrize("side", ["left", "right"])
def test_no_token_attends_to_padding(case, side):
    """A key that the attention mask leaves out has probability 0, wherever the padding is."""
    model, _ = case
    mask = torch.ones(3, 7, dtype=torch.long)
    mask[1, (slice(0, 3) if side == "left" else slice(4, 7))] = 0
    values, _ = h.see(model, {"input_ids": _ids(), "attention_mask": mask})
    for layer in range(LAYERS):
        real = mask[1] == 1
        pattern = values[f"pattern_{layer}"]
        assert (pattern[1][:, real][:, :, ~real] == 0).all()
        torch.testing.assert_close(
            pattern[1][:, real][:, :, real].sum(-1), torch.ones(HEADS, int(real.sum()))
        )
        assert (pattern[0] != 0).any(-2).all()


def test_a_decoder_with_cross_attention_is_in_no_table():
    """Its layers have parts that the table does not know: no canonical name may lie about it."""
    config = BertConfig(**DECODER, add_cross_attention=True)
    assert locate(h.make(BertLMHeadModel, config)) == ()
