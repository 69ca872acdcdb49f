"""lazycache.ActivationCache as a mapping: in memory, over a dataset, over several."""

import copy
import pickle
import threading
from collections import OrderedDict
from collections.abc import MutableMapping

import numpy as np
import pytest
import torch
from cache_helpers import Dataset, counting

import lazycache as lc
from lazycache import ActivationCache
from lazycache.errors import (
    LazycacheError,
    QueryError,
    SiteNotFoundError,
    StorageError,
    UnsupportedDtypeError,
)
from lazycache.samples import pattern_cache, small_cache
from lazycache.storage.open_store import open_store


def cache_of(**entries):
    return ActivationCache(entries)


def test_is_a_mutable_mapping_without_storage():
    """Length, iteration, membership, views and equality are those of a dict (they were absent)."""
    cache = cache_of(x=torch.ones(2), n=3)
    assert isinstance(cache, MutableMapping)
    assert (len(cache), list(cache), "x" in cache, "y" in cache) == (2, ["x", "n"], True, False)
    assert list(reversed(cache)) == ["n", "x"]
    assert not ActivationCache()
    assert ActivationCache().is_empty()
    assert not cache.is_empty()
    assert (cache.get("n"), cache.get("y"), cache.get("y", 7)) == (3, None, 7)
    assert cache == {"n": 3, "x": torch.ones(2)}
    assert (cache.setdefault("n", 9), cache.setdefault("m", 9), cache.pop("m")) == (3, 9, 9)
    assert cache.popitem() == ("n", 3)  # the last, as of a dict
    cache.clear()
    assert list(cache.items()) == []
    with pytest.raises(KeyError, match="empty"):
        cache.popitem()


def test_keys_are_live_and_in_the_order_of_insertion():
    """A view that was taken before sees later keys; setting again moves nothing."""
    cache = cache_of(b=1, a=2)
    keys = cache.keys()
    cache["c"], cache["b"] = 3, 4
    assert list(keys) == ["b", "a", "c"]
    del cache["b"]
    cache["b"] = 5
    assert list(keys) == ["a", "c", "b"]


def test_a_missing_key_is_a_keyerror_that_names_the_nearest():
    """Also in memory, for reading and for deleting; a pattern is told apart."""
    cache = cache_of(resid_out_3=1)
    for act in (lambda: cache["resid_ot_3"], lambda: cache.pop("resid_ot_3")):
        with pytest.raises(SiteNotFoundError, match=r"Nearest: resid_out_3"):
            act()
    with pytest.raises(KeyError, match=r"'resid_ot_3' to delete\. Nearest: resid_out_3"):
        del cache["resid_ot_3"]
    with pytest.raises(KeyError, match="another name"):
        del cache["resid_post", 3]
    with pytest.raises(KeyError, match=r"cache\.stack\('resid_out_\*'\)"):
        cache["resid_out_*"]
    assert cache.pop("resid_ot_3", None) is None


@pytest.mark.parametrize("key", [3, None, ("fwd", "x"), b"x"])
def test_keys_are_strings(key):
    """Another type is refused where it is set, by name; where it is looked up, it is not there."""
    cache = cache_of(x=1)
    for act in (cache.__setitem__, lambda k, v: cache.update({"y": v, k: v})):
        with pytest.raises(TypeError, match=type(key).__name__):
            act(key, 1)
    with pytest.raises(TypeError, match="strings"):
        ActivationCache({key: 1})
    assert key not in cache
    assert list(cache) == ["x"]


def test_text_lists_keys_and_never_numbers():
    """`repr` has the keys in backticks, `str` shapes and dtypes, however much there is."""
    cache = small_cache()
    cache["big"] = torch.zeros(1000, 1000)
    cache["ids"] = [1, 2]
    cache["text"] = "x" * 10_000
    cache["stats"] = {"mean": np.zeros(2, np.float16), "deep": {"er": 1}}
    cache.add_with_info("noted", torch.ones(2), "why")
    cache["grown"] = torch.ones(1, 2)
    assert repr(cache) == (
        "ActivationCache(`resid_out_0`, `big`, `ids`, `text`, `stats`, `noted`, `grown`)"
    )
    assert str(cache).splitlines() == [
        "ActivationCache(",
        "  resid_out_0: [3, ≤3, 2] float32",
        "  big: [1000, 1000] float32",
        "  ids: list of 2 int",
        f"  text: '{'x' * 36}...",
        "  stats: {mean: [2] float16, deep: dict of 1}",
        "  noted: [2] float32, with info",
        "  grown: [1, 2] float32",
        ")",
    ]
    assert cache.io.bytes == 0
    assert "pattern_0: [3, 2, ≤3, keys] float32" in str(pattern_cache())


