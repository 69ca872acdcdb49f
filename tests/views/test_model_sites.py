"""What `lazycache sites` prints: a line per site, and what they add up to."""

import decoder_models as d
import pytest
import stack_helpers as h
import transformers
from torch import nn

from lazycache.capture.sites.site_info import available
from lazycache.views.model_sites import print_sites, row_text, sums


def _sites(name):
    kind, config, _ = d.MODELS[name]
    return available(h.make(getattr(transformers, kind), config()))


def test_every_site_is_a_line_with_module_shape_and_bytes(capsys):
    """Names, modules and how heads are cut, shapes, bytes, and what numbers do not say."""
    print_sites(_sites("gpt2"))
    lines = {
        line.split()[0]: " ".join(line.split()) for line in capsys.readouterr().out.splitlines()
    }
    assert lines["resid_out_1"] == "resid_out_1 transformer.h.1:out [16] 64"
    assert lines["keys_0"] == "keys_0 transformer.h.0.attn.c_attn:out concat.k 4/4x4 [4, 4] 64"
    assert "[4, keys] 16 bytes for each key of the row" in lines["pattern_0"]
    assert "[4, 16] 0 computed on read from z_0" in lines["head_out_0"]


def test_the_sums_are_those_of_a_layer_and_of_all():
    """Bytes per row and, for patterns, for each key; layers that differ have a line each."""
    assert sums(_sites("llama")) == [
        "a layer: 800 bytes per row and 16 for each key",
        "all 31 sites: 1,928 bytes per row and 32 for each key",
    ]
    size = {"hidden_size": 8, "num_attention_heads": 2, "vocab_size": 9, "num_hidden_layers": 2}
    config = transformers.Qwen2MoeConfig(
        **size, num_experts=2, num_experts_per_tok=1, decoder_sparse_step=2, num_key_value_heads=2
    )
    lines = sums(available(transformers.Qwen2MoeForCausalLM(config)))
    assert [line.split(":")[0] for line in lines] == ["a layer", "a layer", "all 31 sites"]


@pytest.mark.parametrize(
    ("shape", "text"), [((12, -1), "[12, keys]"), ((384,), "[384]"), ((), "[]"), (None, "-")]
)
def test_a_row_is_shown_as_a_list(shape, text):
    """A dimension that is as wide as the row has keys says so."""
    assert row_text(shape) == text


def test_a_model_of_no_family_has_no_sums(capsys):
    """Where shapes are not known there is nothing to add up."""
    print_sites(available(nn.Sequential(nn.ReLU())))
    out = capsys.readouterr().out
    assert "0:out" in out
    assert "all" not in out
