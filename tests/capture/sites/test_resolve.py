"""Patterns against a model: which modules they mean and what is listed."""

import capture_helpers as h
import decoder_models as d
import pytest
import stack_helpers
import transformers
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration

from lazycache.capture.sites.heads import Cut, HeadShape
from lazycache.capture.sites.names import HookPoint
from lazycache.capture.sites.resolve import resolve, resolve_sites
from lazycache.errors import CaptureError, SiteNotFoundError


def _make(name):
    kind, config, _ = d.MODELS[name]
    return stack_helpers.make(getattr(transformers, kind), config())


def _t5():
    size = {"num_layers": 1, "d_model": 8, "d_kv": 2, "num_heads": 4, "d_ff": 16, "vocab_size": 9}
    return T5ForConditionalGeneration(T5Config(**size))


@pytest.mark.parametrize(
    ("pattern", "means"),
    [
        ("values_1", ["values_1"]),
        ("values_L1", ["values_1"]),
        ("values_L1H3", ["values_1"]),
        ("values_L[0-1]H0", ["values_0", "values_1"]),
        ("z_L*H{1,2}", ["z_0", "z_1"]),
        ("re:(queries|keys)_L0H.", ["keys_0", "queries_0"]),
        ("pattern_*", ["pattern_0", "pattern_1"]),
    ],
)
def test_a_head_means_the_site_that_it_is_a_slice_of(pattern, means):
    """Heads are slices on read; asked for in a capture they mean the whole site."""
    model = _make("llama")
    points = resolve(model, pattern)
    assert list(points) == means
    assert points == resolve(model, means)


def test_points_of_heads_say_how_they_are_cut():
    """A fused projection has three sites at one module, each with its own cut and table."""
    points = resolve(_make("gpt2"), ["queries_0", "values_0", "pattern_0", "resid_in_0"])
    shape = HeadShape(heads=4, kv_heads=4, d_head=4)
    assert points["values_0"].path == points["queries_0"].path == "transformer.h.0.attn.c_attn"
    assert points["values_0"].cut == Cut("concat.v", shape)
    assert points["pattern_0"].cut == Cut("pattern", shape)
    assert points["resid_in_0"].cut is None
    assert {point.table for point in points.values()} == {"tokens"}


@pytest.mark.parametrize("pattern", ["head_out_1", "head_out_L1H2", "head_out_L1"])
def test_head_out_captures_z_and_keeps_the_projection(pattern):
    """`head_out` is not stored: its `z` is, and the matrix that it is computed with."""
    model = _make("llama")
    resolved = resolve_sites(model, pattern)
    assert resolved.points == resolve(model, "z_1")
    bound = resolved.projections["head_out_1.weight"]
    assert bound.path == "model.layers.1.self_attn.o_proj"
    assert bound.shape == HeadShape(heads=4, kv_heads=2, d_head=4)
    assert list(resolved.projections) == ["head_out_1.weight"]
    assert resolve_sites(model, "z_1").projections == {}


def test_a_pattern_behind_an_exclamation_mark_takes_sites_back():
    """`!PATTERN` removes what was found before it; of `head_out` the matrix, not `z`."""
    model = _make("llama")
    assert list(resolve(model, ["resid_out_*", "z_0", "!*_0"])) == ["resid_out_1"]
    resolved = resolve_sites(model, ["head_out_*", "!head_out_0"])
    assert list(resolved.points) == ["z_0", "z_1"]
    assert list(resolved.projections) == ["head_out_1.weight"]
    assert "model.norm:out" not in resolve(model, ["model.*:out", "!model.norm"])
    assert not resolve_sites(model, ["*", "!*", "embed"]).projections


@pytest.mark.parametrize("patterns", [["!embed"], ["embed", "!*"], ["embed", "!nothing_here"]])
def test_taking_back_everything_or_nothing_is_refused(patterns):
    """No site may be left over in silence, nor a pattern that fits nothing."""
    with pytest.raises(SiteNotFoundError, match=r"nothing is left|nothing_here"):
        resolve(_make("llama"), patterns)


