"""Keys as the sites that they mean, by what there is and what the runs say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazycache.cache.names.name_lookup import Names, resolve
from lazycache.errors import SiteNotFoundError

SITES = ["resid_out_2", "resid_out_10", "z_1", "encoder.resid_out_3", "head_values_L1H3", "0:out"]
PIECES = ["blocks.", "hook_", "resid_post", "resid_out", "z", "_L", "H", "-", ":grad", "1", "10"]


def test_without_a_count_the_last_layer_is_the_last_that_is_there() -> None:
    """Datasets whose runs do not say how many layers there are count those of the same name."""
    names = Names(SITES, "here")
    assert resolve(("resid_post", -1), names) == "resid_out_10"
    assert resolve("resid_out_-9", names) == "resid_out_2"
    assert resolve(("encoder.resid_post", -1), names) == "encoder.resid_out_3"
    assert resolve("z_L-1H0", names) == "z_L1H0"


def test_runs_of_different_depth_have_no_last_layer() -> None:
    """Two models in one dataset: -1 would be another layer in each."""
    names = Names(SITES, "here", [{"layers": {"": 11}}, {"layers": {"": 3}}, {}])
    with pytest.raises(SiteNotFoundError, match="models with 3 and 11 layers"):
        resolve(("resid_post", -1), names)
    assert resolve(("resid_post", 10), names) == "resid_out_10"


def test_what_is_there_comes_first() -> None:
    """An entry of that very name, or of TransformerLens' full name, is found before any other."""
    assert resolve("head_values_L1H3", Names(SITES, "here")) == "head_values_L1H3"
    lens = Names(["blocks.0.hook_resid_post", "blocks.0.attn.hook_rot_q:out"], "here")
    assert resolve(("resid_post", -1), lens) == "blocks.0.hook_resid_post"
    assert resolve(("rot_q", 0), lens) == "blocks.0.attn.hook_rot_q:out"
    assert resolve("0", Names(SITES, "here")) == "0:out"


def test_heads_are_found_where_they_can_be_cut() -> None:
    """A cache in memory has no heads to be cut, and says so as of any name that is missing."""
    assert resolve("z_L1H7", Names(SITES, "here")) == "z_L1H7"
    with pytest.raises(SiteNotFoundError):
        resolve("z_L1H7", Names(SITES, "here", headed=()))
    assert resolve("z_L1", Names(SITES, "here", headed=())) == "z_1"


@pytest.mark.parametrize(
    "info",
    [{}, {"layers": 3}, {"layers": {"": "3"}}, {"layers": {"": -1}}, {"sites": ["a"]},
     {"sites": {"z_1": 3}}, {"model": None}, {"model": {"config": []}}],
)  # fmt: skip
def test_what_runs_say_is_read_with_care(info: dict) -> None:
    """Provenance that is not as expected counts as not said."""
    names = Names(SITES, "here", [info])
    assert resolve(("resid_post", -1), names) == "resid_out_10"
    with pytest.raises(SiteNotFoundError):
        resolve("h.3", names)


@given(
    st.one_of(
        st.lists(st.sampled_from(PIECES), max_size=6).map("".join),
        st.tuples(st.sampled_from(PIECES), st.integers(-12, 12), st.none() | st.text(max_size=3)),
        st.text(max_size=8),
        st.integers(),
        st.lists(st.none() | st.text(max_size=2), max_size=4).map(tuple),
    )
)
def test_any_key_is_found_or_a_clear_error(key: object) -> None:
    """Whatever is asked for is the name of an entry or of a head of one, or a KeyError of ours."""
    names = Names(SITES, "here", [{"sites": {"z_1": "h.1:in heads 4/4x2"}}])
    try:
        found = resolve(key, names)
    except SiteNotFoundError as exc:
        found = str(exc)
    assert found in SITES or found.startswith("z_L1H") or "here" in found or "stored" in found
