"""Caches are known by what they can do and by their identity, and never kept alive."""

import gc

import pytest
import torch
from transformers import DynamicCache, MambaConfig, MambaModel

from lazycache.capture.generation.continuation import (
    KnownCaches,
    asks_for_cache,
    cached_tokens,
    given_cache,
    refuse_continuation,
    returned_cache,
)
from lazycache.errors import CaptureError

KEYS = torch.zeros(1, 2, 3, 4)


def filled(tokens=3):
    """A cache of one layer that holds tokens."""
    cache = DynamicCache()
    cache.update(KEYS[:, :, :tokens], KEYS[:, :, :tokens], 0)
    return cache


@pytest.mark.parametrize(
    ("cache", "tokens"),
    [
        (None, 0),
        (DynamicCache(), 0),
        (filled(), 3),
        ((), 0),
        (((KEYS, KEYS),), 3),
        (((torch.zeros(2, 5, 4), torch.zeros(2, 5, 4)),), 5),
        ((None, None), 0),
        (object(), None),
    ],
)
def test_what_a_cache_holds(cache, tokens):
    """Caches of all ages say how many tokens they hold; what does not is unknown."""
    assert cached_tokens(cache) == tokens


def test_a_cache_of_states_has_no_length():
    """A model without attention gives a cache that counts nothing."""
    config = MambaConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, state_size=4)
    with torch.no_grad():
        output = MambaModel(config)(torch.ones(1, 3).long(), use_cache=True)
    assert cached_tokens(returned_cache(output)) is None


@pytest.mark.parametrize("cache", [filled(), ((KEYS, KEYS),)])
def test_a_forward_pass_that_continues_is_refused(cache):
    """With the number of tokens that are missing, and how to begin."""
    with pytest.raises(CaptureError, match="cache of 3 tokens whose beginning"):
        refuse_continuation({"past_key_values": cache})


@pytest.mark.parametrize(
    "named", [{}, {"past_key_values": None}, {"past_key_values": DynamicCache()}]
)
def test_a_beginning_is_not_refused(named):
    """No cache, and one that holds nothing, continue nothing."""
    refuse_continuation(named)


@pytest.mark.parametrize(
    ("named", "asks"),
    [
        ({}, False),
        ({"use_cache": True}, True),
        ({"use_cache": False, "past_key_values": DynamicCache()}, False),
        ({"past_key_values": DynamicCache()}, True),
        ({"past_key_values": ()}, False),
    ],
)
def test_who_asks_for_a_cache_may_continue(named, asks):
    """A caller that gives an empty cache, or says that one is wanted."""
    assert asks_for_cache(named) is asks


def test_caches_are_known_by_identity_and_may_die():
    """Another cache of equal contents is another one; knowing one does not keep it."""
    known, cache = KnownCaches(), filled()
    known.add([cache, None, ((KEYS, KEYS),)])
    assert cache in known
    assert filled() not in known
    assert None not in known
    del cache
    gc.collect()
    assert filled() not in known
    assert known._known[0]() is None


def test_caches_are_found_in_arguments_and_outputs():
    """Under the names that models of transformers use, and in plain tuples."""
    cache = filled()
    assert given_cache({"input_ids": KEYS, "cache_params": cache}) is cache
    assert returned_cache({"logits": KEYS, "past_key_values": cache}) is cache
    assert returned_cache((KEYS, cache)) is cache
    assert returned_cache((KEYS, KEYS)) is None
    assert returned_cache(KEYS) is None
