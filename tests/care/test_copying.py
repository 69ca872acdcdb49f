"""A copy is the dataset, or the part of it that was asked for; nothing else is ever replaced."""

import shutil

import pytest
import torch
from dataset_helpers import gpt2
from sharing_helpers import SITES, corpus, everything, folder_bytes

import lazycache as lc
from lazycache.care import copied_rows, transfer
from lazycache.catalog import checkpoints
from lazycache.errors import (
    CorruptShardError,
    DatasetExistsError,
    SelectionError,
    SiteNotFoundError,
)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A dataset with a file of every kind."""
    url = tmp_path_factory.mktemp("source") / "acts"
    everything(url)
    return url


def _same(mine, theirs):
    """Two caches show the same rows with the same columns, and bit for bit the same values."""
    for table in ("tokens", "examples"):
        names = [*theirs.snapshot.columns(table)]
        query = f"SELECT run, {', '.join(names)} FROM {table} ORDER BY row"
        assert mine.sql(query).fetchall() == theirs.sql(query).fetchall()
    for name in mine.sites:
        x, y = mine[name], theirs[name]
        assert x.dtype == y.dtype
        if mine.sites[name].layout == "ragged":
            pairs = zip(x, y, strict=True)
            assert all(torch.equal(a.load(), b.load()) for a, b in pairs)
        else:
            assert x.lengths.tolist() == y.lengths.tolist()
            assert torch.equal(x.rows.load(), y.rows.load())


def test_a_copy_has_every_byte_and_follows_its_source(source, tmp_path):
    """All files and records are the same; copied again, only what was added since is copied."""
    here, there = tmp_path / "here", tmp_path / "there"
    shutil.copytree(source, here)
    done = lc.copy(here, there)
    assert folder_bytes(there) == folder_bytes(here)
    files = [name for name in folder_bytes(here) if not name.startswith(("_log", "lazycache"))]
    assert (done.files, done.copied_files) == (len(files), len(files)) == (16, 16)
    size = sum(len(folder_bytes(here)[name]) for name in files)
    assert done.bytes == done.copied_bytes == size - 1  # a newline ends a file of trees
    again = lc.copy(here, there)
    assert (again.version, again.files, again.copied_files) == (done.version, 16, 0)
    lc.extract(gpt2(n_embd=32), corpus(4), here, SITES[:1], run="third", progress=False)
    later = lc.copy(here, there)
    assert (later.version, later.copied_files) == (done.version + 1, 4)
    assert folder_bytes(there) == folder_bytes(here)
    _same(lc.open(there, snapshot=done.version), lc.open(source))


@pytest.mark.slow
def test_a_copy_goes_from_any_store_to_any_other(source, tmp_path, s3):
    """Folder to S3 to memory to folder: every byte arrives; each side has its own options."""
    options = s3.storage_options
    lc.copy(source, s3.url(), dst_options=options)
    lc.copy(s3.url(), "memory://copied-around", src_options=options)
    lc.copy("memory://copied-around", tmp_path / "back")
    assert folder_bytes(tmp_path / "back") == folder_bytes(source)
    assert lc.copy(source, s3.url(), dst_options=options).copied_files == 0
    parts = s3.url("parts")
    lc.copy(s3.url(), parts, sites="resid_out_0", where="position = 1", storage_options=options)
    _same(lc.open(parts, storage_options=options), lc.open(source, where="position = 1"))


@pytest.mark.slow
def test_a_store_without_arbitration_takes_a_copy(source, rclone):
    """Of one writer nobody needs to know who was first."""
    # rclone answers a range with the checksum of the whole object
    lenient = {"config_kwargs": {"response_checksum_validation": "when_required"}}
    options = {**rclone.storage_options, **lenient}
    lc.copy(source, rclone.url(), dst_options=options)
    _same(lc.open(rclone.url(), storage_options=options), lc.open(source))


def test_a_copy_of_sites_has_their_files_alone(source, tmp_path):
    """Rows, versions and values are the source's; the dataset is another one, and says of which."""
    cache = lc.open(source)
    done = lc.copy(source, tmp_path / "part", sites=["z_1", "head_out_1", "probe"])
    part = lc.open(tmp_path / "part")
    assert list(part) == ["head_out_1", "z_1", "probe"]
    _same(part, cache)
    assert torch.equal(part["probe"].load(), cache["probe"].load())
    assert part.version == cache.version
    assert {name.split("/")[1] for name in folder_bytes(tmp_path / "part") if "data/" in name} == {
        "z_1"
    }
    assert part.snapshot.identity.uuid != cache.snapshot.identity.uuid
    assert part.snapshot.runs["main"].info["copied_from"] == {
        "dataset": cache.snapshot.identity.uuid,
        "sites": ["head_out_1", "probe", "z_1"],
    }
    again = lc.copy(source, tmp_path / "part", sites=["z_1", "head_out_1", "probe"])
    assert (again.copied_files, again.files) == (0, done.files)
    with pytest.raises(DatasetExistsError, match="another dataset"):
        lc.copy(source, tmp_path / "part", sites=["z_1"])


