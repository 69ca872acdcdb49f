"""A process that is killed while it saves leaves nothing, or what was there, or all that is new."""

from collections import Counter

import pytest
import torch
from faults.save_crasher import MORE, MOST, new, old

import lazycache as lc


@pytest.fixture(scope="module")
def killed(tmp_path_factory, crashers):
    """Folders of saves, killed at each change of the file system in turn."""
    folder = tmp_path_factory.mktemp("saves")
    crashers.run("save_crasher", folder, timeout=200)
    return folder


def state(url):
    """What a reader finds, every value of it compared."""
    try:
        cache = lc.open(url, check=True)
    except lc.DatasetNotFoundError:
        return "nothing"
    more = lc.ActivationCache({**old(), **new()})
    for name, wanted in (("old", old()), ("new", new()), ("more", more)):
        if list(cache) == list(wanted):
            loaded = lc.ActivationCache(
                {k: v.load() if hasattr(v, "load") else v for k, v in cache.items()}
            )
            assert loaded == wanted
            return name
    assert not list(cache), "neither the old nor the new cache"
    return "empty"


def test_a_new_place_stays_empty_until_all_is_there(killed):
    """Killed anywhere: no dataset, at the very end an empty one, or the whole cache."""
    states = [state(killed / f"new-{i}") for i in range(MOST) if (killed / f"new-{i}").exists()]
    assert len(states) > 12
    assert states[-1] == "new"
    order = ("nothing", "empty", "new")
    assert [order.index(s) for s in states] == sorted(order.index(s) for s in states)
    assert Counter(states)["nothing"] > 6


def test_what_is_replaced_stays_whole_until_the_new_files_are(killed):
    """The old dataset is readable until the last step; a failed one can be saved again."""
    places = [killed / f"over-{i}" for i in range(MOST) if (killed / f"over-{i}").exists()]
    states = [state(place) for place in places]
    assert states[-1] == "new"
    assert Counter(states)["old"] > 6
    first = next(i for i, s in enumerate(states) if s != "old")
    assert "old" not in states[first:]
    assert sum(s in ("empty", "nothing") for s in states) < 10
    for place in places[first - 1 : first + 3]:
        new().save(place, overwrite=True)
        assert state(place) == "new"


def test_values_are_added_all_or_none(killed):
    """Killed anywhere in `persist`: what was there, and at the end all that was added to it."""
    places = [killed / f"add-{i}" for i in range(MOST) if (killed / f"add-{i}").exists()]
    states = [state(place) for place in places]
    assert len(states) > 9
    assert states == sorted(states, key=("old", "more").index)
    assert states[-1] == "more"


def test_a_site_of_several_runs_is_added_whole_or_not_at_all(killed):
    """Killed anywhere while a lazy tensor becomes a site: nothing of it, and it can be repeated."""
    places = [killed / f"rows-{i}" for i in range(MOST) if (killed / f"rows-{i}").exists()]
    caches = [lc.open(place, check=True) for place in places]
    states = [len(list(cache)) for cache in caches]
    assert len(states) > 12
    assert states == sorted(states)
    assert set(states) == {1, 3}
    torn = caches[states.count(1) - 1]
    torn["more"], torn["note"] = torn["0:out"] + MORE, "now"
    assert torn.persist() == torn.version + 1
    for cache in (caches[-1], lc.open(torn.url, check=True)):
        values = cache["0:out"].load()
        assert len(values) == 6
        assert torch.equal(cache["more"].load(), values + MORE)
        assert cache["note"] == "now"
