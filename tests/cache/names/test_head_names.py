"""Names of one head and of a layer: which part of which stored site they mean."""

import pytest
import torch
from cache_helpers import Dataset, counting, same_bits

from lazycache.cache.names.head_names import HEADED, parse
from lazycache.errors import SiteNotFoundError
from lazycache.samples import pattern_cache
from lazycache.storage.open_store import open_store

ROWS = 5


@pytest.fixture
def dataset(tmp_path) -> Dataset:
    return Dataset(open_store(f"memory://{tmp_path}", create=True, storage_options=None))


def heads(count: int) -> torch.Tensor:
    return counting(ROWS, count, 2)


def commit(dataset: Dataset, sites: dict, *, info: dict | None = None, run: str = "main") -> None:
    dataset.commit([(0, 2), (1, 3)], sites, info=info, run=run)


@pytest.mark.parametrize("kind", HEADED)
def test_a_head_is_a_lazy_slice_of_its_site(dataset: Dataset, kind: str) -> None:
    """`KIND_L1H2` is entry 2 of the heads, without their dimension; nothing is read to know."""
    if kind in ("pattern", "cross_pattern"):
        rows = [counting(3, n, dtype=torch.float32) for n in (2, 2, 3, 3, 3)]
        commit(dataset, {f"{kind}_1": rows})
        want = torch.stack([row[2] for row in rows[2:]])
    else:
        commit(dataset, {f"{kind}_1": heads(3)})
        want = heads(3)[2:, 2]
    cache = dataset.cache()
    name = f"{kind}_L1H2"
    assert name in cache
    assert f"{kind}_L1H3" not in cache
    assert cache.io.bytes == 0
    assert same_bits(cache[name][1].load(), want)
    assert cache[name].shape[:1] == (2,)
    assert list(cache) == [f"{kind}_1"]


def test_a_layer_may_be_written_with_an_l(dataset: Dataset) -> None:
    """`values_L1` is `values_1`, of every kind, with prefix and gradient; stored names win."""
    sites = {
        "values_1": heads(2),
        "resid_out_12": counting(ROWS, 3),
        "decoder.cross_attn_out_0": counting(ROWS, 3) + 1,
        "z_1:grad": heads(2) + 2,
        "x_L3": counting(ROWS, 4),
        "x_3": counting(ROWS, 5),
    }
    commit(dataset, sites)
    cache = dataset.cache()
    names = {
        "values_L1": "values_1",
        "resid_out_L12": "resid_out_12",
        "decoder.cross_attn_out_L0": "decoder.cross_attn_out_0",
        "z_L1:grad": "z_1:grad",
        "x_L3": "x_L3",
    }
    for name, site in names.items():
        assert cache[name].site == site
        assert same_bits(cache[name].rows.load(), sites[site])
    assert same_bits(cache["z_L1H1:grad"].rows.load(), sites["z_1:grad"][:, 1])


@pytest.mark.parametrize(
    "name",
    [
        "resid_out_L1H2", "z_L01H2", "z_L1H02", "z_L1H", "z_1H2", "Z_L1H2", "z_L1H2 ", "encoder.L1",
        "z_L1H\u0663", "z_L1H" + "9" * 5000,
    ],
)  # fmt: skip
def test_what_is_no_such_name(name: str) -> None:
    """Kinds without heads, numbers with leading zeros or without end, other digits, spellings."""
    assert parse(name) is None


def test_a_missing_site_offers_the_nearest(dataset: Dataset) -> None:
    """Whatever form the name had."""
    commit(dataset, {"z_1": heads(3)})
    cache = dataset.cache()
    for name in ("z_L2H1", "queries_L1", "z_L1H1:grad", "decoder.z_L1H1"):
        with pytest.raises(SiteNotFoundError, match=rf"no site '{name}' .*z_1"):
            cache[name]
        assert name not in cache
    with pytest.raises(SiteNotFoundError, match="no site 7"):
        cache[7]


def test_a_head_that_the_model_does_not_have(dataset: Dataset) -> None:
    """An error that says which there are."""
    commit(dataset, {"z_1": heads(3)})
    with pytest.raises(SiteNotFoundError, match="'z_1' has no head 3: its heads are 0 to 2"):
        dataset.cache()["z_L1H3"]


GROUPED = {"keys_1": heads(2), "values_1": heads(2) + 100}


