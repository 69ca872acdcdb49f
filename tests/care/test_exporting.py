"""Other tools read an export without lazycache, and find what was stored, bit for bit."""

import json
import shutil

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sharing_helpers import everything

import lazycache as lc
from lazycache.care.exports import arrow_files, contents, tensor_files
from lazycache.errors import (
    CorruptShardError,
    DatasetExistsError,
    SelectionError,
    SiteNotFoundError,
    StorageError,
)

STORED = ["pattern_0", "resid_out_0", "resid_out_1", "z_1"]


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def source(request, tmp_path_factory):
    """A dataset with a file of every kind, in a dtype that numpy has and in one that it lacks."""
    url = tmp_path_factory.mktemp("source") / "acts"
    everything(url, dtype=request.param)
    return url


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Many batches, and several files where there can be."""
    monkeypatch.setattr(contents, "BATCH_BYTES", 40_000)
    monkeypatch.setattr(tensor_files, "SAFETENSORS_BYTES", 20_000)
    monkeypatch.setattr(arrow_files, "HF_SHARD_BYTES", 100_000)


def _expected(cache, name):
    """For each row of tokens the values of a site, flat, or None where it lacks the row."""
    rows = [None] * cache.snapshot.rows("tokens")
    x = cache[name]
    ragged = cache.sites[name].layout == "ragged"
    values = _ragged(cache, name) if ragged else x.rows.load().flatten(1)
    there = np.flatnonzero(cache.stored.reader.covered(name, np.arange(len(rows))))
    for row, value in zip(there, values, strict=True):
        rows[row] = value.float().tolist()
    return rows


def _ragged(cache, name):
    x = cache[name].rows
    return [x[i].load().flatten() for i in range(x.shape[0])]


def _check_table(table, cache, names):
    """A table has the columns of the rows and of their examples, and the values of the sites."""
    query = (
        "SELECT run, example, position, token_id, label, score FROM tokens "
        "JOIN examples USING (run, example) ORDER BY tokens.row"
    )
    got = table.select(["run", "example", "position", "token_id", "label", "score"])
    assert [tuple(row.values()) for row in got.to_pylist()] == cache.sql(query).fetchall()
    for name in names:
        assert table[name].to_pylist() == _expected(cache, name)


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_a_table_has_lists_of_floats_beside_the_rows(source, tmp_path, form):
    """Parquet and Arrow: every row with its columns and values; NULL where a site lacks it."""
    cache = lc.open(source)
    done = lc.export(source, tmp_path / "out", form, progress=False)
    assert done.rows == {"examples": 95, "tokens": cache.snapshot.rows("tokens")}
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {f"examples.{form}", "export.json", f"tokens.{form}"}
    path = tmp_path / "out" / f"tokens.{form}"
    if form == "parquet":
        assert pq.ParquetFile(path).num_row_groups > 1
        table = pq.read_table(path, page_checksum_verification=True)
        kinds = dict(
            duckdb.sql(f"SELECT column_name, column_type FROM (DESCRIBE FROM '{path}')").fetchall()
        )
        assert {kinds[name] for name in STORED} == {"FLOAT[]"}
        asked = duckdb.sql(f"SELECT label, resid_out_0[3] FROM '{path}' ORDER BY 2 DESC LIMIT 3")
        mine = "SELECT label, unit(resid_out_0, 2) FROM tokens JOIN examples USING (run, example)"
        assert asked.fetchall() == cache.sql(f"{mine} ORDER BY 2 DESC LIMIT 3").fetchall()
    else:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    _check_table(table, cache, STORED)
    about = json.loads((tmp_path / "out" / "export.json").read_text())
    assert about["dataset"] == cache.snapshot.identity.uuid
    assert about["sites"]["z_1"]["shape"] == [2, 16]
    assert about["sites"]["z_1"]["exported_as"] == "float32"


def test_hugging_face_loads_an_export(source, tmp_path):
    """`load_from_disk` gives a dictionary of tables, also of several files each."""
    datasets = pytest.importorskip("datasets")
    lc.export(source, tmp_path / "out", "hf", sites=STORED, progress=False)
    loaded = datasets.load_from_disk(str(tmp_path / "out"))
    assert len(loaded["tokens"].cache_files) > 1
    _check_table(loaded["tokens"].data.table, lc.open(source), STORED)
    assert loaded["tokens"][0]["resid_out_0"] == _expected(lc.open(source), "resid_out_0")[0]
    assert loaded["examples"]["label"][:3] == ["a", "b|`", "ü"]


def test_npy_files_are_mapped_and_say_whose_rows_they_have(source, tmp_path):
    """A plain matrix per site; `.rows` where it lacks some, `.elements` where rows differ."""
    cache, out = lc.open(source), tmp_path / "out"
    done = lc.export(source, out, "npy", sites=[*STORED, "head_out_1"], progress=False)
    stored = cache["z_1"].dtype
    assert (done.converted != {}) == (stored == torch.bfloat16)
    for name in ("resid_out_0", "z_1", "head_out_1"):
        mapped = np.load(out / f"{name}.npy", mmap_mode="r")
        assert torch.equal(torch.tensor(np.array(mapped)), cache[name].rows.load().float())
        assert (out / f"{name}.rows.npy").exists() == (name != "resid_out_0")
    rows = np.load(out / "z_1.rows.npy")
    runs = pq.read_table(out / "tokens.parquet")["run"].to_numpy()
    assert set(runs[rows]) == {"main"}
    assert set(np.delete(runs, rows)) == {"second"}
    flat, counts = np.load(out / "pattern_0.npy"), np.load(out / "pattern_0.elements.npy")
    values = [value.tolist() for value in np.split(flat, np.cumsum(counts)[:-1])]
    assert values == [value for value in _expected(cache, "pattern_0") if value is not None]


def test_safetensors_keep_every_bit(source, tmp_path):
    """Several files per site, each with which rows it has, in the dtype that was stored."""
    st = pytest.importorskip("safetensors.torch")
    cache, out = lc.open(source, where="position > 0"), tmp_path / "out"
    done = lc.export(source, out, "safetensors", where="position > 0", progress=False)
    assert done.converted == {}
    for name in ("resid_out_0", "z_1"):
        parts = [st.load_file(path) for path in sorted(out.glob(f"{name}-*.safetensors"))]
        assert len(parts) > 1
        values = torch.cat([part[name] for part in parts])
        assert values.dtype == cache[name].dtype
        assert torch.equal(values, cache[name].rows.load())
    runs = pq.read_table(out / "tokens.parquet")["run"].to_numpy()
    rows = torch.cat([part["z_1.rows"] for part in parts])
    assert rows.tolist() == np.flatnonzero(runs == "main").tolist()
    parts = [st.load_file(path) for path in sorted(out.glob("pattern_0-*.safetensors"))]
    assert torch.equal(
        torch.cat([part["pattern_0"] for part in parts]), torch.cat(_ragged(cache, "pattern_0"))
    )


def test_an_export_is_there_whole_or_not_at_all(source, tmp_path, monkeypatch):
    """What is there is not replaced; after an error nothing is left, also of a full disk."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(DatasetExistsError, match="is there already"):
        lc.export(source, out)
    with pytest.raises(StorageError, match="a folder of this machine"):
        lc.export(source, "s3://bucket/out")
    with pytest.raises(SelectionError, match=r"No format 'parket'.*parquet"):
        lc.export(source, tmp_path / "new", "parket")
    with pytest.raises(SiteNotFoundError):
        lc.export(source, tmp_path / "new", sites="resid_ot")
    with pytest.raises(SelectionError, match="beside the sites"):
        lc.export(source, tmp_path / "new", sites="probe")

    with pytest.raises(DatasetExistsError, match="lies in the dataset"):
        lc.export(source, source / "plain")
    damaged = tmp_path / "damaged"
    shutil.copytree(source, damaged)
    path = max(damaged.glob("data/resid_out_1/*"), key=lambda path: path.stat().st_size)
    whole = path.read_bytes()
    at = len(whole) // 2
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(CorruptShardError):
        lc.export(damaged, tmp_path / "new", progress=False)
    shutil.rmtree(damaged)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(contents.Exported, "values", full)
    for form in ("parquet", "npy", "safetensors", "hf", "arrow"):
        with pytest.raises(StorageError, match="free space"):
            lc.export(source, tmp_path / "new", form, progress=False)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine.txt"]
