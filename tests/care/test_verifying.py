"""`lc.verify`: a whole dataset has no problem; every kind of damage is named with its file."""

import json
import shutil
import zlib

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from catalog_helpers import sealed
from typer.testing import CliRunner
from writer_helpers import ARRAYS, EVERY_SITE, make_batch, new_store, new_writer

import lazycache as lc
from lazycache.care.removing import remove_run
from lazycache.catalog.checkpoints import checkpoint
from lazycache.codec.tables import decode_table, encode_table
from lazycache.errors import CaptureError, SiteNotFoundError
from lazycache.storage.open_store import open_store
from lazycache.views.cli import app

SITES = (*EVERY_SITE, "wide")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Two commits of every kind of site, arrays and values; `wide` has statistics of all kinds."""
    url = tmp_path_factory.mktemp("verify") / "acts"
    EVERY_SITE["wide"] = ("tokens", (64,), torch.float32)
    try:
        writer = new_writer(new_store(url), arrays=ARRAYS)
        for number in range(4):
            writer.write(make_batch(number, sites=SITES, scale=4))
            if number == 1:
                writer.commit()
        writer.close()
    finally:
        del EVERY_SITE["wide"]
    cache = lc.open(url)
    cache["t"], cache["n"] = torch.arange(12.0).reshape(3, 4), {"w": [torch.ones(3), 1.5]}
    cache.persist()
    return url


@pytest.fixture
def acts(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "acts")


def records(url):
    return sorted((url / "_log").glob("*.json"))


def ops(url, version, kind, **where):
    entry = json.loads(records(url)[version - 1].read_bytes().splitlines()[0])
    found = [op for op in entry["ops"] if op["op"] == kind]
    return [op for op in found if all(op.get(key) == value for key, value in where.items())]


def rewritten(url, version, change):
    """Change a record of the log; its checksum is right again."""
    path = records(url)[version - 1]
    entry = json.loads(path.read_bytes().splitlines()[0])
    change(entry)
    path.write_bytes(sealed(entry))


def flip(path, at):
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


def told(url, **options):
    report = lc.verify(url, **options)
    assert report.ok == (not report.problems)
    return [(p.path, p.site, p.commit, p.what) for p in report.problems]


def test_a_whole_dataset_has_no_problem_and_everything_was_read(whole):
    """All bytes but footers are read; each chunk, row and statistic is counted once."""
    report = lc.verify(whole, progress=False)
    assert report.ok, str(report)
    shards = [op for version in (1, 2) for op in ops(whole, version, "shard")]
    stats = [op for op in shards if op.get("stats")]
    assert report.counts["commits"] == 3
    assert report.counts["chunks"] == sum(len(op["chunks"]) for op in shards)
    assert report.counts["rows of values"] == sum(op["rows"] for op in shards)
    assert report.counts["statistics"] == len(stats) > 0
    kinds = {kind for op in stats for kind in ("blocks", "zones", "top") if op["stats"][kind]}
    assert kinds == {"blocks", "zones", "top"}
    assert report.orphans == ()
    assert str(report).startswith(f"{whole}, version 3: no problem found (3 commits, ")


def shard_value(url):
    (op,) = ops(url, 2, "shard", site="wide")
    flip(url / op["path"], op["chunks"][1][1] + 5)
    return op["path"], "wide", 2, "checksum of their values"


def shard_index(url):
    (op,) = ops(url, 2, "shard", site="resid_out_1")
    flip(url / op["path"], op["chunks"][0][3][0])
    return op["path"], "resid_out_1", 2, "is of example"


def shard_width(url):
    (op,) = ops(url, 1, "shard", site="pattern_0")
    flip(url / op["path"], op["chunks"][0][3][-1])
    return op["path"], "pattern_0", 1, "widths"


def shard_footer(url):
    (op,) = ops(url, 1, "shard", site="z_0")
    path = url / op["path"]
    raw = path.read_bytes()
    at = raw.rindex(b"float32")
    path.write_bytes(raw[:at] + b"float23" + raw[at + 7 :])
    return op["path"], "z_0", 1, "lazycache.dtype"


def shard_cut(url):
    (op,) = ops(url, 1, "shard", site="z_0")
    path = url / op["path"]
    path.write_bytes(path.read_bytes()[:-1])
    return op["path"], "z_0", 1, "the log recorded"


def shard_gone(url):
    (op,) = ops(url, 2, "shard", site="pooled")
    (url / op["path"]).unlink()
    return op["path"], "pooled", 2, "missing"


def statistics_bit(url):
    (op,) = ops(url, 2, "shard", site="wide")
    flip(url / op["stats"]["path"], op["stats"]["blocks"][2][3])
    return op["stats"]["path"], "wide", 2, "checksum"


def table_bit(url):
    (op,) = ops(url, 2, "rows", table="tokens")
    column = pq.read_metadata(url / op["path"]).row_group(0).column(1)
    flip(url / op["path"], column.data_page_offset + column.total_compressed_size - 20)
    return op["path"], None, 2, "damaged"


def table_rows(url):
    (op,) = ops(url, 1, "rows", table="examples")
    path = url / op["path"]
    path.write_bytes(encode_table({"example": np.arange(4)}))
    size = path.stat().st_size

    def resized(entry):
        next(o for o in entry["ops"] if o.get("path") == op["path"])["length"] = size

    rewritten(url, 1, resized)
    return op["path"], None, 1, "columns"


def page_header(url):
    (op,) = ops(url, 2, "shard", site="wide")
    flip(url / op["path"], op["chunks"][1][1] - 3)
    return op["path"], "wide", 2, "headers of pages"


def file_begin(url):
    (op,) = ops(url, 1, "shard", site="pattern_0")
    flip(url / op["path"], 0)
    return op["path"], "pattern_0", 1, "headers of pages"


def statistics_rows(url):
    (op,) = ops(url, 2, "shard", site="wide")
    path = url / op["stats"]["path"]
    flip(path, path.read_bytes().index(b"zone") + 1)
    return op["stats"]["path"], "wide", 2, "'kind'"


def array_header(url):
    op = ops(url, 1, "array")[0]
    flip(url / op["path"], op["value_offset"] - 3)
    return op["path"], None, None, "header"


def array_bit(url):
    op = ops(url, 1, "array")[0]
    flip(url / op["path"], op["value_offset"] + 1)
    return op["path"], None, None, "checksum"


def entry_tensor(url):
    op = next(op for op in ops(url, 3, "entry") if op["name"] == "t")
    flip(url / op["tensors"][0]["path"], op["tensors"][0]["chunks"][0][1])
    return op["tensors"][0]["path"], None, None, "checksum"


def entry_tree(url):
    op = next(op for op in ops(url, 3, "entry") if op["name"] == "n")
    flip(url / op["path"], op["start"])
    return op["path"], None, None, "checksum"


DAMAGES = [shard_value, shard_index, shard_width, shard_footer, shard_cut, shard_gone]
DAMAGES += [page_header, file_begin, statistics_rows, array_header]
DAMAGES += [statistics_bit, table_bit, table_rows, array_bit, entry_tensor, entry_tree]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damage_is_told_with_its_file_and_nothing_else_is(acts, damage):
    """One wrong file is one problem that names it, its site and its commit."""
    path, site, commit, what = damage(acts)
    [found] = told(acts)
    assert found[:3] == (path, site, commit)
    assert what in found[3]


@pytest.mark.parametrize("kind", ["min", "nans", "sum", "m2", "zone", "top value", "top row"])
def test_statistics_that_lie_with_a_right_checksum_are_told(acts, kind):
    """Each kind of number is computed again: no lie passes, whatever its checksum says."""
    (op,) = ops(acts, 2, "shard", site="wide")
    stats, path = op["stats"], acts / op["stats"]["path"]
    raw = bytearray(path.read_bytes())
    rows, _, offsets = stats["blocks"]
    sizes = dict(zip(("min", "max", "sum", "mean", "m2"), (4, 4, 8, 8, 8), strict=True))
    places = dict(zip(("nans", "pos", "neg", *sizes), offsets, strict=True))
    part = stats["blocks"]
    if kind in ("min", "sum", "m2"):
        at, size = places[kind], sizes[kind]
        number = np.frombuffer(raw, f"<f{size}", 1, at)[0]
        raw[at : at + size] = np.array([number * 1.01 + 1], f"<f{size}").tobytes()
    elif kind == "nans":
        at = offsets[0] = offsets[3] - 64 * -(-rows * 64 * 4 // 64)
        raw[at : offsets[3]] = np.ones((offsets[3] - at) // 4, "<i4").tobytes()
    else:
        part = stats["zones"][0] if kind == "zone" else stats["top"]
        at = part[2][1] if kind == "top row" else part[2][0]
        kind_of = "<i4" if kind == "top row" else "<f4"
        number = np.frombuffer(raw, kind_of, 1, at)[0]
        raw[at : at + 4] = np.array([number + 1], kind_of).tobytes()
    last = part[2][-1] + part[0] * 64 * (8 if part is stats["blocks"] else 4)
    part[1] = zlib.crc32(raw[next(at for at in part[2] if at) : last])
    path.write_bytes(raw)

    def lying(entry):
        next(o for o in entry["ops"] if o.get("path") == op["path"])["stats"] = stats

    rewritten(acts, 2, lying)
    [(where, site, commit, what)] = told(acts)
    assert (where, site, commit) == (stats["path"], "wide", 2)
    assert "not those of its" in what


def test_values_of_other_rows_are_told_though_every_checksum_is_right(acts):
    """A table whose positions are exchanged no longer agrees with any site of its rows."""
    (op,) = ops(acts, 1, "rows", table="tokens")
    path = acts / op["path"]
    rows = decode_table(path.read_bytes())
    columns = {name: rows[name] for name in rows.column_names}
    columns["position"] = rows["position"].to_numpy()[::-1]
    path.write_bytes(encode_table(columns))
    size = path.stat().st_size

    def resized(entry):
        next(o for o in entry["ops"] if o.get("path") == op["path"])["length"] = size

    rewritten(acts, 1, resized)
    found = told(acts, sites=["resid_out_*", "z_0"])
    assert {site for _, site, _, _ in found} == {"resid_out_0", "resid_out_1", "z_0"}
    assert all("of position" in what and commit == 1 for _, _, commit, what in found)


@pytest.mark.parametrize("how", ["flip", "missing", "contradiction", "twice"])
def test_a_broken_log_is_told_and_what_is_before_it_is_checked(acts, how):
    """The version before the damage is verified; orphans are not guessed from half a log."""
    second = records(acts)[1]
    expected, version = 2, 1
    if how == "flip":
        flip(second, 40)
    elif how == "missing":
        second.unlink()
    elif how == "contradiction":
        site = ops(acts, 1, "site", name="z_0")[0]
        rewritten(acts, 2, lambda entry: entry["ops"].append({**site, "dtype": "int32"}))
    else:
        first = json.loads(records(acts)[0].read_bytes().splitlines()[0])["txn"]
        rewritten(acts, 2, lambda entry: entry.update(txn=first))
        version = 3
    report = lc.verify(acts)
    assert [p.commit for p in report.problems] == [expected]
    assert report.problems[0].path == f"_log/{2:020d}.json"
    assert (report.version, report.orphans) == (version, ())
    assert report.counts["rows of values"] > 0


@pytest.mark.parametrize("how", ["damaged", "lying"])
def test_a_checkpoint_that_is_not_its_records_is_told(acts, how):
    """A damaged one, and one with right checksums that leaves a site's rows out."""
    path = acts / checkpoint(open_store(acts, create=False, storage_options=None))
    assert lc.verify(acts).counts["checkpoints"] == 1
    line, rest = path.read_bytes().split(b"\n", 1)
    if how == "damaged":
        path.write_bytes(line.replace(b"main", b"mine") + b"\n" + rest)
    else:
        head = json.loads(line)
        head["sections"] = [s for s in head["sections"] if s.get("site") != "wide"]
        # places of blocks count from the beginning of the file
        line = json.dumps(head, separators=(",", ":")).encode().ljust(len(line))
        path.write_bytes(b"%s\n%08x" % (line, zlib.crc32(line)) + rest[8:])
    [(where, _, _, what)] = told(acts)
    assert where == f"_log/{path.name}"
    assert ("passed over" in what) if how == "damaged" else ("leaves out" in what)