def test_a_computed_site_without_its_source_is_stored(source, tmp_path):
    """Its values are those that were computed when it was read."""
    lc.copy(source, tmp_path / "part", sites="head_out_1")
    part = lc.open(tmp_path / "part")
    assert part.sites["head_out_1"].layout == "row"
    _same(part, lc.open(source))


def test_an_interrupted_copy_of_rows_goes_on(source, tmp_path, monkeypatch):
    """What was written is not written again; the result is what `where` shows, notes are gone."""
    condition = "position > 0 AND label <> 'a'"
    monkeypatch.setattr(copied_rows, "PART_BYTES", 1)  # every commit is a part
    written, write = [], copied_rows.write_part

    def failing(part, store):
        written.append(part.stretch.run)
        if len(written) == 2:
            raise KeyboardInterrupt
        write(part, store)

    monkeypatch.setattr(copied_rows, "write_part", failing)
    with pytest.raises(KeyboardInterrupt):
        lc.copy(source, tmp_path / "some", where=condition)
    assert not (tmp_path / "some" / "lazycache.json").exists()
    kept = {name for name in folder_bytes(tmp_path / "some") if name.startswith("data/")}
    assert len(kept) == 4  # of the first part, nothing of the second
    shutil.copytree(tmp_path / "some", tmp_path / "other")
    with monkeypatch.context() as patch:  # what was noted is of parts of another size
        patch.setattr(copied_rows, "PART_BYTES", 1 << 30)
        patch.setattr(copied_rows, "write_part", write)
        lc.copy(source, tmp_path / "other", where=condition)
    _same(lc.open(tmp_path / "other"), lc.open(source, where=condition))
    assert not [name for name in folder_bytes(tmp_path / "other") if name.startswith(".")]
    done = lc.copy(source, tmp_path / "some", where=condition)
    assert written == ["main", "second", "second"]
    assert done.copied_files < done.files
    some = lc.open(tmp_path / "some")
    _same(some, lc.open(source, where=condition))
    assert list(some) == ["head_out_1", "pattern_0", "resid_out_0", "resid_out_1", "z_1"]
    assert kept < set(folder_bytes(tmp_path / "some"))
    assert not [name for name in folder_bytes(tmp_path / "some") if name.startswith(".")]
    left = tmp_path / "some" / f".lazycache-copy-{some.snapshot.identity.uuid}-1-000001.json"
    left.write_bytes(b"")  # as after a kill while the notes were removed
    assert lc.copy(source, tmp_path / "some", where=condition).copied_files == 0
    assert not left.exists()
    assert some.snapshot.runs["second"].info["copied_from"]["where"] == condition


