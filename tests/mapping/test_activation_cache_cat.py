"""`cat`, `deferred_mode` and strategies: what easyroutine promises, without what it corrupts."""

import operator

import numpy as np
import pytest
import torch

from lazycache import ActivationCache
from lazycache.samples import pattern_cache, small_cache


def cache_of(**entries):
    return ActivationCache(entries)


def catted(*values):
    """The value of a key after one `cat` for each, beginning with an empty cache."""
    cache = ActivationCache()
    for value in values:
        cache.cat(cache_of(k=value))
    return cache["k"]


def test_tensors_are_concatenated_along_the_first_dimension():
    """Also single numbers, which are stacked, however many there are."""
    assert torch.equal(
        catted(torch.tensor([1, 2]), torch.tensor([1, 4])), torch.tensor([1, 2, 1, 4])
    )
    assert catted(*[torch.zeros(2, 3)] * 3).shape == (6, 3)
    assert catted(*map(torch.tensor, [1, 2, 3])).tolist() == [1, 2, 3]
    assert catted(torch.tensor(1), torch.tensor([2, 3])).tolist() == [1, 2, 3]
    assert catted(torch.ones(1).bfloat16(), torch.ones(1)).dtype == torch.float32
    assert catted(*[torch.ones(2, 2).to(torch.float8_e5m2)] * 2).dtype == torch.float8_e5m2
    assert catted(torch.ones(1, requires_grad=True), torch.ones(1)).requires_grad


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2, 4], [1, 2, 4]),  # there: their sum, 7
        ([True, False], [True, False]),  # there: 1
        (["a", "b", "c"], ["a", "b", "c"]),  # there: "abc"
        ([1, None, 2.5], [1, None, 2.5]),
        ([None, None], [None, None]),
        ([[1], [2, 3], []], [1, 2, 3]),
        ([[1], 2, [3]], [1, 2, 3]),
        ([1, [2]], [1, 2]),
        ([(1, 2), (3,)], [(1, 2), (3,)]),
        ([[(1,)], (2,)], [(1,), (2,)]),
        ([{"a": 1}, {"a": 2}], [{"a": 1}, {"a": 2}]),
        ([np.ones(2), np.zeros(1)], np.array([1.0, 1, 0])),  # there: added up
        ([np.float32(1), 2], [np.float32(1), 2]),
        ([b"a", b"b"], [b"a", b"b"]),
    ],
)
def test_other_values_are_collected_and_never_added_up(values, expected):
    """Whatever `+` would do: lists are extended, everything else is gathered in order."""
    assert cache_of(k=catted(*values)) == {"k": expected}


@pytest.mark.parametrize("read", [False, True])
@pytest.mark.parametrize(
    "shapes", [[(2, 3, 4), (1, 2, 4), (1, 3, 4)], [(2, 3, 4), (1, 3, 4), (1, 2, 4)], [(2,), (2, 2)]]
)
def test_tensors_of_other_trailing_shapes_become_a_list_of_the_batches(shapes, read):
    """One entry for each batch as it came, in any order of shapes, read in between or not."""
    batches = [torch.rand(shape) for shape in shapes]
    cache = ActivationCache()
    for batch in batches:
        cache.cat(cache_of(k=batch))
        if read:
            _ = cache["k"]
    assert [part.shape for part in cache["k"]] == [batch.shape for batch in batches]
    assert all(map(torch.equal, cache["k"], batches))


@pytest.mark.parametrize(
    "values",
    [
        (torch.tensor([2**53 + 1]), torch.ones(1)),
        (torch.ones(1).to(torch.float8_e5m2), torch.ones(1)),
        (torch.ones(2, 2).to_sparse(), torch.ones(2, 2)),
        (torch.ones(1, device="meta"), torch.ones(1)),
        (np.array([2**53 + 1]), np.ones(1)),
        (np.ones((2, 2)), np.ones((2, 3))),
    ],
)
def test_what_cannot_be_concatenated_without_loss_is_kept_apart(values):
    """Ids are not rounded to floats; layouts and devices are not mixed."""
    found = catted(*values)
    assert [type(x) for x in found] == [type(x) for x in values]
    assert [x.dtype for x in found] == [x.dtype for x in values]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (torch.ones(2), 3),  # there: broadcast
        (torch.ones(2), None),
        (torch.ones(2), np.ones(2)),
        (1, "a"),
        ([1], "a"),
        ([torch.ones(1)], [1][0]),
        ({"a": 1}, [3]),
        ((1,), 1),
        ([1, None], "a"),
    ],
)
def test_kinds_that_do_not_belong_together_are_an_error_that_changes_nothing(old, new):
    """It names the key, and no other key was joined either."""
    cache = cache_of(first=torch.ones(1), k=old)
    with pytest.raises(ValueError, match="'k'"):
        cache.cat(cache_of(first=torch.ones(1), k=new))
    assert cache["k"] is old
    assert cache["first"].shape == (1,)