def test_what_was_looked_after_is_whole_too(acts, tmp_path):
    """Compacted to tiles, with a checkpoint, collected, copied, a run removed: no problem."""
    done = lc.compact(acts, sites="wide", layout="tile:16", progress=False)
    checkpoint(open_store(acts, create=False, storage_options=None))
    assert done.written > 0
    assert lc.verify(acts).ok
    lc.gc(acts, grace_seconds=0, progress=False)
    assert lc.verify(acts).ok, str(lc.verify(acts))
    lc.copy(acts, tmp_path / "copy", progress=False)
    report = lc.verify(tmp_path / "copy")
    assert (report.ok, report.orphans) == (True, ()), str(report)
    with lc.open(acts) as cache:
        (run,), ref = cache.snapshot.runs, cache.snapshot.shards("wide")[0].ref
    flip(acts / ref.path, ref.chunks[0].tile_offsets[1])
    [(path, _, _, what)] = told(acts)
    assert (path, "checksum of their values" in what) == (ref.path, True)
    remove_run(acts, run)
    report = lc.verify(acts)
    assert (report.ok, "chunks" in report.counts) == (True, False), str(report)


def test_leftovers_are_counted_and_are_no_problem(acts):
    """What killed writers left is said with its bytes; the dataset is whole."""
    left = acts / "data" / "z_0" / f"{'a' * 32}-r0.parquet"
    left.write_bytes(b"half a shard")
    report = lc.verify(acts)
    assert report.ok
    assert (report.orphans, report.orphan_bytes) == ((f"data/z_0/{left.name}",), 12)
    assert "1 files of 12 B are named by no commit" in str(report)