DAMAGED = {
    "values": ("data/resid_out_0/*", 0.5),
    "ragged": ("data/pattern_0/*", 0.5),
    "index": ("data/resid_out_0/*", 0.01),
    "statistics": ("stats/*/*", 0.5),
    "array": ("arrays/*/*", 0.5),
    "table": ("tables/tokens/*", 0.5),
    "tensor": ("entries/*.parquet", 0.5),
    "tree": ("entries/*.json", 0.5),
}
"""A file, and where in it a bit is changed."""


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_file_is_not_copied(source, tmp_path, kind, monkeypatch):
    """One changed byte is found while the file passes; mended, the copy goes on where it was."""
    monkeypatch.setattr(transfer, "PIECE_BYTES", 1000)
    monkeypatch.setattr(transfer, "FILES_AT_ONCE", 1)
    here, there = tmp_path / "here", tmp_path / "there"
    shutil.copytree(source, here)
    pattern, place = DAMAGED[kind]
    path = max(here.glob(pattern), key=lambda path: path.stat().st_size)
    name, whole = str(path.relative_to(here)), path.read_bytes()
    at = int(len(whole) * place)
    (here / name).write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(CorruptShardError):
        lc.copy(here, there)
    if kind in ("values", "ragged"):  # new files would have right checksums of wrong values
        with pytest.raises(CorruptShardError):
            lc.copy(here, tmp_path / "some", where="example = 0")
        assert not (tmp_path / "some" / "lazycache.json").exists()
    assert name not in folder_bytes(there)
    assert not (there / "lazycache.json").exists()
    (here / name).write_bytes(whole[:-2])
    with pytest.raises(CorruptShardError, match=r"has [\d,]+ bytes; the log says"):
        lc.copy(here, there)
    (here / name).unlink()
    with pytest.raises(CorruptShardError, match="is missing, which its log names"):
        lc.copy(here, there)
    (here / name).write_bytes(whole)
    before = len(folder_bytes(there))
    assert lc.copy(here, there).copied_files == 16 - before
    assert folder_bytes(there) == folder_bytes(source)


def test_nothing_that_is_there_is_replaced(source, tmp_path):
    """Another dataset, other files, a copy that was written to: refused, and left as it was."""
    other = tmp_path / "other"
    lc.ActivationCache({"x": torch.ones(2)}).save(other)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "README.md").write_text("mine")
    own = tmp_path / "own"
    lc.copy(source, own)
    for folder, why in (
        (other, "another dataset"),
        (foreign, "no lazycache dataset"),
        (own, "res"),
    ):
        before = folder_bytes(folder)
        with pytest.raises(DatasetExistsError, match=why):
            lc.copy(source, folder, resume=False)
        assert folder_bytes(folder) == before
    cache = lc.open(own)
    cache["new"] = 1
    cache.persist()
    with pytest.raises(DatasetExistsError, match="at version"):
        lc.copy(source, own)
    here = tmp_path / "here"
    shutil.copytree(source, here)
    cache = lc.open(here)
    cache["new"] = 2
    cache.persist()
    with pytest.raises(DatasetExistsError, match="went its own way"):
        lc.copy(here, own)
    assert lc.open(own)["new"] == 1
    assert (own / "README.md").read_text().startswith("---\n# Written by lazycache")


def test_what_cannot_be_copied_is_refused_before_anything_is_written(source, tmp_path):
    """Sites that are not there, parts of sites, no sites, no rows; a place in the dataset."""
    for place in (source, f"{source}/inside", source / ".." / source.name / "x"):
        with pytest.raises(DatasetExistsError, match=r"lies in the dataset|is the dataset itself"):
            lc.copy(source, place)
    assert not (source / "inside").exists()
    for sites in ("z_L1H0", []):
        with pytest.raises(SelectionError):
            lc.copy(source, tmp_path / "never", sites=sites)
    with pytest.raises(SiteNotFoundError):
        lc.copy(source, tmp_path / "never", sites="resid_ot_0")
    with pytest.raises(SelectionError, match=r"No row of .* fits where='position > 999'"):
        lc.copy(source, tmp_path / "never", where="position > 999")
    assert not (tmp_path / "never").exists()


def test_a_source_that_is_rewritten_meanwhile_is_copied_as_it_became(tmp_path, monkeypatch):
    """Files that were replaced and deleted while they should be copied are those of a new log."""
    from care_helpers import small_commits

    from lazycache.care import copying

    here, there = tmp_path / "here", tmp_path / "there"
    small_commits(here, range(6))
    before = lc.open(here)["resid_out_0"].rows.load().clone()
    start = copying.transfer

    def late(*args):
        monkeypatch.setattr(copying, "transfer", start)
        lc.compact(here, progress=False)
        lc.gc(here, grace_seconds=0, progress=False)
        start(*args)

    monkeypatch.setattr(copying, "transfer", late)
    monkeypatch.setattr(checkpoints, "EVERY", 4)  # of a log as long as this one a pack is made
    done = lc.copy(here, there)
    assert done.version == lc.open(here).version > 6
    assert torch.equal(lc.open(there)["resid_out_0"].rows.load(), before)
    assert len(list(there.glob("_log/pack-*"))) == 1
    assert lc.verify(there, progress=False).ok
