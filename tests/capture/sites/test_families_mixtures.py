"""Mixtures of experts: sites against hooks set by hand, and the block computed from its weights."""

import pytest
import stack_helpers as h
import torch
import transformers
from stack_helpers import Hand
from torch.nn import functional
from transformers import (
    MixtralConfig,
    MixtralForCausalLM,
    MixtralModel,
    OlmoeConfig,
    OlmoeForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
)

LAYERS, HEADS, KV_HEADS, EXPERTS, VOCAB = 2, 4, 2, 5, 50
SIZE = {
    "num_hidden_layers": LAYERS,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "num_experts_per_tok": 2,
    "vocab_size": VOCAB,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
QWEN = {
    **SIZE,
    "num_experts": EXPERTS,
    "moe_intermediate_size": 12,
    "shared_expert_intermediate_size": 20,
}
MIXTRAL = MixtralConfig(**SIZE, num_local_experts=EXPERTS)

KINDS = {
    "embed": Hand("model.embed_tokens"),
    "resid_in": Hand("model.layers.{}.input_layernorm", "in"),
    "attn_in": Hand("model.layers.{}.input_layernorm"),
    "queries": Hand("model.layers.{}.self_attn.q_proj", heads=HEADS),
    "keys": Hand("model.layers.{}.self_attn.k_proj", heads=KV_HEADS),
    "values": Hand("model.layers.{}.self_attn.v_proj", heads=KV_HEADS),
    "pattern": Hand("model.layers.{}.self_attn", pick=1),
    "z": Hand("model.layers.{}.self_attn.o_proj", "in", heads=HEADS),
    "attn_out": Hand("model.layers.{}.self_attn.o_proj"),
    "resid_mid": Hand("model.layers.{}.post_attention_layernorm", "in"),
    "mlp_in": Hand("model.layers.{}.post_attention_layernorm"),
    "router": Hand("model.layers.{}.mlp.gate", pick=0),
    "mlp_out": Hand("model.layers.{}.mlp"),
    "resid_out": Hand("model.layers.{}"),
    "final_norm": Hand("model.norm"),
    "logits": Hand("", pick="logits"),
}
BASE = {
    kind: Hand(hand.path.removeprefix("model."), hand.side, hand.pick, hand.heads)
    for kind, hand in KINDS.items()
    if kind != "logits"
}

MODELS = {
    "mixtral": (MixtralForCausalLM, MIXTRAL, KINDS),
    "mixtral-base": (MixtralModel, MIXTRAL, BASE),
    "qwen2-moe": (Qwen2MoeForCausalLM, Qwen2MoeConfig(**QWEN), KINDS),
    "olmoe": (OlmoeForCausalLM, OlmoeConfig(**SIZE, num_experts=EXPERTS), KINDS),
}
if hasattr(transformers, "Qwen3MoeConfig"):  # since 4.51
    MODELS["qwen3-moe"] = (
        transformers.Qwen3MoeForCausalLM,
        transformers.Qwen3MoeConfig(**QWEN, head_dim=6),
        KINDS,
    )


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


def test_the_stream_adds_up(case):
    """`resid_mid` is `resid_in` + `attn_out`, `resid_out` is `resid_mid` + `mlp_out`."""
    model, _ = case
    values, _ = h.see(model, {"input_ids": _ids()})
    h.check_residuals(model, values)


def test_the_heads_add_up_to_what_attention_adds(case):
    """The sum of all heads through the output projection is `attn_out`."""
    model, _ = case
    values, _ = h.see(model, {"input_ids": _ids()})
    h.check_heads(model, values)


def test_patterns_are_those_of_the_model_and_reproduce_the_heads(case):
    """Rows sum to 1, mix each kv head into `z`, and are what `output_attentions` gives."""
    model, _ = case
    inputs = {"input_ids": _ids()}
    values, _ = h.see(model, inputs)
    h.check_patterns(model, values)
    for layer, expected in enumerate(h.attentions(model, inputs).attentions):
        assert torch.equal(values[f"pattern_{layer}"], expected)


@pytest.mark.parametrize("side", ["left", "right"])
def test_no_token_attends_to_padding(case, side):
    """A key that the attention mask leaves out has probability 0, wherever the padding is."""
    model, _ = case
    mask = torch.ones(3, 7, dtype=torch.long)
    mask[1, (slice(0, 3) if side == "left" else slice(4, 7))] = 0
    values, _ = h.see(model, {"input_ids": _ids(), "attention_mask": mask})
    real = mask[1] == 1
    for layer in range(LAYERS):
        pattern = values[f"pattern_{layer}"][1][:, real]
        assert (pattern[:, :, ~real] == 0).all()
        torch.testing.assert_close(pattern[:, :, real].sum(-1), torch.ones(HEADS, int(real.sum())))


def test_the_router_scores_all_experts_and_the_block_follows_it(case):
    """`router` scores each expert; with it and all weights one gets `mlp_out`, shared one too."""
    model, hands = case
    values, _ = h.see(model, {"input_ids": _ids()})
    base = "" if "logits" not in hands else "model."
    for layer in range(LAYERS):
        block = model.get_submodule(f"{base}layers.{layer}.mlp")
        read = values[f"mlp_in_{layer}"].flatten(0, 1)
        router = values[f"router_{layer}"]
        assert router.shape == (read.shape[0], EXPERTS)
        with torch.no_grad():
            torch.testing.assert_close(router, read @ block.gate.weight.T)
            expected = _block(block, read, router, model.config).view(*_ids().shape, -1)
        torch.testing.assert_close(values[f"mlp_out_{layer}"], expected)


def _block(block, read, router, config):
    """A mixture as the papers write it, one token at a time."""
    shares, chosen = router.softmax(-1).topk(config.num_experts_per_tok)
    if getattr(config, "norm_topk_prob", True):
        shares = shares / shares.sum(-1, keepdim=True)
    rows = []
    for row, share, experts in zip(read, shares, chosen, strict=True):
        parts = [s * _expert(block.experts, e, row) for s, e in zip(share, experts, strict=True)]
        rows.append(torch.stack(parts).sum(0))
    out = torch.stack(rows)
    if hasattr(block, "shared_expert"):
        out = out + block.shared_expert_gate(read).sigmoid() * block.shared_expert(read)
    return out


def _expert(experts, expert, row):
    gate, up = (experts.gate_up_proj[expert] @ row).chunk(2)
    return experts.down_proj[expert] @ (functional.silu(gate) * up)


def test_a_dense_layer_among_mixtures_has_neurons_and_no_router():
    """Where a layer has one MLP instead of experts it has `mlp_act`, and no `router`."""
    model = h.make(Qwen2MoeForCausalLM, Qwen2MoeConfig(**QWEN, mlp_only_layers=[0]))
    hands = h.names(KINDS, LAYERS)
    del hands["router_0"]
    hands["mlp_act_0"] = Hand("model.layers.0.mlp.down_proj", "in")
    values, by_hand = h.see(model, {"input_ids": _ids()}, hands)
    h.same_bits(values, by_hand)
    h.check_residuals(model, values)
    assert values["mlp_act_0"].shape[-1] == 24


def test_the_block_of_transformers_4_is_found_under_its_name():
    """Mixtral's block was called `block_sparse_moe`: its sites have the same names."""
    model = h.make(MixtralForCausalLM, MIXTRAL)
    for layer in model.model.layers:
        layer.block_sparse_moe = layer.mlp
        del layer.mlp
    points = h.points(model)
    assert {str(points[name]) for name in ("mlp_in_1", "mlp_out_1", "router_1")} == {
        "model.layers.1.block_sparse_moe:in",
        "model.layers.1.block_sparse_moe:out",
        "model.layers.1.block_sparse_moe.gate:out",
    }
    assert set(points) == set(h.names(KINDS, LAYERS))