def test_an_unknown_site_names_the_nearest(acts):
    """A name that matches nothing is an error before anything is read."""
    with pytest.raises(SiteNotFoundError, match="resid_out_0"):
        lc.verify(acts, sites="resid_ot_0")


def test_the_command_says_it_and_exits_with_1(acts):
    """The exit code is what scripts read; the text names file and advice."""
    runner = CliRunner()
    good = runner.invoke(app, ["verify", str(acts)])
    assert (good.exit_code, "no problem found" in good.output) == (0, True)
    path, *_ = shard_gone(acts)
    bad = runner.invoke(app, ["verify", str(acts), "--site", "pooled"])
    assert bad.exit_code == 1
    assert path in bad.output
    assert "1 problem found" in bad.output
    assert "Restore the file from a copy" in bad.output


class Model(torch.nn.Module):
    """Two layers over tokens."""

    def __init__(self, scale=1.0):
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.embed = torch.nn.Embedding(50, 8)
        self.mix = torch.nn.Linear(8, 8)
        for parameter in self.parameters():
            parameter.data = scale * torch.randn(parameter.shape, generator=generator)

    def forward(self, input_ids, attention_mask=None):  # noqa: ARG002 - the kind that takes one
        return self.mix(self.embed(input_ids)).cumsum(1)