def test_an_empty_cache_takes_the_entries_of_the_other():
    """With what is shared; `f(old, new)` is called with None first, `f(values)` is not."""
    calls = []
    cache, x = ActivationCache(), torch.ones(2)
    cache.register_aggregation("pair", lambda old, new: calls.append((old, new)) or new)
    cache.register_aggregation("values", lambda values: calls.append(values) or 0)
    cache.cat(cache_of(x=x, pair=1, values=2))
    assert cache["x"] is x
    assert calls == [(None, 1)]
    assert (cache["values"], list(cache)) == (2, ["x", "pair", "values"])
    cache.cat(cache_of(x=x, pair=3, values=4))
    assert calls == [(None, 1), (1, 3), [2, 4]]


def test_other_keys_are_a_mismatch_that_names_both_and_changes_nothing():
    """In either direction, also for an empty cache that is given."""
    cache = cache_of(a=1, b=2)
    for other in (cache_of(a=1, c=3), cache_of(a=1), ActivationCache()):
        with pytest.raises(
            ValueError, match=r"^Key mismatch: self has \{'a', 'b'\}, external has "
        ):
            cache.cat(other)
        assert dict(cache) == {"a": 1, "b": 2}
    with pytest.raises(ValueError, match=r"missing here: \{'c'\}"):
        cache.cat(cache_of(a=1, b=2, c=3))
    empty = ActivationCache()
    assert empty.cat(ActivationCache()) is None
    assert not empty


@pytest.mark.parametrize("other", [{"a": 1}, None, [1]])
def test_only_caches_are_joined(other):
    """Anything else is a TypeError, at once inside `deferred_mode` too."""
    cache = cache_of(a=1)
    with pytest.raises(TypeError, match="ActivationCache"):
        cache.cat(other)
    with pytest.raises(TypeError), cache.deferred_mode():
        cache.cat(other)
    assert cache["a"] == 1


