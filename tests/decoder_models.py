"""Small decoders of each family, and where their sites are by the models' sources."""

import torch
import transformers as t
from stack_helpers import Hand

LAYERS, HEADS, KV, SIZE, VOCAB = 2, 4, 2, 4, 50
WIDTH = HEADS * SIZE

TOKENS = {"vocab_size": VOCAB, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
USUAL = {
    **TOKENS,
    "num_hidden_layers": LAYERS,
    "hidden_size": WIDTH,
    "intermediate_size": 40,
    "num_attention_heads": HEADS,
    "max_position_embeddings": 64,
}
GROUPED = {**USUAL, "num_key_value_heads": KV}
# a head is wider than the stream divided by heads, as in Gemma and Qwen3
WIDE = {**GROUPED, "head_dim": 6}
GPT = {**TOKENS, "n_layer": LAYERS, "n_embd": WIDTH, "n_head": HEADS}


def _concat(part, heads=HEADS, kv=HEADS):
    first, last = {
        "q": (0, heads),
        "k": (heads, heads + kv),
        "v": (heads + kv, heads + 2 * kv),
    }[part]
    return lambda x: x[..., first * SIZE : last * SIZE].unflatten(-1, (-1, SIZE))


def _each_head(part):
    """Heads are side by side, each with its query, key and value."""
    return lambda x: x.unflatten(-1, (HEADS, 3, SIZE))[..., "qkv".index(part), :]


def _each_group(part, kv):
    """Key-value heads are side by side, each with its queries, key and value."""

    def cut(x):
        groups = x.unflatten(-1, (kv, HEADS // kv + 2, SIZE))
        if part == "q":
            return groups[..., :-2, :].flatten(-3, -2)
        return groups[..., -2 if part == "k" else -1, :]

    return cut


def _gpt2(base):
    layer = f"{base}h.{{}}"
    return {
        "embed": Hand(f"{base}drop"),
        "resid_in": Hand(f"{layer}.ln_1", "in"),
        "attn_in": Hand(f"{layer}.ln_1"),
        **{
            kind: Hand(f"{layer}.attn.c_attn", cut=_concat(kind[0]))
            for kind in ("queries", "keys", "values")
        },
        "z": Hand(f"{layer}.attn.c_proj", "in", heads=HEADS),
        "attn_out": Hand(f"{layer}.attn.resid_dropout"),
        "resid_mid": Hand(f"{layer}.ln_2", "in"),
        "mlp_in": Hand(f"{layer}.ln_2"),
        "mlp_act": Hand(f"{layer}.mlp.act"),
        "mlp_out": Hand(f"{layer}.mlp.dropout"),
        "resid_out": Hand(layer),
        "final_norm": Hand(f"{base}ln_f"),
        "logits": Hand("lm_head"),
    }


def _gptj():
    hands = _gpt2("transformer.")
    attention = "transformer.h.{}.attn"
    del hands["resid_mid"]
    return {
        **hands,
        "queries": Hand(f"{attention}.q_proj", heads=HEADS),
        "keys": Hand(f"{attention}.k_proj", heads=HEADS),
        "values": Hand(f"{attention}.v_proj", heads=HEADS),
        "z": Hand(f"{attention}.out_proj", "in", heads=HEADS),
        "mlp_in": Hand("transformer.h.{}.ln_1"),
        "resid_out": Hand("transformer.h.{}"),
    }


def _llama(base="model.", kv=KV):
    layer = f"{base}layers.{{}}"
    return {
        "embed": Hand(f"{base}layers.0.input_layernorm", "in"),
        "resid_in": Hand(f"{layer}.input_layernorm", "in"),
        "attn_in": Hand(f"{layer}.input_layernorm"),
        "queries": Hand(f"{layer}.self_attn.q_proj", heads=HEADS),
        "keys": Hand(f"{layer}.self_attn.k_proj", heads=kv),
        "values": Hand(f"{layer}.self_attn.v_proj", heads=kv),
        "z": Hand(f"{layer}.self_attn.o_proj", "in", heads=HEADS),
        "attn_out": Hand(f"{layer}.self_attn.o_proj"),
        "resid_mid": Hand(f"{layer}.post_attention_layernorm", "in"),
        "mlp_in": Hand(f"{layer}.post_attention_layernorm"),
        "mlp_act": Hand(f"{layer}.mlp.down_proj", "in"),
        "mlp_out": Hand(f"{layer}.mlp.down_proj"),
        "resid_out": Hand(layer),
        "final_norm": Hand(f"{base}norm"),
        "logits": Hand("lm_head"),
    }


def _gemma(base="model."):
    layer = f"{base}layers.{{}}"
    return {
        **_llama(base),
        "attn_out": Hand(f"{layer}.post_attention_layernorm"),
        "resid_mid": Hand(f"{layer}.pre_feedforward_layernorm", "in"),
        "mlp_in": Hand(f"{layer}.pre_feedforward_layernorm"),
        "mlp_out": Hand(f"{layer}.post_feedforward_layernorm"),
    }


def _olmo2():
    layer = "model.layers.{}"
    return {
        **_llama(),
        "embed": Hand("model.embed_tokens"),
        "resid_in": Hand(layer, "in"),
        "attn_in": Hand(f"{layer}.self_attn.v_proj", "in"),
        "attn_out": Hand(f"{layer}.post_attention_layernorm"),
        "resid_mid": Hand(f"{layer}.mlp.up_proj", "in"),
        "mlp_in": Hand(f"{layer}.mlp.gate_proj", "in"),
        "mlp_out": Hand(f"{layer}.post_feedforward_layernorm"),
    }


def _phi3():
    layer = "model.layers.{}"
    fused = f"{layer}.self_attn.qkv_proj"
    return {
        **_llama(),
        "queries": Hand(fused, cut=_concat("q", HEADS, KV)),
        "keys": Hand(fused, cut=_concat("k", HEADS, KV)),
        "values": Hand(fused, cut=_concat("v", HEADS, KV)),
    }


def _phi():
    layer = "model.layers.{}"
    hands = {
        **_llama(),
        "z": Hand(f"{layer}.self_attn.dense", "in", heads=HEADS),
        "attn_out": Hand(f"{layer}.self_attn.dense"),
        "mlp_in": Hand(f"{layer}.input_layernorm"),
        "mlp_act": Hand(f"{layer}.mlp.activation_fn"),
        "mlp_out": Hand(f"{layer}.mlp.fc2"),
        "final_norm": Hand("model.final_layernorm"),
    }
    del hands["resid_mid"]
    return hands


def _neox(parallel):
    layer = "gpt_neox.layers.{}"
    middle = {} if parallel else {"resid_mid": Hand(f"{layer}.post_attention_layernorm", "in")}
    return {
        "embed": Hand("gpt_neox.emb_dropout"),
        "resid_in": Hand(f"{layer}.input_layernorm", "in"),
        "attn_in": Hand(f"{layer}.input_layernorm"),
        **{
            kind: Hand(f"{layer}.attention.query_key_value", cut=_each_head(kind[0]))
            for kind in ("queries", "keys", "values")
        },
        "z": Hand(f"{layer}.attention.dense", "in", heads=HEADS),
        "attn_out": Hand(f"{layer}.attention.dense"),
        **middle,
        "mlp_in": Hand(f"{layer}.post_attention_layernorm"),
        "mlp_act": Hand(f"{layer}.mlp.act"),
        "mlp_out": Hand(f"{layer}.mlp.dense_4h_to_h"),
        "resid_out": Hand(layer),
        "final_norm": Hand("gpt_neox.final_layer_norm"),
        "logits": Hand("lm_head" if hasattr(t, "Olmo3Config") else "embed_out"),
    }


def _opt(base="model.decoder."):
    layer = f"{base}layers.{{}}"
    return {
        "embed": Hand(layer.format(0), "in"),
        "resid_in": Hand(f"{layer}.self_attn_layer_norm", "in"),
        "attn_in": Hand(f"{layer}.self_attn_layer_norm"),
        "queries": Hand(f"{layer}.self_attn.q_proj", heads=HEADS),
        "keys": Hand(f"{layer}.self_attn.k_proj", heads=HEADS),
        "values": Hand(f"{layer}.self_attn.v_proj", heads=HEADS),
        "z": Hand(f"{layer}.self_attn.out_proj", "in", heads=HEADS),
        "attn_out": Hand(f"{layer}.self_attn.out_proj"),
        "resid_mid": Hand(f"{layer}.final_layer_norm", "in"),
        "mlp_in": Hand(f"{layer}.final_layer_norm"),
        "mlp_act": Hand(f"{layer}.activation_fn"),
        "mlp_out": Hand(f"{layer}.fc2"),
        "resid_out": Hand(layer),
        "final_norm": Hand(f"{base}final_layer_norm"),
        "logits": Hand("lm_head"),
    }


def _opt_post_norm():
    base = "model.decoder."
    layer = f"{base}layers.{{}}"
    return {
        **_opt(),
        "resid_in": Hand(f"{layer}.self_attn.k_proj", "in"),
        "attn_in": Hand(f"{layer}.self_attn.k_proj", "in"),
        "resid_mid": Hand(f"{layer}.self_attn_layer_norm"),
        "mlp_in": Hand(f"{layer}.fc1", "in"),
        "resid_out": Hand(f"{layer}.final_layer_norm", cut=lambda x: x.reshape(-1, 7, WIDTH)),
        "final_norm": Hand(f"{base}layers.{{}}.final_layer_norm"),
    }


def _falcon(cut, *, parallel, mlp_norm, attn_norm="input_layernorm"):
    layer = "transformer.h.{}"
    middle = {} if parallel else {"resid_mid": Hand(f"{layer}.post_attention_layernorm", "in")}
    return {
        "embed": Hand("transformer.word_embeddings"),
        "resid_in": Hand(f"{layer}.{attn_norm}", "in"),
        "attn_in": Hand(f"{layer}.{attn_norm}"),
        **{
            kind: Hand(f"{layer}.self_attention.query_key_value", cut=cut(kind[0]))
            for kind in ("queries", "keys", "values")
        },
        "z": Hand(f"{layer}.self_attention.dense", "in", heads=HEADS),
        "attn_out": Hand(f"{layer}.self_attention.dense"),
        **middle,
        "mlp_in": Hand(f"{layer}.{mlp_norm}"),
        "mlp_act": Hand(f"{layer}.mlp.act"),
        "mlp_out": Hand(f"{layer}.mlp.dense_4h_to_h"),
        "resid_out": Hand(layer),
        "final_norm": Hand("transformer.ln_f"),
        "logits": Hand("lm_head"),
    }


def _bloom():
    hands = _falcon(_each_head, parallel=False, mlp_norm="post_attention_layernorm")
    return {
        **hands,
        "embed": Hand("transformer.word_embeddings_layernorm"),
        "mlp_act": Hand("transformer.h.{}.mlp.gelu_impl"),
    }


def _mpt():
    layer = "transformer.blocks.{}"
    return {
        "embed": Hand("transformer.wte"),
        "resid_in": Hand(f"{layer}.norm_1", "in"),
        "attn_in": Hand(f"{layer}.norm_1"),
        **{
            kind: Hand(f"{layer}.attn.Wqkv", cut=_concat(kind[0]))
            for kind in ("queries", "keys", "values")
        },
        "z": Hand(f"{layer}.attn.out_proj", "in", heads=HEADS),
        "attn_out": Hand(f"{layer}.attn.out_proj"),
        "resid_mid": Hand(f"{layer}.norm_2", "in"),
        "mlp_in": Hand(f"{layer}.norm_2"),
        "mlp_act": Hand(f"{layer}.ffn.act"),
        "mlp_out": Hand(f"{layer}.ffn.down_proj"),
        "resid_out": Hand(layer),
        "final_norm": Hand("transformer.norm_f"),
        "logits": Hand("lm_head"),
    }


def _falcon_config(**given):
    return t.FalconConfig(**USUAL, ffn_hidden_size=40, **given)


def _opt_config(**given):
    return t.OPTConfig(**USUAL, ffn_dim=40, word_embed_proj_dim=WIDTH, **given)


def _gemma3_with_eyes():
    text = t.Gemma3TextConfig(**WIDE).to_dict()
    vision = {
        "num_hidden_layers": 1,
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_attention_heads": 2,
        "image_size": 8,
        "patch_size": 4,
    }
    return t.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)


OLD = {"new_decoder_architecture": False}
MODELS = {
    "gpt2": ("GPT2LMHeadModel", lambda: t.GPT2Config(**GPT), _gpt2("transformer.")),
    "gptj": ("GPTJForCausalLM", lambda: t.GPTJConfig(**GPT, rotary_dim=2), _gptj()),
    "llama": ("LlamaForCausalLM", lambda: t.LlamaConfig(**GROUPED), _llama()),
    "mistral": ("MistralForCausalLM", lambda: t.MistralConfig(**GROUPED), _llama()),
    "qwen2": ("Qwen2ForCausalLM", lambda: t.Qwen2Config(**GROUPED), _llama()),
    "qwen3": ("Qwen3ForCausalLM", lambda: t.Qwen3Config(**WIDE), _llama()),
    "gemma": ("GemmaForCausalLM", lambda: t.GemmaConfig(**WIDE), _llama()),
    "smollm3": ("SmolLM3ForCausalLM", lambda: t.SmolLM3Config(**GROUPED), _llama()),
    "gemma2": ("Gemma2ForCausalLM", lambda: t.Gemma2Config(**WIDE), _gemma()),
    "gemma3": ("Gemma3ForCausalLM", lambda: t.Gemma3TextConfig(**WIDE), _gemma()),
    "gemma3-images": (
        "Gemma3ForConditionalGeneration",
        _gemma3_with_eyes,
        _gemma("model.language_model."),
    ),
    "olmo": ("OlmoForCausalLM", lambda: t.OlmoConfig(**GROUPED), _llama()),
    "olmo2": ("Olmo2ForCausalLM", lambda: t.Olmo2Config(**GROUPED), _olmo2()),
    "olmo3": ("Olmo3ForCausalLM", lambda: t.Olmo3Config(**GROUPED), _olmo2()),
    "phi3": ("Phi3ForCausalLM", lambda: t.Phi3Config(**GROUPED), _phi3()),
    "phi": ("PhiForCausalLM", lambda: t.PhiConfig(**GROUPED), _phi()),
    "phi-normed": (
        "PhiForCausalLM",
        lambda: t.PhiConfig(**USUAL, qk_layernorm=True),
        _phi() | {k: v for k, v in _llama(kv=HEADS).items() if k in ("keys", "values")},
    ),
    "gpt-neox": ("GPTNeoXForCausalLM", lambda: t.GPTNeoXConfig(**USUAL), _neox(parallel=True)),
    "gpt-neox sequential": (
        "GPTNeoXForCausalLM",
        lambda: t.GPTNeoXConfig(**USUAL, use_parallel_residual=False),
        _neox(parallel=False),
    ),
    "opt": ("OPTForCausalLM", _opt_config, _opt()),
    "opt post-norm": (
        "OPTForCausalLM",
        lambda: _opt_config(do_layer_norm_before=False),
        _opt_post_norm(),
    ),
    "falcon new": (
        "FalconForCausalLM",
        lambda: _falcon_config(new_decoder_architecture=True, num_kv_heads=KV),
        _falcon(
            lambda part: _each_group(part, KV),
            parallel=True,
            attn_norm="ln_attn",
            mlp_norm="ln_mlp",
        ),
    ),
    "falcon multi-query": (
        "FalconForCausalLM",
        lambda: _falcon_config(**OLD, parallel_attn=True, multi_query=True),
        _falcon(lambda part: _concat(part, HEADS, 1), parallel=True, mlp_norm="input_layernorm"),
    ),
    "falcon parallel": (
        "FalconForCausalLM",
        lambda: _falcon_config(**OLD, parallel_attn=True, multi_query=False),
        _falcon(_each_head, parallel=True, mlp_norm="input_layernorm"),
    ),
    "falcon sequential": (
        "FalconForCausalLM",
        lambda: _falcon_config(**OLD, parallel_attn=False, multi_query=False, alibi=True),
        _falcon(_each_head, parallel=False, mlp_norm="post_attention_layernorm"),
    ),
    "falcon sequential multi-query": (
        "FalconForCausalLM",
        lambda: _falcon_config(**OLD, parallel_attn=False, multi_query=True, alibi=True),
        _falcon(
            lambda part: _concat(part, HEADS, 1),
            parallel=False,
            mlp_norm="post_attention_layernorm",
        ),
    ),
    "bloom": (
        "BloomForCausalLM",
        lambda: t.BloomConfig(**TOKENS, n_layer=LAYERS, hidden_size=WIDTH, n_head=HEADS),
        _bloom(),
    ),
    "mpt": (
        "MptForCausalLM",
        lambda: t.MptConfig(
            **TOKENS, n_layers=LAYERS, d_model=WIDTH, n_heads=HEADS, max_seq_len=64
        ),
        _mpt(),
    ),
}
"""Name to class of transformers, a function that makes its configuration, and places by hand."""

MODELS = {name: model for name, model in MODELS.items() if hasattr(t, model[0])}

BASES = {
    "gpt2": "GPT2Model",
    "gptj": "GPTJModel",
    "llama": "LlamaModel",
    "gemma3-images": "Gemma3Model",
    "gpt-neox": "GPTNeoXModel",
    "opt": "OPTModel",
    "falcon new": "FalconModel",
    "bloom": "BloomModel",
    "mpt": "MptModel",
}
"""Families and their class without a head, where the prefix is another one."""


def ids(batch=3, length=7):
    """Token ids without the special ones."""
    return torch.randint(3, VOCAB, (batch, length), generator=torch.Generator().manual_seed(1))