def test_text_of_what_waits_to_be_joined_copies_nothing():
    """The shape after `cat` is shown before anything is concatenated."""
    cache = cache_of(x=torch.ones(2, 3))
    cache.cat(cache_of(x=torch.ones(4, 3)))
    assert "x: [6, 3] float32" in str(cache)
    assert len(cache.segments["x"].parts) == 2
    assert cache.segments["x"].pending_shape()


def test_adding_makes_a_new_cache_in_which_the_right_side_wins():
    """With a cache or a dict, from either side; tensors are shared, strategies are kept."""
    a, b = cache_of(x=1, y=2), cache_of(y=3, z=4)
    a.register_aggregation("x", max)
    b.register_aggregation("z", min)
    both = a + b
    assert list(both.items()) == [("x", 1), ("y", 3), ("z", 4)]
    assert (a + {"y": 5})["y"] == 5
    assert ({"y": 5} + a)["y"] == 2
    assert list({"w": 0} + a) == ["w", "x", "y"]
    assert (a, b) == (cache_of(x=1, y=2), cache_of(y=3, z=4))
    both.cat(cache_of(x=7, y=3, z=9))
    assert (both["x"], both["y"], both["z"]) == (7, [3, 3], 4)
    added = a
    added += b
    assert added is not a


def test_sum_of_caches_and_union():
    """`sum([...])`, `|`, `|=` are `+` and `update`."""
    parts = [cache_of(a=1), cache_of(b=2), cache_of(a=3)]
    assert dict(sum(parts)) == {"a": 3, "b": 2}
    assert dict(parts[0] | parts[1]) == {"a": 1, "b": 2}
    assert dict({"a": 9, "b": 0} | parts[0]) == {"a": 1, "b": 0}
    kept = parts[0]
    kept |= {"c": 4}
    assert kept is parts[0]
    assert dict(kept) == {"a": 1, "c": 4}


@pytest.mark.parametrize("other", [[("a", 1)], None, 3, "x"])
def test_what_is_neither_cache_nor_dict_is_not_added(other):
    """The texts are easyroutine's; a list of pairs is refused; nothing is changed."""
    cache = cache_of(a=0)
    for act in (lambda: cache + other, lambda: other + cache):
        with pytest.raises(
            TypeError, match=r"Can only add ActivationCache or dict objects\.|concat"
        ):
            act()
    with pytest.raises(
        TypeError, match=r"^Can only update with dict or ActivationCache objects\.$"
    ):
        cache.update(other)
    with pytest.raises(TypeError):
        cache | other
    assert dict(cache) == {"a": 0}


def test_update_overwrites_in_place_and_takes_a_base_from_a_subclass():
    """No aggregation; a subclass updates from, adds and cats a base cache."""

    class Mine(ActivationCache):
        pass

    mine = Mine({"a": torch.ones(2)})
    assert mine.update(cache_of(a=1)) is None
    assert mine["a"] == 1
    mine.cat(cache_of(a=2))
    assert mine["a"] == [1, 2]
    assert type(mine + {"b": 1}) is type(mine.copy()) is Mine


def test_a_copy_is_changed_on_its_own():
    """Keys, joined values and strategies (easyroutine's shallow copy shares the dict of these)."""
    cache = cache_of(x=torch.ones(1, 2))
    other, deep = copy.copy(cache), copy.deepcopy(cache)
    other.register_aggregation("x", lambda values: values[0])
    other["y"] = 1
    cache.cat(cache_of(x=torch.zeros(1, 2)))
    assert list(cache) == ["x"]
    assert cache["x"].shape == (2, 2)
    assert other["x"].shape == (1, 2)
    assert other["x"].data_ptr() != deep["x"].data_ptr()
    deep["x"].zero_()
    assert other["x"].sum() == 2


