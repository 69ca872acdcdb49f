"""Patterns against a model: which modules they mean and what is listed."""

import capture_helpers as h
import pytest
from torch import nn

from lazycache.capture.resolve import available, resolve
from lazycache.capture.sites import LAYER_SITES, MODEL_SITES, HookPoint
from lazycache.errors import CaptureError, SiteNotFoundError


@pytest.mark.parametrize("name", h.MODELS)
def test_every_family_has_every_canonical_site(name):
    """All canonical sites exist; only the logits need a model with that head."""
    expected = {f"{kind}_{layer}" for kind in LAYER_SITES for layer in range(h.LAYERS)}
    expected |= set(MODEL_SITES) - ({"logits"} if name.endswith("-base") else set())
    assert {site.name for site in available(h.make(name))} == expected


@pytest.mark.parametrize("name", h.MODELS)
def test_listed_shapes_are_those_of_a_forward_pass(name):
    """What `available` says without running is what a forward pass gives."""
    model, sink = h.make(name), h.ListSink()
    with h.recorder(model, "*", sink):
        model(h.ids(2, 5))
    for site in available(model):
        values = sink.values(site.name)
        assert tuple(values.shape[1:]) == site.shape
        assert site.dtype == "float32"
        assert site.row_bytes == values[0].nbytes


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
        ("model.nrom", r"Nearest: model\.norm"),
        ("model.layers", r"ModuleList: it is never called.*'model\.layers\.\*'"),
        ("re:nothing", r"No site 're:nothing'"),
        ("model.norm:grad_out", r"No site"),
    ],
)
def test_unknown_names_name_the_nearest(pattern, says):
    """A name that means nothing says what there is."""
    with pytest.raises(SiteNotFoundError, match=says):
        resolve(h.make("llama"), [pattern])


def test_a_missing_head_is_explained():
    """`logits` of a model without a head says that it has none."""
    with pytest.raises(SiteNotFoundError, match="BertModel has no such module"):
        resolve(h.make("bert-base"), "logits")


def test_unknown_families_have_paths_only():
    """A canonical name on a model of no known family says to ask by path."""
    with pytest.raises(SiteNotFoundError, match="ask by module path"):
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