@pytest.mark.parametrize("told", ["by the run", "by z", "by queries of a prefix"])
def test_grouped_queries_read_their_own_head(dataset: Dataset, told: str) -> None:
    """With 6 query heads and 2 of keys, heads 0 to 2 read the first and 3 to 5 the second."""
    prefix = "encoder." if told.endswith("prefix") else ""
    sites = {prefix + name: values for name, values in GROUPED.items()}
    sibling = {"by z": "z_1", "by queries of a prefix": "encoder.queries_1"}.get(told)
    if sibling:
        sites[sibling] = heads(6)
    commit(dataset, sites, info={"heads": {"": [6, 2]}} if told == "by the run" else {})
    cache = dataset.cache()
    for head in range(6):
        for name, values in GROUPED.items():
            asked = f"{prefix}{name.replace('_', '_L')}H{head}"
            assert same_bits(cache[asked].rows.load(), values[:, head // 3])
    with pytest.raises(SiteNotFoundError, match="heads are 0 to 5"):
        cache[f"{prefix}keys_L1H6"]


def test_without_a_hint_keys_have_the_heads_that_are_stored(dataset: Dataset) -> None:
    """Nothing says how queries are grouped: the stored heads are counted."""
    commit(dataset, GROUPED)
    cache = dataset.cache()
    assert same_bits(cache["keys_L1H1"].rows.load(), GROUPED["keys_1"][:, 1])
    assert "keys_L1H2" not in cache


def subset(**index: list[int]) -> dict:
    return {site: {"axis": "heads", "index": heads} for site, heads in index.items()}


def test_of_a_subset_a_head_is_found_where_it_was_stored(dataset: Dataset) -> None:
    """Heads keep their numbers; one that was not stored is refused and the stored ones named."""
    info = {"heads": {"": [8, 4]}, "subset": subset(z_1=[5, 2], keys_1=[3])}
    sites = {"z_1": heads(2), "keys_1": heads(1) + 9}
    commit(dataset, sites, info=info)
    cache = dataset.cache()
    assert same_bits(cache["z_L1H2"].rows.load(), sites["z_1"][:, 1])
    assert same_bits(cache["z_L1H5"].rows.load(), sites["z_1"][:, 0])
    for head in (6, 7):  # both read kv head 3
        assert same_bits(cache[f"keys_L1H{head}"].rows.load(), sites["keys_1"][:, 0])
    with pytest.raises(SiteNotFoundError, match=r"head 1 of 'z_1' was not stored.* there are 5, 2"):
        cache["z_L1H1"]
    with pytest.raises(SiteNotFoundError, match=r"head 0 of 'keys_1' was not stored.* there are 3"):
        cache["keys_L1H1"]
    assert "z_L1H1" not in cache
    with pytest.raises(SiteNotFoundError, match="heads are 0 to 7"):
        cache["z_L1H8"]


@pytest.mark.parametrize("row", [(4,), (6, 2)])
def test_what_a_function_made_of_heads_has_none(dataset: Dataset, row: tuple) -> None:
    """Unless there still is an entry for each head, a head would be any number."""
    info = {"heads": {"": [4, 2]}, "transform": {"z_1": "norms", "keys_1": "halves"}}
    sites = {"z_1": counting(ROWS, *row), "keys_1": heads(2), "z_2": heads(4)}
    commit(dataset, sites, info=info)
    cache = dataset.cache()
    with pytest.raises(SiteNotFoundError, match=r"'z_1' was transformed .* read cache\['z_1'\]"):
        cache["z_L1H3"]
    assert same_bits(cache["keys_L1H3"].rows.load(), sites["keys_1"][:, 1])
    assert same_bits(cache["z_L2H3"].rows.load(), sites["z_2"][:, 3])


def test_runs_that_differ_in_where_a_head_is_are_refused(dataset: Dataset) -> None:
    """One lazy slice cannot be two places; a head that is in one place in all runs can be read."""
    for run, index in (("a", [0, 1, 2]), ("b", [0, 2, 1])):
        commit(dataset, {"z_1": heads(3)}, run=run, info={"subset": subset(z_1=index)})
    commit(dataset, {"other": counting(ROWS, 1)}, run="c", info={"subset": subset(z_1=[2])})
    cache = dataset.cache()
    assert same_bits(cache["z_L1H0"].rows.load(), torch.cat([heads(3)] * 2)[:, 0])
    with pytest.raises(SiteNotFoundError, match="different runs have head 2 of 'z_1'"):
        cache["z_L1H2"]


def test_a_site_that_was_added_to_a_run_is_described_by_the_addition(dataset: Dataset) -> None:
    """The run keeps its first information; what was added says what is stored of it."""
    commit(dataset, {"embed": counting(ROWS, 2)}, info={"sites": {"embed": "x"}})
    added = {"adds_to": "main", "sites": {"z_1": "y"}, "subset": subset(z_1=[4, 7])}
    dataset.commit([(5, 1)], {"embed": counting(1, 2)}, run="main+z_1", info=added)
    values = counting(ROWS, 2, 2)
    dataset.commit([(0, 2), (1, 3)], {"z_1": values}, covers=1, add_rows=False)
    cache = dataset.cache()
    assert same_bits(cache["z_L1H7"].rows.load(), values[:, 1])
    assert "z_L1H1" not in cache


NONSENSE = [
    {"subset": 3},
    {"subset": {"z_1": [1]}},
    {"subset": {"z_1": {"axis": "heads", "index": "ab"}}},
    {"subset": {"z_1": {"axis": "heads", "index": [1.5]}}},
    {"heads": [3]},
    {"heads": {"": [3]}},
    {"heads": {"": ["3", 1]}},
    {"heads": {"": [1, 3]}},
    {"sites": 5},
]


@pytest.mark.parametrize("info", NONSENSE, ids=map(str, NONSENSE))
def test_information_that_is_nonsense_counts_as_not_said(dataset: Dataset, info: dict) -> None:
    """A log may come from anybody."""
    commit(dataset, {"z_1": heads(3)}, info=info)
    assert same_bits(dataset.cache()["z_L1H2"].rows.load(), heads(3)[:, 2])


def test_the_sample_has_heads() -> None:
    """What the documentation shows."""
    cache = pattern_cache()
    assert cache["pattern_L0H1"][1].load().tolist() == torch.eye(3).tolist()
    assert cache["z_L0H1"].rows.load()[:, 0].tolist() == [0, 10, 20, 30, 40, 50]