def test_rows_are_run_again_in_their_batches_and_compared_bit_by_bit(tmp_path):
    """The model of the run gives every bit again; a forged value is told, however well forged."""
    url, corpus = (
        tmp_path / "acts",
        [[(3 * i + j) % 50 for j in range(1 + i % 9)] for i in range(9)],
    )
    lc.extract(Model(), corpus, url, ["embed", "mix"], batch_size=4, progress=False)
    lc.extract(Model(), None, None, ["mix:in"], add_to=url, progress=False)
    report = lc.verify(url, against_model=Model(), k=9)
    assert report.ok, str(report)
    tokens = sum(map(len, corpus))
    found = {one.site: (one.rows, one.equal, one.difference) for one in report.compared}
    assert found == dict.fromkeys(("embed:out", "mix:out", "mix:in"), (tokens, tokens, 0.0))
    with pytest.raises(CaptureError, match="another model: the model's weights was"):
        lc.verify(url, against_model=Model(1.5))

    forged, model = tmp_path / "forged", Model()

    def forge(_, __, out):
        out[0, 0, 0] += 9.0  # of each of the three batches

    model.mix.register_forward_hook(forge)
    lc.extract(model, corpus, forged, ["embed", "mix"], batch_size=4, progress=False)
    assert lc.verify(forged).ok
    report = lc.verify(forged, against_model=Model(), sites="mix:out", k=9)
    [problem], [one] = report.problems, report.compared
    assert (problem.site, one.rows, one.equal) == ("mix:out", tokens, tokens - 3)
    assert one.difference > 1
