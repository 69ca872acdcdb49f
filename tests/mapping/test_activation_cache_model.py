"""The cache against a perfect model: a dict of lists, concatenated when they are looked at."""

from functools import cache as once

import pytest
import torch
from cache_helpers import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from lazycache import ActivationCache, LazyTensor
from lazycache.storage.open_store import open_store

KEYS = ("a", "n", "t")


@once
def dataset(rows):
    """A dataset of one site, `a`: a row of two units for each of its examples."""
    made = Dataset(open_store(f"memory://model-{rows}", create=True, storage_options=None))
    made.commit([(i, 1) for i in range(rows)], {"a": numbers(rows)}, table="examples")
    return made


def numbers(rows, units=2):
    return torch.arange(float(rows * units)).reshape(rows, units) + rows


class Batch:
    """A cache and what it is to be, by key; its `a` is stored or in memory."""

    def __init__(self, rows, number, units, *, stored):
        self.values = {"a": numbers(rows), "n": number, "t": numbers(rows, units)}
        others = {key: self.values[key] for key in ("n", "t")}
        if stored:
            self.cache = ActivationCache(others, stored=dataset(rows).cache().stored)
        else:
            self.cache = ActivationCache(self.values)


class Model:
    """What the cache is to be: every value that was put under a key, in order."""

    def __init__(self):
        self.parts = {}
        self.left = []

    def values(self):
        return {key: self.value(key) for key in self.parts}

    def cat(self, values):
        if self.parts and set(self.parts) != set(values):
            raise ValueError
        kinds = [type(part) for part in self.parts.get("n", [])]
        if kinds and "n" in values and type(values["n"]) not in kinds:
            raise ValueError
        for key, value in values.items():
            self.parts.setdefault(key, []).append(value)

    def update(self, values):
        self.parts.update({key: [value] for key, value in values.items()})

    def value(self, key):
        parts = self.parts[key]
        if len(parts) == 1:
            return parts[0]
        alike = key == "a" or (key == "t" and len({part.shape[1:] for part in parts}) == 1)
        return torch.cat(parts) if alike else list(parts)


batches = st.builds(
    Batch,
    st.integers(1, 3),
    st.integers(0, 9) | st.sampled_from("xy"),
    st.sampled_from([2, 2, 2, 3]),
    stored=st.booleans(),
)
keys = st.sampled_from(KEYS)
steps = st.one_of(
    st.tuples(st.just("cat"), st.lists(batches, min_size=1, max_size=1)),
    st.tuples(st.just("deferred"), st.lists(batches, max_size=3)),
    st.tuples(st.just("update"), st.lists(batches, min_size=1, max_size=1)),
    st.tuples(st.just("add"), st.lists(batches, min_size=1, max_size=1)),
    st.tuples(st.just("read"), keys),
    st.tuples(st.just("set"), keys),
    st.tuples(st.just("delete"), keys),
    st.tuples(st.sampled_from(["copy", "double"]), st.none()),
)


def plain(value):
    return value.load() if isinstance(value, LazyTensor) else value


def take(cache, model, step, what):
    """Do one step on both; give the cache that goes on, and the error of each."""
    if step in ("cat", "deferred"):
        before = {key: list(parts) for key, parts in model.parts.items()}
        theirs = pytest.raises(ValueError) if fails(model, what) else None
        if theirs is not None:
            model.parts = before
            with theirs:
                joined(cache, step, what)
        else:
            joined(cache, step, what)
    elif step == "update":
        cache.update(what[0].cache)
        model.update(what[0].values)
    elif step == "add":
        cache = cache + what[0].cache
        model.update(what[0].values)
    elif step == "copy":
        model.left.append((cache, model.values()))
        cache = cache.copy()
    elif step == "double":
        cache.cat(cache)
        model.parts = {key: parts * 2 for key, parts in model.parts.items()}
    else:
        on_key(cache, model, step, what)
    return cache


def fails(model, given):
    try:
        for batch in given:
            model.cat(batch.values)
    except ValueError:
        return True
    return False


def joined(cache, step, given):
    if step == "cat":
        cache.cat(given[0].cache)
        return
    with cache.deferred_mode():
        for batch in given:
            cache.cat(batch.cache)


def on_key(cache, model, step, key):
    if step == "set":
        cache[key] = {"n": 5, "a": numbers(1), "t": numbers(1)}[key]
        model.update({key: cache[key]})
    elif key not in model.parts:
        with pytest.raises(KeyError):
            cache.pop(key)
    elif step == "read":
        assert cache[key] is not None
    else:
        del cache[key]
        del model.parts[key]


def check(cache, model):
    """Same keys in the same order, and equal values; also as `==` and `in` see it."""
    assert list(cache) == list(model.parts)
    assert (len(cache), bool(cache)) == (len(model.parts), bool(model.parts))
    for key in KEYS:
        assert (key in cache) is (key in model.parts)
    for key in model.parts:
        found, expected = plain(cache[key]), model.value(key)
        assert type(found) is type(expected)
        same = map(torch.equal, found, expected) if key == "t" and isinstance(found, list) else None
        if same is not None:
            assert len(found) == len(expected)
            assert all(same)
        elif isinstance(expected, torch.Tensor):
            assert torch.equal(found, expected)
        else:
            assert found == expected


@settings(max_examples=150, deadline=None)
@given(st.lists(steps, max_size=12), st.booleans())
def test_any_sequence_of_operations_is_that_of_the_model(sequence, look):
    """Stored, in memory and mixed; reading in between (or not) changes nothing; errors neither."""
    cache, model = ActivationCache(), Model()
    for step, what in sequence:
        cache = take(cache, model, step, what)
        if look:
            check(cache, model)
    check(cache, model)
    assert cache == model.values()
    # nothing reaches what was copied, or what was given
    assert all(left == values for left, values in model.left)
    for step, what in sequence:
        if step in ("cat", "deferred", "update", "add"):
            assert all(batch.cache == batch.values for batch in what)