def test_a_cache_pickles_with_its_strategies():
    """After a round trip `cat` does what it did: no sum of ids, no lost built-in strategy."""
    cache = cache_of(
        input_ids=torch.tensor([[1]]), last_layernorm={"mean": torch.ones(1, 2)}, offset=[1]
    )
    cache.register_aggregation("note", max)
    cache["note"] = 3
    again = pickle.loads(pickle.dumps(cache))
    assert again == cache
    again.cat(
        cache_of(
            input_ids=torch.tensor([[2]]),
            last_layernorm={"mean": torch.zeros(1, 2)},
            offset=[2],
            note=1,
        )
    )
    assert again["input_ids"].tolist() == [[1], [2]]
    assert again["last_layernorm"]["mean"].shape == (2, 2)
    assert (again["offset"], again["note"]) == ([1, 2], 3)


def test_pickling_what_was_joined_takes_its_bytes_once():
    """Parts that are views of the joined tensor do not each carry it along."""
    cache = ActivationCache()
    for _ in range(20):
        cache.cat(cache_of(x=torch.ones(10, 100)))
    assert cache["x"].shape == (200, 100)
    assert len(pickle.dumps(cache)) < 2 * 200 * 100 * 4
    assert pickle.loads(pickle.dumps(cache)) == cache


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        (torch.tensor([1.0, float("nan")]), torch.tensor([1.0, float("nan")]), True),
        (torch.ones(2), torch.ones(3), False),
        (torch.ones(2), torch.ones(2).double(), False),
        (torch.ones(2), torch.tensor([1.0, 2.0]), False),
        (torch.ones(2), np.ones(2, np.float32), False),
        (torch.ones(2).to(torch.float8_e4m3fn), torch.ones(2).to(torch.float8_e4m3fn), True),
        (np.array([1, np.nan]), np.array([1, np.nan]), True),
        (np.ones(2), np.ones(2, np.float32), False),
        ([torch.ones(2), "a"], [torch.ones(2), "a"], True),
        ([torch.ones(2)], (torch.ones(2),), False),
        ({"m": (1, None)}, OrderedDict(m=(1, None)), True),
        ({"m": 1}, {"n": 1}, False),
        (float("nan"), float("nan"), True),
        (torch.ones(2, 2).to_sparse(), torch.ones(2, 2).to_sparse(), True),
        (3, "3", False),
        (None, torch.ones(1), False),
    ],
)
def test_equality_compares_values_by_kind(a, b, equal):
    """Shape, dtype and numbers, NaN equal to NaN, never an ambiguous truth value."""
    assert (cache_of(k=a) == cache_of(k=b)) is equal
    assert (cache_of(k=b) != {"k": a}) is not equal
    assert cache_of(k=a) != cache_of(k=a, j=1)
    assert cache_of(k=a) != [a]


def test_equality_of_info():
    """The note is compared too, and a value with info is none without."""
    one, two, three = ActivationCache(), ActivationCache(), ActivationCache()
    one.add_with_info("x", torch.ones(2), "a")
    two.add_with_info("x", torch.ones(2), "b")
    three.add_with_info("x", torch.ones(2), "a")
    assert one == three
    assert one != two
    assert one != cache_of(x=torch.ones(2))


@pytest.fixture
def dataset():
    made = Dataset(open_store("memory://mapping", create=True, storage_options=None))
    sites = {f"resid_out_{i}": counting(5, 2) + i for i in (10, 2, 0)}
    made.commit([(0, 2), (1, 3)], sites)
    return made


def test_stored_caches_of_one_version_are_equal_without_reading(dataset):
    """The same sites are not read; other values are, up to the first difference."""
    a, b = dataset.cache(), dataset.cache()
    assert a == b
    assert a.io.bytes == b.io.bytes == 0
    other = Dataset(open_store("memory://mapping-2", create=True, storage_options=None))
    other.commit([(0, 2), (1, 3)], {f"resid_out_{i}": counting(5, 2) + i for i in (10, 2, 0)})
    c = other.cache()
    assert a == c
    assert c.io.bytes > 0
    c["resid_out_2"] = c["resid_out_0"]
    assert a != c


def test_a_stored_tensor_equals_the_same_in_memory():
    """A lazy tensor is compared with a torch tensor in blocks; a ragged one never equals one."""
    made = Dataset(open_store("memory://mapping-3", create=True, storage_options=None))
    values = counting(6, 2)
    made.commit([(0, 3), (1, 3)], {"s": values})
    cache = made.cache()
    assert cache == {"s": values.reshape(2, 3, 2)}
    assert cache != {"s": values.reshape(2, 3, 2) + 1}
    assert cache != {"s": values.reshape(3, 2, 2)}
    assert small_cache() != {"resid_out_0": small_cache()["resid_out_0"].padded()}
    assert pattern_cache() == pattern_cache()


