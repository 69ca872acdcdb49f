"""Patterns of keys: what they mean in a cache, in which order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazycache.cache.names.key_patterns import in_order, matching_keys
from lazycache.cache.names.name_lookup import Names
from lazycache.errors import SiteNotFoundError
from lazycache.samples import pattern_cache

THERE = [*(f"resid_out_{i}" for i in (10, 2, 0, 11, 1)), "mlp_act_3", "mlp_act_7", "logits", "z_1"]
NAMES = Names(THERE, "here")


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["resid_out_*"], [f"resid_out_{i}" for i in (0, 1, 2, 10, 11)]),
        (["resid_out_[2-10]"], ["resid_out_2", "resid_out_10"]),
        (["mlp_act_{3,7}"], ["mlp_act_3", "mlp_act_7"]),
        (["re:mlp.*|logits"], ["logits", "mlp_act_3", "mlp_act_7"]),
        (["resid_out_1?", "!*_11"], ["resid_out_10"]),
        (["z_1", "logits", "z_*"], ["logits", "z_1"]),
        ([["z_1", ("resid_post", -1)]], ["resid_out_11", "z_1"]),
        (["z_L1H0"], ["z_L1H0"]),
        ([], []),
    ],
)
def test_patterns_mean_names_in_numeric_order(patterns: list, expected: list[str]) -> None:
    """2 comes before 10, whatever the order of the cache; each name is there once."""
    assert matching_keys(patterns, NAMES) == expected


def test_names_that_were_listed_stay_in_their_order() -> None:
    """For a stack the patterns say the order, and each of them is numeric inside."""
    assert in_order(["z_1", "resid_out_{10,2}"], NAMES) == ["z_1", "resid_out_2", "resid_out_10"]


@given(st.permutations(range(0, 24, 3)), st.data())
def test_numeric_order_is_that_of_the_numbers(layers: list[int], data: st.DataObject) -> None:
    """However the cache is ordered, a pattern gives layers as sorted numbers."""
    names = Names([f"x_{layer}" for layer in layers], "here")
    first = data.draw(st.integers(0, 12))
    wanted = [layer for layer in sorted(layers) if first <= layer <= first + 11]
    if wanted:
        assert matching_keys([f"x_[{first}-{first + 11}]"], names) == [f"x_{n}" for n in wanted]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("resid_oot_*", "nothing in here fits 'resid_oot_\\*'. Nearest: resid_out_"),
        ("re:(", "'re:\\(' is not a valid regular expression"),
        ("x", "there is no site 'x' in here"),
        ("!x*", "nothing in here fits 'x\\*'"),
        (3, "there is no site 3"),
    ],
)
def test_a_pattern_that_fits_nothing_is_an_error(pattern: object, message: str) -> None:
    """It names the nearest names that there are."""
    with pytest.raises(SiteNotFoundError, match=message):
        matching_keys([pattern], NAMES)


def test_keys_of_a_cache_without_patterns_are_its_view() -> None:
    """`cache.keys()` is the live view of a mapping, `cache.keys(pattern)` a list."""
    cache = pattern_cache()
    assert cache.keys() == {"head_out_0", "pattern_0", "z_0"}
    assert not isinstance(cache.keys(), list)
    assert cache.keys("*_0", "!pattern_*") == ["head_out_0", "z_0"]
    assert cache.keys(["z_*", ("pattern", -1)]) == ["pattern_0", "z_0"]
    with pytest.raises(SiteNotFoundError, match="Nearest: z_0"):
        cache.keys("zz_*")