def test_a_strategy_that_fails_changes_nothing():
    """Its error comes out (it was swallowed into lists), and earlier keys are as they were."""
    cache = cache_of(a=1, b=2)
    cache.register_aggregation("b", lambda _old, _new: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cache.cat(cache_of(a=1, b=2))
    assert dict(cache) == {"a": 1, "b": 2}


def test_a_cache_is_joined_to_itself():
    """It doubles, of whatever it is made."""
    cache = small_cache()
    cache["n"] = [1]
    cache.cat(cache)
    assert cache["resid_out_0"].lengths.tolist() == [2, 3, 1, 2, 3, 1]
    assert cache["n"] == [1, 1]


def test_a_cat_does_not_look_at_what_was_joined_before():
    """It costs the same behind many parts as behind one: 8,000 batches took 8 s."""

    class Seen(list):
        looked = 0

        def __iter__(self):
            Seen.looked += 1
            return super().__iter__()

    cache = cache_of(x=torch.ones(1, 2))
    parts = cache.segments["x"]._parts = Seen([torch.ones(1, 2)] * 3)
    cache.cat(cache_of(x=torch.ones(1, 2)))
    assert (Seen.looked, len(parts)) == (0, 4)
    assert cache["x"].shape == (4, 2)


def test_parts_are_joined_once_and_let_go():
    """Nothing is copied until it is read; then the parts are views of the one copy."""
    parts = [torch.rand(10, 4) for _ in range(50)]
    cache = ActivationCache()
    for part in parts:
        cache.cat(cache_of(k=part))
    assert all(kept is part for kept, part in zip(cache.segments["k"].parts, parts, strict=True))
    whole = cache["k"]
    assert torch.equal(whole, torch.cat(parts))
    assert cache["k"] is whole
    assert {p.untyped_storage().data_ptr() for p in cache.segments["k"].parts} == {
        whole.untyped_storage().data_ptr()
    }


def test_the_strategy_that_was_registered_first_is_used():
    """By prefix, before longer ones; `resid_out_1` also takes `resid_out_10`."""
    cache = cache_of(resid_out_1=1, resid_out_10=1, other=1)
    cache.register_aggregation("resid_out_1", max)
    cache.register_aggregation("resid_out_10", min)
    cache.register_aggregation("", sum)
    cache.cat(cache_of(resid_out_1=2, resid_out_10=2, other=2))
    assert dict(cache) == {"resid_out_1": 2, "resid_out_10": 2, "other": 3}
    cache.remove_aggregation("resid_out_1")
    cache.remove_aggregation("resid_out_1")  # not there: no error
    cache.cat(cache_of(resid_out_1=0, resid_out_10=0, other=0))
    assert dict(cache) == {"resid_out_1": 2, "resid_out_10": 0, "other": 3}


def test_strategies_for_one_key_and_for_a_pattern():
    """`exact=` and `regex=` take what a prefix could not tell apart."""
    cache = cache_of(resid_out_1=1, resid_out_10=1)
    cache.register_aggregation("resid_out_1", max, exact=True)
    cache.register_aggregation(r"resid_out_\d", min, regex=True)
    cache.cat(cache_of(resid_out_1=2, resid_out_10=2))
    assert dict(cache) == {"resid_out_1": 2, "resid_out_10": [1, 2]}
    cache.remove_aggregation("resid_out_1", exact=True)
    cache.cat(cache_of(resid_out_1=0, resid_out_10=0))
    assert cache["resid_out_1"] == 0


@pytest.mark.parametrize(
    ("prefix", "function", "options", "error"),
    [
        (3, max, {}, TypeError),
        ("x", 3, {}, TypeError),
        ("x", lambda a, b, c: (a, b, c), {}, TypeError),
        ("(", max, {"regex": True}, ValueError),
        ("x", max, {"regex": True, "exact": True}, ValueError),
    ],
)
def test_strategies_that_could_not_be_used_are_refused(prefix, function, options, error):
    """When they are registered, not when a batch is lost."""
    with pytest.raises(error):
        ActivationCache().register_aggregation(prefix, function, **options)


def test_functions_of_either_arity_are_told_apart():
    """By the arguments they need; those of torch, which do not say, get a list."""
    cache = cache_of(a=torch.ones(2), b=1, c=[1])
    cache.register_aggregation("a", torch.stack)
    cache.register_aggregation("b", operator.sub)
    cache.register_aggregation("c", lambda values, reverse=True: values[::-1] if reverse else 0)
    cache.cat(cache_of(a=torch.ones(2), b=3, c=[2]))
    assert cache["a"].shape == (2, 2)
    assert (cache["b"], cache["c"]) == (-2, [[2], [1]])


def test_built_in_strategies():
    """`mapping_index` keeps the first, `offset` and `token_dict` gather, `last_layernorm` joins."""
    cache = ActivationCache()
    for i in range(3):
        norm = {"mean": torch.full((1, 2), float(i)), "variance": torch.ones(1, 2)}
        cache.cat(
            cache_of(
                mapping_index={"last": [i]},
                offset=[i],
                token_dict={"last": [i]},
                last_layernorm=norm,
                input_ids=torch.tensor([[i]]),
                pattern_L1H2=torch.ones(1, 2 + i, 2 + i),
            )
        )
    assert cache["mapping_index"] == {"last": [0]}
    assert cache["offset"] == [0, 1, 2]
    assert cache["token_dict"] == [{"last": [0]}, {"last": [1]}, {"last": [2]}]
    assert cache["last_layernorm"]["mean"][:, 0].tolist() == [0, 1, 2]
    assert cache["input_ids"].tolist() == [[0], [1], [2]]
    assert len(cache["pattern_L1H2"]) == 3
    with pytest.raises(ValueError, match="last_layernorm"):
        cache.cat(cache_of(**{**dict(cache), "last_layernorm": {"mean": torch.ones(1, 2)}}))
    assert len(cache["offset"]) == 3
    plain = cache_of(last_layernorm=torch.ones(1, 2))
    plain.cat(plain)
    assert plain["last_layernorm"].shape == (2, 2)


def test_values_with_info_keep_the_oldest():
    """Their values are joined; the info is that of the first that has one."""
    cache = ActivationCache()
    cache.add_with_info("x", torch.ones(1, 2), "old")
    other = ActivationCache()
    other.add_with_info("x", torch.zeros(2, 2), "new")
    cache.cat(other)
    cache.cat(cache_of(x=torch.ones(1, 2)))
    assert cache["x"].info() == "old"
    assert cache["x"].shape == (4, 2)
    plain = cache_of(x=torch.ones(1, 2))
    plain.cat(other)
    assert plain["x"].info() == "new"


@pytest.mark.parametrize("start", [{}, {"x": torch.zeros(1, 2), "n": 0, "s": 5}])
def test_deferred_joining_gives_what_joining_at_once_does(start):
    """Once, at the end, in order; `f(values)` is called once with all values."""
    batches = [{"x": torch.full((1, 2), float(i)), "n": i, "s": i} for i in range(1, 5)]
    calls, once, deferred = [], ActivationCache(start), ActivationCache(start)
    for cache in (once, deferred):
        cache.register_aggregation("s", lambda values: calls.append(list(values)) or sum(values))
    for batch in batches:
        once.cat(ActivationCache(batch))
    calls.clear()
    with deferred.deferred_mode() as given:
        assert given is deferred
        for batch in batches:
            deferred.cat(ActivationCache(batch))
        assert deferred == start
    assert deferred == once
    assert calls == [([5] if start else []) + [1, 2, 3, 4]]


def test_an_exception_drops_what_waits():
    """The cache is as it was, and works on."""
    cache = cache_of(n=1)
    with pytest.raises(KeyError), cache.deferred_mode():
        cache.cat(cache_of(n=2))
        raise KeyError
    assert cache["n"] == 1
    cache.cat(cache_of(n=3))
    assert cache["n"] == [1, 3]


def test_deferred_blocks_nest():
    """The inner one hands over to the outer; if it fails, only what waits in it is dropped."""
    cache = cache_of(n=0)
    with cache.deferred_mode():
        cache.cat(cache_of(n=1))
        with cache.deferred_mode():
            cache.cat(cache_of(n=2))
        assert cache["n"] == 0
        with pytest.raises(KeyError), cache.deferred_mode():
            cache.cat(cache_of(n=9))
            raise KeyError
        cache.cat(cache_of(n=3))
    assert cache["n"] == [0, 1, 2, 3]


def test_what_waits_is_what_was_given():
    """Changing a cache after it was given changes nothing; other keys are refused at once."""
    cache, batch = ActivationCache(), cache_of(n=1)
    with cache.deferred_mode():
        cache.cat(batch)
        batch["n"] = 7
        with pytest.raises(ValueError, match="Key mismatch"):
            cache.cat(cache_of(m=1))
        cache.cat(batch)
    assert cache["n"] == [1, 7]


def test_an_error_at_the_end_of_a_deferred_block_changes_nothing():
    """All batches are joined, or none."""
    cache = cache_of(a=[0], n=0)
    with pytest.raises(ValueError, match="'n'"), cache.deferred_mode():
        cache.cat(cache_of(a=[1], n=1))
        cache.cat(cache_of(a=[2], n="two"))
    assert dict(cache) == {"a": [0], "n": 0}


def test_stored_and_in_memory_rows_are_one_lazy_tensor():
    """Batches of other lengths stay ragged with their identity, and nothing is read."""
    cache, more = small_cache(), torch.arange(20.0).reshape(2, 5, 2)
    whole = cache["resid_out_0"].padded()
    cache.cat(cache_of(resid_out_0=more))
    x = cache["resid_out_0"]
    cache.io.reset()
    assert x.lengths.tolist() == [2, 3, 1, 5, 5]
    assert cache.io.bytes == 0
    assert torch.equal(x[4].load(), more[1])
    assert torch.equal(x[1].load(), whole[1])


def test_heads_and_patterns_of_joined_datasets():
    """A head is joined as its site is; patterns too."""
    cache, one = pattern_cache(), pattern_cache()
    cache.cat(pattern_cache())
    assert cache["z_L0H1"].shape == (6, 3, 1)
    assert torch.equal(cache["z_L0H1"][4].load(), one["z_L0H1"][1].load())
    assert torch.equal(cache["pattern_0"][4].load(), one["pattern_0"][1].load())


def test_stored_rows_of_another_width_are_kept_apart():
    """Lazy tensors whose rows differ become a list, as tensors in memory do."""
    cache = small_cache()
    cache.cat(cache_of(resid_out_0=torch.ones(1, 2, 7)))
    lazy, other = cache["resid_out_0"]
    assert (lazy.shape, other.shape) == ((3, 3, 2), (1, 2, 7))


def test_default_aggregation_can_be_called():
    """With the old and the new value, or with a list of all."""
    default = ActivationCache().default_aggregation
    assert default(None, 3) == default([3]) == 3
    assert default([1, 2, 3]) == [1, 2, 3]
    assert default(torch.ones(1), torch.ones(2)).shape == (3,)
    with pytest.raises(ValueError, match="a tensor and a number"):
        default(torch.ones(1), 1)
    with pytest.raises(ValueError, match="no values"):
        default([])
