"""Names on reading: ours, easyroutine's, TransformerLens' and paths of modules, on real models."""

import capture_helpers as h
import pytest
import torch
from cache_helpers import same_bits

import lazycache as lc
from lazycache.errors import SiteNotFoundError

TOKENS = [[3, 4, 5], [6, 7], [8, 9, 10, 11]]
LAST = h.LAYERS - 1

SAME = {
    # TransformerLens, as tuples, short and in full
    ("resid_pre", 0): "resid_in_0",
    ("resid_mid", 1): "resid_mid_1",
    ("resid_post", 1): "resid_out_1",
    ("resid_post", -1): f"resid_out_{LAST}",
    ("attn_out", 1): "attn_out_1",
    ("mlp_out", 0): "mlp_out_0",
    ("pattern", 1): "pattern_1",
    ("attn", 1): "pattern_1",
    ("q", 0): "queries_0",
    ("k", 0): "keys_0",
    ("k", 0, "attn"): "keys_0",
    ("v", -2): "values_0",
    ("z", 1): "z_1",
    ("result", 1): "head_out_1",
    ("post", 1): "mlp_act_1",
    ("mlp_post", 1): "mlp_act_1",
    ("normalized", 1, "ln1"): "attn_in_1",
    ("normalized", 1, "ln2"): "mlp_in_1",
    ("embed",): "embed",
    "k1": "keys_1",
    "normalized0ln2": "mlp_in_0",
    "normalized": "final_norm",
    "ln_final": "final_norm",
    "ln_final.hook_normalized": "final_norm",
    "blocks.1.hook_resid_post": "resid_out_1",
    "blocks.0.hook_resid_pre": "resid_in_0",
    "blocks.1.attn.hook_q": "queries_1",
    "blocks.1.attn.hook_pattern": "pattern_1",
    "blocks.1.attn.hook_result": "head_out_1",
    "blocks.1.mlp.hook_post": "mlp_act_1",
    "blocks.0.ln1.hook_normalized": "attn_in_0",
    "blocks.1.hook_mlp_in": "resid_mid_1",  # there before the norm, our mlp_in is after it
    ("mlp_in", 1): "mlp_in_1",
    # easyroutine
    "resid_in_1": "resid_in_1",
    "resid_in_post_layernorm_1": "attn_in_1",
    "input_embeddings": "embed",
    "values_L1": "values_1",
    "keys_L0": "keys_0",
    "head_values_L1H3": "values_L1H3",
    "head_keys_L0H2": "keys_L0H2",
    "head_queries_L1H0": "queries_L1H0",
    "head_out_L1H3": "head_out_L1H3",
    "pattern_L1H3": "pattern_L1H3",
    # ours
    ("resid_out", -1): f"resid_out_{LAST}",
    "resid_out_-2": "resid_out_0",
    "z_L-1H3": f"z_L{LAST}H3",
    "values_L-1": f"values_{LAST}",
    ("final_norm", None): "final_norm",
}
PATHS = {
    "gpt2": {
        "transformer.h.1": "resid_out_1",
        "transformer.h.1:out": "resid_out_1",
        "transformer.h.1:in": "resid_in_1",
        "transformer.ln_f": "final_norm",
        "transformer.h.0.mlp": "mlp_out_0",
        "lm_head": "logits",
    },
    "llama": {
        "model.layers.1": "resid_out_1",
        "model.layers.0.self_attn:out[0]": None,
        "model.layers.1.mlp.down_proj:in": "mlp_act_1",
        "model.norm": "final_norm",
        "hook_embed": "embed",
    },
}
INSTEAD = {
    ("attn_scores", 1): "'pattern_1' is after it",
    "blocks.0.attn.hook_attn_scores": "'pattern_0' is after it",
    ("pre", 0): "'mlp_act_0' is after it",
    ("rot_k", 0): "'keys_0'",
    ("scale", 0, "ln1"): "a norm's scale is not stored",
    ("normalized", 0): r"\('normalized', 0, 'ln1'\) is 'attn_in_0'",
    "blocks.1.hook_attn_in": "'resid_in_1'",
    "hook_pos_embed": "tokens and positions together",
    "last_layernorm": r"cache\['resid_out', -1\]",
    "mapping_index": "SELECT example, position FROM tokens",
    "token_dict": "SELECT example, position FROM tokens",
    "avg_pattern_L1H0": r"cache\['pattern_L1H0'\]\.mean\(0\)",
    "projected_value_L1H2": r"cache\['values_L1H2'\]",
    ("resid_post", 2): r"means 'resid_out_2', which is not in .* There are resid_out_0, resid_out",
    ("resid_post", -3): "means 'resid_out_-3', which is not in",
    "input_embeddings_gradients": "means 'embed:grad'",
    "resid_oot_1": "Nearest: resid_out_1",
    ("a", "b", "c", "d"): "there is no site",
    ("resid_post", "1"): "there is no site",
    7: "there is no site 7",
}


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def captured(request, tmp_path_factory) -> tuple[str, lc.ActivationCache]:
    url = tmp_path_factory.mktemp("names") / request.param
    return request.param, lc.extract(h.make(request.param), TOKENS, url, "*")