def test_a_gradient_is_the_total_one_at_the_same_point():
    """`NAME:grad` is at the same module, on the side of gradients, and of the whole tensor."""
    model = _make("llama")
    points = resolve(model, ["resid_out_*:grad", "attn_in_1:grad", "z_L0H1:grad"])
    assert list(points) == ["attn_in_1:grad", "resid_out_0:grad", "resid_out_1:grad", "z_0:grad"]
    assert points["resid_out_1:grad"] == HookPoint(
        "model.layers.1", "grad_out", table="tokens", total=True
    )
    assert points["z_0:grad"].side == "grad_in"
    assert points["z_0:grad"].cut == Cut("heads", HeadShape(4, 2, 4))


def test_head_out_has_no_gradient_of_its_own():
    """The heads are summed: the gradient of each is that of the sum, and the error says so."""
    with pytest.raises(CaptureError, match="'attn_out_0:grad'"):
        resolve(_make("llama"), "head_out_*:grad")


def test_gradients_at_a_module_are_raw_sites():
    """`PATH:grad_out` and `PATH:grad_in` go by path, with globs, and are not total."""
    points = resolve(_make("llama"), ["model.layers.*.mlp:grad_in", "model.norm:grad_out[0]"])
    assert points == {
        "model.layers.0.mlp:grad_in": HookPoint("model.layers.0.mlp", "grad_in"),
        "model.layers.1.mlp:grad_in": HookPoint("model.layers.1.mlp", "grad_in"),
        "model.norm:grad_out[0]": HookPoint("model.norm", "grad_out", 0),
    }


def test_fields_arguments_and_calls_are_part_of_a_raw_name():
    """`.field`, `[i]` and `@call` go through globs of paths into the name and the point."""
    points = resolve(nn.Sequential(nn.ReLU(), nn.ReLU()), ["*:out.logits[1]@*", "0:in.mask@2"])
    assert points["1:out.logits[1]@*"] == HookPoint("1", "out", 1, field="logits", call="*")
    assert points["0:in.mask@2"] == HookPoint("0", "in", field="mask", call=2)


def test_both_stacks_of_an_encoder_decoder_have_names():
    """Names begin with `encoder.` or `decoder.`, `logits` with nothing, and tables differ."""
    model = _t5()
    points = resolve(model, ["*.resid_out_0", "decoder.logits", "decoder.cross_pattern_0"])
    assert {name: point.table for name, point in points.items()} == {
        "decoder.cross_pattern_0": "decoder_tokens",
        "decoder.resid_out_0": "decoder_tokens",
        "encoder.resid_out_0": "tokens",
        "logits": "decoder_tokens",
    }
    kept = resolve_sites(model, ["encoder.head_out_0", "decoder.z_L0H1"])
    assert list(kept.points) == ["decoder.z_0", "encoder.z_0"]
    assert list(kept.projections) == ["encoder.head_out_0.weight"]


def test_order_is_natural_and_repeats_collapse():
    """Sites come in natural order, each once, however often patterns name them."""
    points = resolve(h.make("llama"), ["resid_out_1", "resid_*_1", "embed", "resid_out_0"])
    assert list(points) == ["embed", "resid_in_1", "resid_mid_1", "resid_out_0", "resid_out_1"]


def test_raw_paths_by_name_glob_and_regular_expression():
    """A module path works with and without side, as a glob and as a regular expression."""
    model = h.make("llama")
    norm = {"model.norm:out": HookPoint("model.norm", "out")}
    assert resolve(model, "model.norm") == norm
    assert resolve(model, "model.norm:out") == norm
    assert list(resolve(model, "model.layers.[0-1].mlp.act_fn:in")) == [
        "model.layers.0.mlp.act_fn:in",
        "model.layers.1.mlp.act_fn:in",
    ]
    assert list(resolve(model, r"re:model\.layers\.\d\.mlp")) == [
        "model.layers.0.mlp:out",
        "model.layers.1.mlp:out",
    ]
    assert list(resolve(model, [":out"])) == [":out"]


