"""What is known of a model's sites before anything runs."""

import decoder_models as d
import pytest
import stack_helpers as h
import torch
import transformers
from torch import nn

from lazycache.capture.sites.site_info import Cost, available, total


def _listed(name, **changes):
    kind, config, _ = d.MODELS[name]
    config = config()
    for key, value in changes.items():
        setattr(config, key, value)
    return {site.name: site for site in available(h.make(getattr(transformers, kind), config))}


def test_sites_come_in_the_order_of_the_forward_pass():
    """A model's list reads as a pass does: embedding, layers with their parts, norm, logits."""
    names = list(_listed("llama"))
    assert names[:3] == ["embed", "resid_in_0", "attn_in_0"]
    assert names.index("queries_0") < names.index("pattern_0") < names.index("z_0")
    assert names.index("z_0") < names.index("head_out_0") < names.index("attn_out_0")
    assert names.index("resid_out_0") < names.index("resid_in_1")
    assert names[-2:] == ["final_norm", "logits"]


def test_heads_patterns_and_computed_sites_say_what_they_are():
    """Shapes have the heads; a pattern counts bytes for each key; `head_out` stores nothing."""
    sites = _listed("qwen3")
    assert sites["queries_0"].shape == sites["z_0"].shape == (4, 6)
    assert sites["keys_0"].shape == sites["values_0"].shape == (2, 6)
    assert (sites["pattern_0"].shape, sites["pattern_0"].ragged) == ((4, -1), True)
    assert sites["pattern_0"].row_bytes == 4 * 4
    assert sites["pattern_0"].note == "bytes for each key of the row"
    assert (sites["head_out_0"].shape, sites["head_out_0"].row_bytes) == ((4, 16), 0)
    assert sites["head_out_0"].note == "computed on read from z_0"
    assert not sites["z_0"].ragged


def test_neurons_and_logits_are_as_wide_as_their_matrices():
    """`mlp_act` and `logits` are asked of the modules: fused and transposed ones too."""
    assert _listed("gpt2")["mlp_act_0"].shape == (64,)
    assert _listed("phi3")["mlp_act_0"].shape == (40,)
    kind, config, _ = d.MODELS["llama"]
    model = h.make(getattr(transformers, kind), config())
    model.lm_head = nn.Linear(16, 64)  # padded to a multiple, as trained models often are
    assert {s.name: s for s in available(model)}["logits"].shape == (64,)


def test_a_model_on_no_device_is_listed_too():
    """Nothing but shapes is needed: a model without weights has the same list."""
    kind, config, _ = d.MODELS["gemma2"]
    with torch.device("meta"):
        model = getattr(transformers, kind)(config())
    listed = {site.name: site for site in available(model)}
    assert listed == _listed("gemma2")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_bytes_follow_the_dtype_of_the_model(dtype):
    """Half the bytes in half precision."""
    kind, config, _ = d.MODELS["llama"]
    model = h.make(getattr(transformers, kind), config()).to(dtype)
    site = next(site for site in available(model) if site.name == "resid_out_0")
    assert (site.row_bytes, site.dtype) == (32, str(dtype).removeprefix("torch."))


def test_unknown_models_list_the_modules_that_can_be_called():
    """Of a model in no table there are paths, and shapes that only a forward pass can tell."""
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ModuleList([nn.ReLU()]))
    sites = available(model)
    assert [site.name for site in sites] == ["0:out", "1.0:out"]
    assert all(site.shape is site.row_bytes is None for site in sites)
    assert total(sites) == Cost(0, 0, 0)


def test_totals_count_rows_and_keys_apart():
    """A pattern costs bytes for each key, everything else for each row, `head_out` nothing."""
    sites = _listed("llama").values()
    assert total(site for site in sites if site.name.endswith("_0")) == Cost(
        # resid_in attn_in attn_out resid_mid mlp_in mlp_out resid_out queries z; keys values
        sites=14,
        row_bytes=4 * (9 * 16 + 2 * 8 + 40),
        key_bytes=4 * 4,
    )
