"""Names of sites and patterns of names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazycache.capture.sites.names import (
    CANONICAL,
    HEAD_SITES,
    LAYER_SITES,
    MODEL_SITES,
    PREFIXES,
    HookPoint,
    SiteName,
    match_names,
    parse_site,
    split_gradient,
    split_side,
)
from lazycache.errors import CaptureError

NAMES = [f"{kind}_{layer}" for layer in range(12) for kind in LAYER_SITES] + list(MODEL_SITES)


@given(
    st.sampled_from(CANONICAL),
    st.integers(0, 10**6),
    st.sampled_from(("", *PREFIXES)),
    st.integers(0, 200) | st.none(),
    st.booleans(),
)
def test_canonical_names_survive_parsing(kind, layer, prefix, head, gradient):
    """A canonical name taken apart and put together again is the same name."""
    site = SiteName(
        kind,
        None if kind in MODEL_SITES else layer,
        prefix="" if kind == "logits" else prefix,
        head=head if kind in HEAD_SITES else None,
        gradient=gradient,
    )
    assert parse_site(str(site)) == site


@pytest.mark.parametrize(
    "name",
    [
        "resid_out",
        "resid_out_",
        "resid_out_01",
        "resid_out_1x",
        "resid_out_L1",
        "resid_out_L1H0",
        "resid_out_3:grad_out",
        "embed_0",
        "z_1H3",
        "z_L1H",
        "z_L1H03",
        "decoder.logits",
        "decoder.",
        "xencoder.embed",
        "",
        "a.b:out",
    ],
)
def test_other_names_are_not_canonical(name):
    """What only looks like a canonical name is none."""
    assert parse_site(name) is None


@pytest.mark.parametrize("kind", HEAD_SITES)
def test_heads_have_names_and_sites_a_second_one(kind):
    """`z_L1H3` is head 3 of `z_1`, and `z_L1` is another way to write `z_1`."""
    head = parse_site(f"{kind}_L1H3")
    assert head == SiteName(kind, 1, head=3)
    assert str(head) == f"{kind}_L1H3"
    assert parse_site(f"{kind}_L1") == parse_site(f"{kind}_1") == head.named


def test_a_gradient_is_of_the_tensor_of_that_name():
    """`:grad` is taken off a name or pattern; sides of raw paths are not taken for it."""
    site = parse_site("decoder.z_L1H3:grad")
    assert site == SiteName("z", 1, prefix="decoder.", head=3, gradient=True)
    assert str(site.named) == "decoder.z_1"
    assert split_gradient("re:resid_.*:grad") == ("re:resid_.*", True)
    assert split_gradient("a.b:grad_in") == ("a.b:grad_in", False)
    assert split_gradient("resid_out_3") == ("resid_out_3", False)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("resid_out_3", ["resid_out_3"]),
        ("resid_out_*", [f"resid_out_{i}" for i in range(12)]),
        ("resid_out_[4-11]", [f"resid_out_{i}" for i in range(4, 12)]),
        ("resid_out_[9-10]", ["resid_out_9", "resid_out_10"]),
        ("resid_out_[1-1]", ["resid_out_1"]),
        ("resid_out_[5-4]", []),
        ("mlp_act_{3,7}", ["mlp_act_3", "mlp_act_7"]),
        ("mlp_act_{ 3, 10 }", ["mlp_act_3", "mlp_act_10"]),
        ("{embed,logits}", ["embed", "logits"]),
        ("resid_out_?", [f"resid_out_{i}" for i in range(10)]),
        ("resid_out_[13]", ["resid_out_1", "resid_out_3"]),
        ("resid_out_[!2-9]", ["resid_out_0", "resid_out_1"]),
        ("re:resid_(in|out)_1", ["resid_in_1", "resid_out_1"]),
        ("re:resid_out_1.", ["resid_out_10", "resid_out_11"]),
        ("resid.out_3", []),
    ],
)
def test_patterns_match_whole_names(pattern, expected):
    """A pattern means exactly the names that it fits in full, in their order."""
    assert match_names(pattern, NAMES) == expected


def test_numeric_ranges_in_the_middle_of_a_path():
    """A range takes a whole number wherever it stands: layer 11 is not layers 1 and 1."""
    paths = [f"model.layers.{layer}.mlp" for layer in range(30)]
    assert match_names("model.layers.[1-11].mlp", paths) == paths[1:12]


@given(st.sampled_from(NAMES))
def test_every_name_matches_itself(name):
    """A name is a pattern that means only itself."""
    assert match_names(name, NAMES) == [name]


@given(st.text(alphabet="ab[]{}*?!-.\\^01,", max_size=12), st.text(alphabet="ab01.", max_size=5))
def test_any_text_is_a_pattern_or_a_clear_error(pattern, name):
    """A pattern never fails with anything but our own error, and a name equal to it matches."""
    try:
        assert set(match_names(pattern, [name])) <= {name}
    except CaptureError:
        assert "-" in pattern
    assert match_names(pattern, [pattern]) == [pattern]


def test_a_bad_regular_expression_says_so():
    """`re:` with a broken expression names it."""
    with pytest.raises(CaptureError, match=r"'re:\(' is not a valid regular expression"):
        match_names("re:(", NAMES)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("model.norm:out", HookPoint("model.norm", "out")),
        ("model.norm:in", HookPoint("model.norm", "in")),
        ("model.norm:grad_out", HookPoint("model.norm", "grad_out")),
        ("model.norm:grad_in[0]", HookPoint("model.norm", "grad_in", 0)),
        (":out", HookPoint("", "out")),
        ("a.b:out[1]", HookPoint("a.b", "out", 1)),
        ("a.b:out.logits", HookPoint("a.b", "out", field="logits")),
        ("a.b:in.mask[2]", HookPoint("a.b", "in", 2, field="mask")),
        ("a.b:out@0", HookPoint("a.b", "out", call=0)),
        ("a.b:out@*", HookPoint("a.b", "out", call="*")),
        ("a.*:out.x[1]@12", HookPoint("a.*", "out", 1, field="x", call=12)),
        ("re:a:b:in", HookPoint("re:a:b", "in")),
    ],
)
def test_raw_names_split_into_path_and_side(pattern, expected):
    """`PATH:side.field[i]@call` is taken apart, and its name is what was asked for."""
    path, point = split_side(pattern)
    assert point == expected
    assert path == expected.path
    assert str(point) == pattern


@pytest.mark.parametrize(
    "pattern", ["a:output", "a:out.1", "a:out[-1]", "a:out[x]", "a:out@", "a:out@-1", "a:out[1].x"]
)
def test_what_is_no_side_is_left_in_the_path(pattern):
    """A tail that is none of the sides is not half understood."""
    assert split_side(pattern) == (pattern, None)