def test_globs_of_paths_leave_containers_and_the_root_out():
    """`*` means modules that can be called: no ModuleList, not the model itself."""
    model = nn.Sequential(nn.ModuleList([nn.ReLU()]), nn.ModuleDict({"a": nn.Sequential()}))
    assert list(resolve(model, "*")) == ["0.0:out", "1.a:out"]


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("resid_ot_1", r"Nearest: .*resid_out_1"),
        ("resid_out_7", r"has layers 0 to 1"),
        ("z_L1H4", r"has heads 0 to 3"),
        ("z_L7H0", r"has layers 0 to 1"),
        ("router_0", r"family llama have no router"),
        ("encoder.embed", r"Names of LlamaForCausalLM begin with ''"),
        ("model.nrom", r"Nearest: model\.norm"),
        ("model.norm:grad", r"':grad' is for canonical names; at a module there are ':grad_out'"),
        ("model.layers", r"ModuleList: it is never called.*'model\.layers\.\*'"),
        ("model.layers:grad_in", r"ModuleList: it is never called"),
        ("re:nothing", r"No site 're:nothing'"),
        ("model.norm:gradient", r"No site"),
    ],
)
def test_unknown_names_name_the_nearest(pattern, says):
    """A name that means nothing says what there is."""
    with pytest.raises(SiteNotFoundError, match=says):
        resolve(_make("llama"), [pattern])


def test_a_missing_head_is_explained():
    """`logits` of a model without a head says that it has none."""
    with pytest.raises(SiteNotFoundError, match="BertModel has no such module"):
        resolve(h.make("bert-base"), "logits")


def test_a_missing_prefix_is_explained():
    """A name without prefix on an encoder-decoder says which prefixes there are."""
    with pytest.raises(SiteNotFoundError, match=r"begin with 'encoder\.', 'decoder\.'"):
        resolve(_t5(), "resid_out_0")


def test_heads_that_the_configuration_does_not_tell_are_explained():
    """Without a number of heads there are no sites of heads, and the error says why."""
    model = _make("llama")
    del model.config.head_dim
    model.config.num_attention_heads = 0
    assert "z_0" not in resolve(model, "*")
    with pytest.raises(SiteNotFoundError, match="does not say how many heads"):
        resolve(model, "z_0")


def test_unknown_families_have_paths_only():
    """A canonical name on a model of no known family says to ask by path."""
    with pytest.raises(SiteNotFoundError, match=r"module path.*lc\.register_architecture"):
        resolve(nn.Sequential(nn.Linear(2, 2)), "resid_out_0")


def test_asking_for_nothing_is_an_error():
    """An empty list of sites is not silently an empty capture."""
    with pytest.raises(SiteNotFoundError, match="No sites were asked for"):
        resolve(h.make("llama"), [])


@pytest.mark.parametrize("patterns", [None, 5, [None], ["embed", 3], b"embed", [["embed"]]])
def test_what_is_no_pattern_is_refused(patterns):
    """Names are str: anything else is an error of ours."""
    with pytest.raises(CaptureError, match=r"sites: .* is no name"):
        resolve(h.make("llama"), patterns)


@pytest.mark.parametrize("name", ["a\nb", "x" * 501, "ä" * 60, "\x00"])
def test_modules_that_cannot_be_names_are_refused_before_anything_runs(name):
    """Any string is a module path to torch; a site's name is stored and names a folder."""
    model = nn.Sequential()
    model.add_module(name, nn.ReLU())
    with pytest.raises(CaptureError, match="cannot"):
        resolve(model, "*")


def test_a_bad_expression_is_an_error():
    """A broken regular expression is reported as such."""
    with pytest.raises(CaptureError, match="regular expression"):
        resolve(h.make("llama"), "re:[")


@pytest.mark.parametrize("ending", ["@1", ":outt", ":out[-1]", ":out[0][1]"])
def test_a_wrong_ending_is_explained(ending):
    """The module is there: the message says what may follow its path."""
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(SiteNotFoundError, match=r"At a module there are .*'0:out\[0\]@\*'"):
        resolve(model, f"0{ending}")
    with pytest.raises(SiteNotFoundError, match="'resid_out_0:grad', and nothing else"):
        resolve(h.make("gpt2"), f"resid_out_0{ending}")


@pytest.mark.parametrize("model", ["gpt2", None, nn.Linear])
def test_what_is_no_model_is_named(model):
    """A name is no model yet."""
    with pytest.raises(CaptureError, match=r"model=.* torch\.nn\.Module is needed"):
        resolve(model, "*")