def test_what_is_set_and_deleted_over_a_dataset_stays_in_memory(dataset):
    """Sites come first, what is set after them; a hidden site is there when it is reopened."""
    cache = dataset.cache()
    cache["note"] = "mine"
    cache["resid_out_2"] = 7
    del cache["resid_out_0"]
    assert list(cache) == ["resid_out_2", "resid_out_10", "note"]
    assert cache["resid_out_2"] == 7
    with pytest.raises(SiteNotFoundError):
        cache["resid_out_0"]
    assert cache.pop("resid_out_10").shape == (2, 3, 2)
    assert list(cache) == ["resid_out_2", "note"]
    assert len(dataset.cache()) == 3
    cache.clear()
    assert cache.is_empty()
    assert cache.version == 1


def test_heads_of_what_is_hidden_are_hidden():
    """A head is read of a site that is shown; a shadowed or deleted one has none."""
    cache = pattern_cache()
    assert "z_L0H1" in cache
    with pytest.raises(KeyError, match="part of what is there"):
        del cache["z_L0H1"]
    del cache["z_0"]
    assert "z_L0H1" not in cache
    cache["z_0"] = torch.ones(3, 2)
    with pytest.raises(SiteNotFoundError):
        cache["z_L0H1"]


def test_what_needs_a_dataset_says_what_to_do():
    """In memory and joined: attributes, SQL and `where` name the way out."""
    memory, joined = cache_of(x=1), small_cache()
    joined.cat(small_cache())
    for name in ("store", "snapshot", "url", "version", "sites", "reader"):
        with pytest.raises(LazycacheError, match=r"in memory.*lc\.open"):
            getattr(memory, name)
        with pytest.raises(LazycacheError, match=r"joins 2 datasets.*cache\.datasets\[0\]"):
            getattr(joined, name)
        # who looks whether it is there is told that it is not
        assert (hasattr(memory, name), hasattr(joined, name)) == (False, False)
        assert hasattr(small_cache(), name)
    with pytest.raises(QueryError, match=r"cache\.save\(url\)"):
        memory.sql("SELECT 1")
    with pytest.raises(QueryError, match=r"joins 2"):
        joined.sql("SELECT 1")
    twice = small_cache()
    twice.cat(twice)
    with pytest.raises(QueryError, match=r"joins 2"):
        twice.sql("SELECT 1")
    assert memory.io.bytes == 0
    with memory:
        pass


def test_io_of_a_joined_cache_is_the_sum():
    """It counts the reads of all datasets, and resets them all."""
    a, b = small_cache(), small_cache()
    single = small_cache()
    single["resid_out_0"].rows.load()
    a.cat(b)
    a["resid_out_0"].rows.load()
    assert a.io.rows == 12
    assert a.io.bytes == 2 * single.io.bytes
    assert (a.rows("resid_out_0"), a.stored_bytes("resid_out_0")) == (12, 96)
    a.io.reset()
    assert (a.io.rows, b.io.rows) == (0, 0)
    with pytest.raises(SiteNotFoundError, match="resid_out_0"):
        a.rows("resid_out_1")


def test_a_hundred_joined_caches_copy_nothing(tmp_path):
    """Joining reads no byte; reading one example reads that example."""
    made = Dataset(open_store("memory://hundred", create=True, storage_options=None))
    values = counting(400, 64)
    made.commit([(0, 200), (1, 200)], {"s": values}, chunk_rows=100, shard_rows=400)
    cache = made.cache()
    for _ in range(99):
        cache.cat(made.cache())
    x = cache["s"]
    assert (len(cache.datasets), tuple(x.shape), cache.io.bytes) == (100, (200, 200, 64), 0)
    assert cache["s"] is x
    assert torch.equal(x[151].load(), values[200:])
    assert 0 < cache.io.bytes <= 2 * 200 * 64 * 4
    cache.close()


