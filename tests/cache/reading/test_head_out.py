"""head_out: what each head adds to the residual stream, computed from z when it is read."""

import numpy as np
import pytest
import torch
from cache_helpers import Dataset, same_bits
from hypothesis import given
from hypothesis import strategies as st

from lazycache.cache.reading import matrices, site_reader
from lazycache.cache.reading.head_out import needed
from lazycache.cache.selecting.units import select
from lazycache.catalog.computed import all_sites, computed_sites
from lazycache.errors import CorruptShardError, SelectionError, SiteNotFoundError, StorageError
from lazycache.samples import pattern_cache
from lazycache.storage.open_store import open_store

HEADS, D_HEAD, D_MODEL = 3, 4, 6


@pytest.fixture(params=["local", "memory"])
def dataset(request, tmp_path) -> Dataset:
    url = str(tmp_path / "d") if request.param == "local" else f"memory://{tmp_path}"
    return Dataset(open_store(url, create=True, storage_options=None))


def noise(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def product(z: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Head by head, by plain multiplication."""
    return torch.stack([z[:, h].float() @ matrix[h].float() for h in range(z.shape[1])], 1)


def near(found: torch.Tensor, want: torch.Tensor) -> bool:
    return found.shape == want.shape and torch.allclose(found.float(), want.float(), 1e-2, 1e-2)


MATRIX = noise(HEADS, D_HEAD, D_MODEL)


def commit(dataset: Dataset, z: torch.Tensor, *, matrix=MATRIX, run="main", **options) -> None:
    sites = {"z_1": z}
    arrays = None if matrix is None else {"head_out_1.weight": matrix}
    dataset.commit([(0, 3), (1, len(z) - 3)], sites, run=run, arrays=arrays, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_is_there_listed_and_right(dataset: Dataset, dtype: torch.dtype) -> None:
    """A site like any other: listed, opened, sliced; its values are z times the projection."""
    z = noise(9, HEADS, D_HEAD, dtype=dtype)
    commit(dataset, z, matrix=MATRIX.to(dtype))
    cache = dataset.cache()
    assert list(cache) == ["head_out_1", "z_1"]
    x = cache["head_out_1"]
    assert (x.shape, x.dtype, cache.io.bytes) == ((2, 6, HEADS, D_MODEL), dtype, 0)
    assert cache.sites["head_out_1"].layout == "computed"
    assert (cache.rows("head_out_1"), cache.stored_bytes("head_out_1")) == (9, 0)
    want = product(z, MATRIX.to(dtype)).to(dtype)
    assert near(x.rows.load(), want)
    assert near(x[0].load(), want[:3])
    assert near(x[1, -1, 2].load(), want[-1, 2])
    assert near(x.rows[[5, 0, 5], 1, ::2].load(), want[[5, 0, 5]][:, 1, ::2])
    assert near(cache["head_out_L1H2"].rows.load(), want[:, 2])
    assert near(cache["head_out_L1"][1].load(), want[3:])
    assert "head_out_L1H3" not in cache


def test_an_autocast_of_the_caller_changes_nothing(dataset: Dataset) -> None:
    """It is computed in float32 also where a model would compute in less."""
    commit(dataset, noise(9, HEADS, D_HEAD))
    want = dataset.cache()["head_out_1"].rows.load()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert same_bits(dataset.cache()["head_out_1"].rows.load(), want)


def test_a_ragged_source_makes_no_site(dataset: Dataset) -> None:
    """What has no [heads, d_head] in its rows is not projected, whatever it is called."""
    rows = [torch.ones(HEADS, D_HEAD)] * 2
    dataset.commit([(0, 2)], {"z_1": rows}, arrays={"head_out_1.weight": MATRIX})
    assert list(dataset.cache()) == ["z_1"]


def test_aggregates_stream(dataset: Dataset, monkeypatch) -> None:
    """In blocks, whatever they are, and in the dtypes of other sites."""
    z = noise(40, HEADS, D_HEAD)
    commit(dataset, z)
    want = product(z, MATRIX)
    x = dataset.cache()["head_out_1"]
    for block in (1 << 20, 256, 1):
        monkeypatch.setattr(site_reader, "BLOCK_BYTES", block)
        assert x.mean("rows").dtype == torch.float64
        assert near(x.mean("rows"), want.mean(0))
        assert near(x.max("rows"), want.amax(0))
        assert near(x.sum(1)[0], want[:3].sum(0))
        assert near(torch.cat(list(x.chunks(bytes=200))), want)
        assert near(x.to(torch.float16).rows.load(), want.half())


@given(st.data())
def test_any_units_of_any_rows(data: st.DataObject) -> None:
    """Only the heads and columns that are needed are computed, and they are the right ones."""
    dataset = Dataset(open_store("memory://units", create=True, storage_options=None))
    z = noise(7, HEADS, D_HEAD)
    commit(dataset, z)
    want = product(z, MATRIX)
    part = st.integers(-3, 2) | st.builds(
        slice, st.none() | st.integers(-4, 4), st.none() | st.integers(-4, 4), st.just(None)
    )
    units = data.draw(st.tuples(part, part) | st.tuples(part) | st.tuples(st.lists(part_of(3))))
    rows = data.draw(st.lists(st.integers(0, 6), max_size=5))
    reader = dataset.cache().reader
    found = reader.take("head_out_1", np.array(rows, dtype=np.int64), units=units)
    assert near(found, want[rows][(slice(None), *units)])
    asked = torch.arange(HEADS * D_MODEL).reshape(HEADS, D_MODEL)[units]
    least = (len((asked // D_MODEL).unique()), len((asked % D_MODEL).unique()))
    assert needed((HEADS, D_MODEL), select((HEADS, D_MODEL), units)).size == least


def part_of(size: int) -> st.SearchStrategy[int]:
    return st.integers(-size, size - 1)


def test_only_the_heads_that_are_needed_are_read(dataset: Dataset) -> None:
    """One head costs a head of z, and the projection once."""
    z = noise(9, HEADS, D_HEAD)
    commit(dataset, z)
    cache = dataset.cache()
    one = cache["head_out_L1H1"][0, 0]
    one.load()
    assert cache.io.bytes >= 4 * D_HEAD + 4 * MATRIX.numel()
    cache.io.reset()
    one.load()
    assert (cache.io.rows, cache.io.bytes) == (1, 4 * D_HEAD)


def test_rows_use_the_projection_of_their_own_run(dataset: Dataset) -> None:
    """Two runs of two models; of a run without projection the rows are missing, not zero."""
    first, second, third = (noise(n, HEADS, D_HEAD) for n in (5, 6, 7))
    other = noise(HEADS, D_HEAD, D_MODEL) * 3
    commit(dataset, first, run="a")
    commit(dataset, second, run="b", matrix=None)
    commit(dataset, third, run="c", matrix=other)
    commit(dataset, first, run="a", matrix=None)
    cache = dataset.cache()
    x = cache["head_out_1"]
    want = torch.cat([product(first, MATRIX), product(third, other), product(first, MATRIX)])
    assert cache.rows("head_out_1") == len(want) == 17
    assert near(x.rows.load(), want)
    assert near(x.mean("rows"), want.mean(0))
    assert x.lengths.tolist() == [6, 4, 0, 0, 3, 4]  # examples of run a, b, c
    assert x.covered.tolist() == [True, True, False, False, True, True]
    rows = [17, 0, 12, 11]
    found = cache.reader.take("head_out_1", np.array(rows))
    whole = torch.cat([product(first, MATRIX), product(second, MATRIX), product(third, other)])
    whole = torch.cat([whole, product(first, MATRIX)])
    assert near(found, whole[rows])
    with pytest.raises(SelectionError, match="no value for row 5 of tokens: it is computed from"):
        cache.reader.take("head_out_1", np.array([0, 5]))
    with pytest.raises(SelectionError, match="row 10"):
        cache.reader.slice("head_out_1", 10, 12)


def test_of_a_subset_of_heads_each_keeps_its_own_block(dataset: Dataset) -> None:
    """The z of heads 2 and 0 is multiplied with their blocks; names count as in the model."""
    z = noise(9, HEADS, D_HEAD)
    info = {"subset": {"z_1": {"axis": "heads", "index": [2, 0]}}, "heads": {"": [3, 3]}}
    commit(dataset, z[:, [2, 0]], info=info)
    cache = dataset.cache()
    want = product(z, MATRIX)
    assert near(cache["head_out_1"].rows.load(), want[:, [2, 0]])
    assert near(cache["head_out_L1H0"].rows.load(), want[:, 0])
    with pytest.raises(SiteNotFoundError, match="head 1 of 'head_out_1' was not stored"):
        cache["head_out_L1H1"]


@pytest.mark.parametrize(
    "info",
    [
        {"pool": "max"},
        {"transform": {"z_1": "f"}},
        {"subset": {"z_1": {"axis": "units", "index": [0, 1, 2, 3]}}},
    ],
)
def test_what_is_no_longer_z_has_no_head_out(dataset: Dataset, info: dict) -> None:
    """A maximum, a transformed or a cut z times the projection is nothing."""
    commit(dataset, noise(9, HEADS, D_HEAD), info=info)
    assert list(dataset.cache()) == ["z_1"]


def test_a_stored_site_of_that_name_is_read(dataset: Dataset) -> None:
    """What is stored is never computed anew."""
    values = noise(9, HEADS, D_MODEL)
    commit(dataset, noise(9, HEADS, D_HEAD))
    dataset.commit([(0, 3), (1, 6)], {"head_out_1": values}, covers=1, add_rows=False)
    cache = dataset.cache()
    assert list(cache) == ["head_out_1", "z_1"]
    assert same_bits(cache["head_out_1"].rows.load(), values)


def test_prefixes_and_layers_are_kept_apart(dataset: Dataset) -> None:
    """Of an encoder-decoder model, each z has its own; sorted as people count."""
    z = noise(9, HEADS, D_HEAD)
    names = ["encoder.z_1", "decoder.z_1", "z_10", "z_2"]
    arrays = {name.replace("z_", "head_out_") + ".weight": MATRIX for name in names}
    dataset.commit([(0, 9)], dict.fromkeys(names, z), arrays=arrays)
    snapshot = dataset.snapshot
    heads = ["decoder.head_out_1", "encoder.head_out_1", "head_out_2", "head_out_10"]
    assert list(computed_sites(snapshot)) == heads
    assert list(all_sites(snapshot)) == [
        "decoder.head_out_1", "decoder.z_1", "encoder.head_out_1", "encoder.z_1",
        "head_out_2", "head_out_10", "z_2", "z_10",
    ]  # fmt: skip
    assert near(dataset.cache()["encoder.head_out_L1H0"].rows.load(), product(z, MATRIX)[:, 0])


@pytest.mark.parametrize("shape", [(4, D_HEAD, D_MODEL), (HEADS, 5, D_MODEL)])
def test_a_projection_that_does_not_fit_is_refused(dataset: Dataset, shape: tuple) -> None:
    """The log may come from anybody: no wrong product, and nothing read out of bounds."""
    commit(dataset, noise(9, HEADS, D_HEAD), matrix=noise(*shape))
    with pytest.raises(CorruptShardError, match="has the shape"):
        dataset.cache()["head_out_1"][0].load()


def test_heads_outside_of_the_projection_are_refused(dataset: Dataset) -> None:
    """As of a log that names heads which the model does not have."""
    info = {"subset": {"z_1": {"axis": "heads", "index": [0, 1, 9]}}}
    commit(dataset, noise(9, HEADS, D_HEAD), matrix=noise(4, D_HEAD, D_MODEL), info=info)
    with pytest.raises(CorruptShardError, match="has the shape"):
        dataset.cache()["head_out_1"][0].load()


def test_an_array_that_is_no_matrix_of_heads_makes_no_site(dataset: Dataset) -> None:
    """Three dimensions are needed."""
    commit(dataset, noise(9, HEADS, D_HEAD), matrix=noise(12, D_MODEL))
    assert list(dataset.cache()) == ["z_1"]


def test_a_damaged_or_missing_projection_is_named(dataset: Dataset) -> None:
    """Its checksum is compared whenever it is read."""
    commit(dataset, noise(9, HEADS, D_HEAD))
    ref = dataset.snapshot.array("main", "head_out_1.weight")
    data = bytearray(dataset.store.get(ref.path))
    data[ref.value_offset + 3] ^= 1
    dataset.store.delete(ref.path)
    with pytest.raises(StorageError, match=r"head_out_1\.weight"):
        dataset.cache()["head_out_1"][0].load()
    dataset.store.put(ref.path, bytes(data))
    with pytest.raises(CorruptShardError, match=r"'head_out_1\.weight'.*checksum"):
        dataset.cache()["head_out_1"][0].load()


def test_few_matrices_stay_in_memory(dataset: Dataset, monkeypatch) -> None:
    """The least recently used goes; it is read again when it is needed."""
    monkeypatch.setattr(matrices, "KEPT_BYTES", 4 * MATRIX.numel())
    z = noise(9, HEADS, D_HEAD)
    arrays = {"head_out_1.weight": MATRIX, "head_out_2.weight": MATRIX * 2}
    dataset.commit([(0, 9)], {"z_1": z, "z_2": z}, arrays=arrays)
    cache = dataset.cache()
    for _ in range(2):
        for site in ("head_out_1", "head_out_2"):
            cache.io.reset()
            cache[site][0, 0].load()
            assert cache.io.bytes >= 4 * MATRIX.numel()
    with pytest.raises(StorageError, match="closed"):
        cache.close()
        cache["head_out_1"][0].load()


def test_the_sum_of_the_sample_is_what_the_documentation_says() -> None:
    """Head 0 adds the row's number to the first unit, head 1 ten times that to the others."""
    summed = pattern_cache()["head_out_0"].rows[3].load().sum(0)
    assert summed.tolist() == [3.0, 30.0, -30.0]
