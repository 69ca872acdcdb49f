"""Sites of modules that one forward pass calls several times: rows call by call."""

import pytest
import torch
from cache_helpers import Dataset, counting, same_bits

from lazycache.errors import SelectionError
from lazycache.storage.open_store import open_store

LENGTHS = {0: 3, 1: 1, 2: 2}


@pytest.fixture
def dataset(tmp_path) -> Dataset:
    return Dataset(open_store(f"memory://{tmp_path}", create=True, storage_options=None))


def batch(dataset: Dataset, examples: list[int], calls: dict[str, int], start: int) -> dict:
    """One forward pass: tokens once, and the sites' rows call after call; return these by call."""
    extents = [(e, LENGTHS[e]) for e in examples]
    rows = sum(n for _, n in extents)
    dataset.commit(extents, {"embed": counting(rows, 2)})
    version = dataset.snapshot.version
    dataset.commit([(e, 1) for e in examples], {}, table="examples")
    most = max(calls.values())
    values = {
        site: (torch.arange(n * rows * 2) + start).float().reshape(n * rows, 2)
        for site, n in calls.items()
    }
    whole = {site: v for site, v in values.items() if calls[site] == most}
    dataset.commit(extents * most, whole, table="calls")
    for site, v in values.items():
        if site not in whole:
            covers = dataset.snapshot.version
            dataset.commit(extents * calls[site], {site: v}, table="calls", covers=covers,
                           add_rows=False)  # fmt: skip
    assert version
    return {
        site: [
            dict(zip(examples, part.split([n for _, n in extents]), strict=True))
            for part in v.split(rows)
        ]
        for site, v in values.items()
    }


def expected(batches: list[dict], site: str, call: int) -> dict[int, torch.Tensor]:
    found = {}
    for one in batches:
        calls = one[site]
        if -len(calls) <= call < len(calls):
            found.update(calls[call])
    return found


def test_rows_are_ordered_call_by_call(dataset: Dataset) -> None:
    """(examples, rows, *row): all rows of the first call of an example, then of the second."""
    batches = [
        batch(dataset, [2, 0], {"a": 3, "b": 2}, 0),
        batch(dataset, [1], {"a": 2, "b": 2}, 1000),
    ]
    x = dataset.cache()["a"]
    assert x.lengths.tolist() == [9, 2, 6]
    for example in LENGTHS:
        parts = [call[example] for one in batches for call in one["a"] if example in call]
        assert same_bits(x[example].load(), torch.cat(parts))


@pytest.mark.parametrize("call", [0, 1, 2, 3, -1, -2, -3, -4])
def test_one_call_is_a_lazy_tensor_of_its_own(dataset: Dataset, call: int) -> None:
    """`x.call(k)`: counted from the first, or from the last call of each example."""
    batches = [
        batch(dataset, [2, 0], {"a": 3, "b": 2}, 0),
        batch(dataset, [1], {"a": 2, "b": 2}, 1000),
    ]
    cache = dataset.cache()
    for site in ("a", "b"):
        x, want = cache[site].call(call), expected(batches, site, call)
        assert cache.io.bytes == 0
        assert x.lengths.tolist() == [LENGTHS[e] if e in want else 0 for e in LENGTHS]
        for example, values in want.items():
            assert same_bits(x[example].load(), values)
            assert same_bits(x[example, -1].load(), values[-1])
        if want:
            assert torch.allclose(x.mean("rows"), torch.cat(list(want.values())).double().mean(0))
            assert x.rows.shape[0] == sum(map(len, want.values()))
        cache.io.reset()


def test_calls_of_examples(dataset: Dataset) -> None:
    """Of a site with a row per example, a call is a row per example."""
    dataset.commit([(0, 1), (1, 1)], {"pooled": counting(2, 2)}, table="examples")
    values = counting(6, 2)
    dataset.commit([(0, 1), (1, 1)] * 3, {"a": values}, table="example_calls")
    x = dataset.cache()["a"]
    assert x.shape == (2, 3, 2)
    for call in range(3):
        assert same_bits(x.call(call)[:, 0].load(), values[2 * call : 2 * call + 2])


def test_selections_come_after_the_call(dataset: Dataset) -> None:
    """The rows of a call are known of whole sites of tables of calls only."""
    batch(dataset, [2, 0], {"a": 3}, 0)
    cache = dataset.cache()
    with pytest.raises(SelectionError, match=r"site 'embed' has one call"):
        cache["embed"].call(0)
    for selected in (cache["a"][0], cache["a"][:, 1:], cache["a"].rows, cache["a"].call(0)):
        with pytest.raises(SelectionError, match=r"take the call first, cache\['a'\]\.call\(1\)"):
            selected.call(1)
    with pytest.raises(SelectionError, match="no number of a call"):
        cache["a"].call(slice(None))
    with pytest.raises(SelectionError, match="no index"):
        cache["a"].call("first")
    assert same_bits(cache["a"][..., 0].call(2)[1].load(), cache["a"].call(2)[1, :, 0].load())


def test_rows_that_are_not_whole_calls_are_refused(dataset: Dataset) -> None:
    """Nothing is guessed where the rows of an example do not divide into calls."""
    dataset.commit([(0, 3)], {"embed": counting(3, 2)})
    dataset.commit([(0, 4)], {"a": counting(4, 2)}, table="calls")
    with pytest.raises(SelectionError, match=r"not whole calls.* `call` of calls"):
        dataset.cache()["a"].call(0)