def test_moving_is_in_place_everywhere_and_keeps_info():
    """Lists, tuples, dicts and values with info too; ids are not rounded; None is returned."""
    cache = cache_of(
        x=torch.ones(2),
        nested=[torch.ones(1), (torch.ones(1), {"a": torch.ones(1)}), "text"],
        ids=torch.tensor([300]),
        n=1.5,
    )
    cache.add_with_info("noted", torch.ones(2), "why")
    cache.cat(cache.copy())
    assert cache["x"].shape == (4,)
    assert cache.to(torch.bfloat16) is None
    assert cache.cpu() is None
    found = cache["nested"]
    assert {t.dtype for t in (cache["x"], found[0], found[1][0], found[4][1]["a"])} == {
        torch.bfloat16
    }
    assert cache["ids"].dtype == torch.int64
    assert cache["noted"].info() == "why"
    assert cache["noted"].dtype == torch.bfloat16
    cache.to("meta")
    assert cache["x"].device.type == cache["noted"].device.type == "meta"
    with pytest.raises(UnsupportedDtypeError, match="floating-point"):
        cache.to(torch.int64)


def test_an_error_while_moving_changes_nothing():
    """A value that cannot be moved leaves those before it as they were."""

    class Stuck:
        def to(self, target):
            raise RuntimeError(target)

    cache = cache_of(x=torch.ones(2), stuck=Stuck())
    with pytest.raises(RuntimeError):
        cache.to(torch.float16)
    assert cache["x"].dtype == torch.float32


def test_moving_a_stored_cache_says_how_later_loads_are():
    """Nothing is read; sites, heads and joined sites are loaded in the dtype that was set."""
    cache = pattern_cache()
    cache.to(torch.float64)
    assert cache.io.bytes == 0
    assert cache["z_0"].dtype == cache["z_L0H1"].dtype == cache["pattern_0"].dtype == torch.float64
    assert cache["z_0"].rows.load().dtype == torch.float64
    cache.cat(pattern_cache())
    cache.to(torch.float32)
    assert cache["z_0"].dtype == torch.float32


def test_several_datasets_at_once(dataset):
    """`stored=[...]` joins, as `cat` does; other sites are refused."""
    other = Dataset(open_store("memory://mapping-4", create=True, storage_options=None))
    other.commit([(0, 1)], {"else": counting(1, 2)})
    sites = dataset.cache().stored
    joined = ActivationCache({"n": 1}, stored=[sites, dataset.cache().stored])
    assert joined["resid_out_0"].shape == (4, 3, 2)
    assert joined["n"] == 1
    with pytest.raises(ValueError, match="Key mismatch"):
        ActivationCache(stored=[sites, other.cache().stored])


def test_what_was_saved_beside_the_sites_is_read_when_it_is_asked_for(tmp_path):
    """It comes after the sites, stays as it was changed, joins, and can be hidden."""
    cache = small_cache()
    cache["labels"], cache["scale"] = ["a", "b"], torch.ones(2, 3)
    cache.save(tmp_path / "saved")
    again = lc.open(tmp_path / "saved")
    assert list(again) == ["resid_out_0", "labels", "scale"]
    assert again.io.bytes == 0
    assert "scale: [2, 3] float32" in str(again)
    again["labels"].append("c")
    again.cat(cache)
    assert again["labels"] == ["a", "b", "c", "a", "b"]
    assert torch.equal(again["scale"].load(), torch.ones(4, 3))
    assert again["resid_out_0"].shape == (6, 3, 2)
    del again["labels"]
    assert "labels" not in again
    assert lc.open(tmp_path / "saved")["labels"] == ["a", "b"]


def test_what_was_closed_is_read_no_more(tmp_path):
    """Not by SQL, a condition or a value beside the sites either, nor through a restriction."""
    small_cache().save(tmp_path / "saved")
    cache = lc.open(tmp_path / "saved")
    cache["scale"] = torch.ones(2)
    cache.persist("scale")
    cache = lc.open(tmp_path / "saved")
    part = cache.where("position > 0")
    x = cache["resid_out_0"]
    cache.close()
    for read in (
        lambda: cache.sql("SELECT 1"),
        lambda: cache.where("position > 0"),
        lambda: cache["scale"],
        lambda: x.column("position"),
        lambda: part.sql("SELECT 1"),
        part["resid_out_0"].rows.load,
    ):
        with pytest.raises(StorageError, match="was closed: open it again"):
            read()


def test_threads_that_read_at_once_get_the_same_value():
    """Joining happens once, whoever comes first."""
    cache = ActivationCache()
    for _ in range(8):
        cache.cat(cache_of(x=torch.rand(1000, 64)))
    found = []
    threads = [threading.Thread(target=lambda: found.append(cache["x"])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(x) for x in found}) == 1
    assert found[0].shape == (8000, 64)