def test_each_name_is_the_site_that_it_means(captured) -> None:
    """Every spelling is found, is `in` the cache, and gives the same bits as our own name."""
    model, cache = captured
    cache.io.reset()
    for key, name in (SAME | PATHS[model]).items():
        if name is None:
            assert key not in cache, key
            continue
        assert key in cache, key
        assert cache[key].site == cache[name].site, key
        assert cache.get(key) is not None, key
        assert cache[key].shape == cache[name].shape, key
        assert same_bits(cache[key].padded(), cache[name].padded()), key
    assert "nothing" not in cache


def test_what_is_not_there_says_what_is(captured) -> None:
    """A name of something that is not stored is a KeyError that says what to read instead."""
    _, cache = captured
    for key, message in INSTEAD.items():
        assert key not in cache, key
        with pytest.raises(SiteNotFoundError, match=message):
            cache[key]


def test_an_embedding_without_positions_is_not_one_with_them(captured) -> None:
    """`hook_embed` of a model that adds positions later is not `embed`: the error says so."""
    model, cache = captured
    if model == "gpt2":
        with pytest.raises(SiteNotFoundError, match="to which positions are added"):
            cache["hook_embed"]
    else:
        assert cache["hook_embed"].site == "embed"


def test_heads_that_were_cut_out_of_a_module_are_named(captured) -> None:
    """The path of a projection names the sites that were cut out of it: their shape is another."""
    model, cache = captured
    path, parts = {
        "gpt2": ("transformer.h.0.attn.c_attn", "'keys_0' and 'queries_0' and 'values_0'"),
        "llama": ("model.layers.0.self_attn.q_proj", "'queries_0'"),
    }[model]
    with pytest.raises(SiteNotFoundError, match=f"stored cut into heads: read {parts}"):
        cache[path]


def test_layer_minus_one_is_that_of_the_model(tmp_path) -> None:
    """Where only a layer in the middle was captured, -1 is not the last captured one."""
    cache = lc.extract(h.make("llama"), TOKENS, tmp_path, "resid_out_0")
    assert cache["resid_post", -2].site == "resid_out_0"
    with pytest.raises(SiteNotFoundError, match="means 'resid_out_1', which is not in"):
        cache["resid_post", -1]


def test_gradients_and_directions_have_other_names(tmp_path) -> None:
    """`embed:grad` is easyroutine's gradient of the embeddings; tdhook's keys name a side."""
    model = h.make("llama")
    with lc.capture(model, tmp_path, ["embed:grad", "model.norm:in", "model.norm"]):
        model(input_ids=torch.tensor(TOKENS[:1])).logits.sum().backward()
    cache = lc.open(tmp_path)
    names = {
        "input_embeddings_gradients": "embed:grad",
        ("embed:grad",): "embed:grad",
        "model.norm": "model.norm:out",
        ("fwd", "model.norm"): "model.norm:out",
        ("fwd_pre", "model.norm"): "model.norm:in",
    }
    for key, name in names.items():
        assert same_bits(cache[key].rows.load(), cache[name].rows.load())
    assert ("bwd", "model.norm") not in cache
