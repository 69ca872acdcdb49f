"""Values in memory are saved as what they are, and read again without a pickle."""

import copy
import json
import math
import pickle
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from saving.value_helpers import loaded, same, trees

import lazycache as lc
from lazycache.cache.tensor.lazy_tensor import LazyTensor
from lazycache.cache.values.tree_values import Decoder
from lazycache.errors import CorruptShardError, UnsupportedDtypeError
from lazycache.samples import small_cache

NAMES = st.text(st.characters(categories=("L", "N", "P")), min_size=1, max_size=12)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(NAMES, trees, min_size=1, max_size=4))
def test_any_tree_of_values_is_read_again_as_what_it_was(values):
    """Types, dtypes, shapes, bits, keys and their order survive `save` and `open`."""
    before = copy.deepcopy(values)
    url = f"{tempfile.mkdtemp()}/saved"
    lc.ActivationCache(values).save(url)
    assert same(values, before)
    cache = lc.open(url)
    assert cache.io.bytes == 0
    assert list(cache) == list(values)
    for key, value in values.items():
        assert same(value, loaded(cache[key])), key


def test_tensors_come_back_lazy_and_nothing_is_read_before_they_are(tmp_path):
    """Opening, shapes and slices read no value; a slice reads its rows."""
    values = torch.arange(60_000.0).reshape(20, 3000)
    weight = torch.nn.Parameter(values[0])
    lc.ActivationCache({"x": values, "one": weight.sum(), "w": weight}).save(tmp_path)
    cache = lc.open(tmp_path)
    x = cache["x"]
    assert isinstance(x, LazyTensor)
    assert isinstance(cache["one"], LazyTensor)
    assert (x.shape, cache["one"].shape, str(cache["w"].dtype)) == ((20, 3000), (), "torch.float32")
    assert cache.io.bytes == 0
    assert same(x[[3, 1], 5:9].load(), values[[3, 1], 5:9])
    assert cache.io.bytes == 2 * 4 * 4
    assert same((x - values[0])[3].load(), values[3] - values[0])
    assert not cache["w"].load().requires_grad


def test_a_tensor_that_is_there_twice_is_stored_once(tmp_path):
    """One object under two names inside of a value is one file, and one tensor again."""
    shared = torch.ones(5)
    lc.ActivationCache({"pair": [shared, {"again": shared}]}).save(tmp_path)
    assert len(list(tmp_path.rglob("*.parquet"))) == 1
    pair = lc.open(tmp_path)["pair"]
    first, second = pair[0], pair[1]["again"]
    assert first.data_ptr() == second.data_ptr()


def test_lazy_tensors_are_saved_as_their_values(tmp_path):
    """A selection, an expression and a ragged site are written as they would be loaded."""
    source = small_cache()
    x = source["resid_out_0"]
    cache = lc.ActivationCache({"part": x[:, -1], "sum": x[1] + 1, "ragged": x, "nested": [x[0]]})
    cache.save(tmp_path)
    found = lc.open(tmp_path)
    assert same(found["part"].load(), x[:, -1].load())
    assert same(found["sum"].load(), x[1].load() + 1)
    assert found["ragged"].lengths.tolist() == [2, 3, 1]
    assert all(same(a.load(), b.load()) for a, b in zip(found["ragged"], x, strict=True))
    assert same(found["nested"][0], x[0].load())
    again = pickle.loads(pickle.dumps((found, found["ragged"])))
    assert same(again[0]["ragged"][1].load(), x[1].load())
    assert again[1].lengths.tolist() == [2, 3, 1]


def test_files_of_values_are_plain_parquet_and_json(tmp_path):
    """Any Parquet reader has the bytes of a tensor; the tree is JSON on one line."""
    lc.ActivationCache({"x": torch.arange(6.0).reshape(3, 2), "n": {"a": (1, None)}}).save(tmp_path)
    (shard,) = tmp_path.glob("entries/*.parquet")
    rows = pq.ParquetFile(shard, page_checksum_verification=True).read()["value"]
    raw = b"".join(v.as_py() for v in rows)
    assert np.frombuffer(raw, "<f4").tolist() == list(range(6))
    (trees_file,) = tmp_path.glob("entries/*.json")
    assert json.loads(trees_file.read_text()) == {"dict": {"a": {"tuple": [1, None]}}}


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (lambda x: x, "cache['bad'] is the function or class"),
        ({"a": [1, object()]}, "cache['bad']['a'][1] is an object of type builtins.object"),
        (np.array([object()]), "a numpy array of dtype object"),
        (np.ma.masked_array([1]), "numpy.ma"),
        ([torch.ones(2).to_sparse()], "cache['bad'][0]: a tensor of layout torch.sparse_coo"),
        (torch.empty(2, device="meta"), "on the device meta"),
    ],
)
def test_what_cannot_be_saved_is_refused_before_anything_is_written(tmp_path, value, told):
    """The error names the key, the place inside of it and the type; no file appears."""
    cache = lc.ActivationCache({"good": torch.ones(2), "bad": value})
    with pytest.raises(UnsupportedDtypeError) as caught:
        cache.save(tmp_path / "saved")
    assert told in str(caught.value)
    assert not (tmp_path / "saved").exists()


def test_a_value_that_contains_itself_and_a_bad_key_are_refused(tmp_path):
    """Depth has an end, and a key that is no printable text is told."""
    ring = []
    ring.append(ring)
    with pytest.raises(UnsupportedDtypeError, match="contains itself"):
        lc.ActivationCache({"ring": ring}).save(tmp_path)
    with pytest.raises(UnsupportedDtypeError, match="printable"):
        lc.ActivationCache({"a\nb": 1}).save(tmp_path)


def test_saving_over_something_needs_to_be_said(tmp_path):
    """A dataset is replaced with `overwrite` only, other files never; nothing of it is left."""
    lc.ActivationCache({"x": torch.ones(2)}).save(tmp_path)
    newer = lc.ActivationCache({"y": [2]})
    with pytest.raises(lc.DatasetExistsError):
        newer.save(tmp_path)
    newer.save(tmp_path, overwrite=True)
    assert dict(lc.open(tmp_path)) == {"y": [2]}
    assert not list(tmp_path.rglob("*.parquet"))
    opened = lc.open(tmp_path)
    with pytest.raises(lc.DatasetExistsError, match="behind this cache"):
        opened.save(tmp_path, overwrite=True)
    (tmp_path / "thesis.tex").write_text("all of it")
    with pytest.raises(lc.DatasetExistsError, match="thesis"):
        newer.save(tmp_path, overwrite=True)
    assert dict(lc.open(tmp_path)) == {"y": [2]}


@pytest.mark.parametrize(
    "value",
    [torch.ones([1] * 33), np.ones([1] * 33), torch.empty(1 << 60, 0)],
    ids=["tensor", "array", "empty"],
)
def test_what_nobody_could_read_is_not_written(tmp_path, value):
    """More dimensions or larger sizes than a reader takes would make the dataset unreadable."""
    lc.ActivationCache({"x": 1}).save(tmp_path)
    cache = lc.open(tmp_path)
    cache["wide"] = [value]
    with pytest.raises(UnsupportedDtypeError, match="wide"):
        cache.persist()
    assert list(lc.open(tmp_path)) == ["x"]
    cache["wide"] = value[(0,) * (value.ndim - 32)] if value.ndim > 32 else value[:9]
    cache.persist()
    assert lc.open(tmp_path)["wide"].ndim in (2, 32)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_nested_tensor_is_refused(tmp_path):
    """It has no shape of its own; the error says what can be saved instead."""
    nested = torch.nested.nested_tensor([torch.ones(1), torch.ones(2)])
    with pytest.raises(UnsupportedDtypeError, match="list of its parts"):
        lc.ActivationCache({"n": nested}).save(tmp_path / "new")


def test_a_large_tensor_is_written_in_the_memory_it_has(tmp_path):
    """A contiguous tensor is handed to the file as it is: its own pages, no copy."""
    from lazycache.cache.tensor.tensor_leaves import leaf_of_tensor

    tensor = torch.arange(10_000.0).reshape(100, 100)
    (piece,) = leaf_of_tensor(tensor).chunks()
    assert np.frombuffer(piece, np.uint8).ctypes.data == tensor.data_ptr()
    lc.ActivationCache({"t": tensor.t()}).save(tmp_path)
    assert same(lc.open(tmp_path)["t"].load(), tensor.t().contiguous())


HOSTILE = [
    b"{",
    b"[" * 5000 + b"]" * 5000,
    b'{"float":"1"}',
    b'{"int":"zz"}',
    b'{"pickle":"gASV"}',
    b'{"tensor":7}',
    b'{"tensor":-1}',
    b'{"tensor":true}',
    b'{"tensor":0,"list":1}',
    b'{"array":[0,"|O",[1]]}',
    b'{"array":[0,"<f4",[1000000000]]}',
    b'{"array":[0,"<U999999999",[1]]}',
    b'{"scalar":["<f4","00"]}',
    b'{"scalar":["<U1","00000040"]}',
    b'{"items":[[[1],2]]}',
    b'{"items":[1]}',
    b'{"dict":[1]}',
    b'{"bytes":"?"}',
    b'{"text":"//8="}',
    b'{"dtype":"nn"}',
    b'{"device":"nowhere"}',
    b'{"noted":[1]}',
    b'{"size":[-1]}',
    b'{"ragged":[0,[9223372036854775807,1]]}',
    b'{"complex":["a","b"]}',
    b'{"tuple":{"list":1}}',
    b"9" * 5000,
]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_tree_is_refused(tmp_path, text):
    """Whatever JSON says, reading it gives a value or CorruptShardError naming the entry."""
    lc.ActivationCache({"v": [torch.ones(2)]}).save(tmp_path)
    (path,) = tmp_path.glob("entries/*.json")
    (record,) = tmp_path.glob("_log/*.json")
    path.write_bytes(text + b"\n")
    body = json.loads(record.read_bytes().splitlines()[0])
    body["ops"][0] |= {"length": len(text), "crc": zlib.crc32(text)}
    line = json.dumps(body).encode()
    record.write_bytes(b"%s\n%08x\n" % (line, zlib.crc32(line)))
    with pytest.raises(CorruptShardError, match="'v'"):
        lc.open(tmp_path)["v"]


@settings(max_examples=150, deadline=None)
@given(
    st.recursive(
        st.one_of(st.none(), st.integers(), st.text(max_size=3), st.booleans()),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(
                st.sampled_from(["tuple", "dict", "items", "array", "scalar", "text", "int",
                                 "noted", "size", "ragged", "tensor", "complex", "bytes", "x"]),
                inner, max_size=2,
            ),
        ),
        max_leaves=6,
    )
)  # fmt: skip
def test_any_json_is_a_value_or_refused(tree):
    """No JSON that is not ours brings an error of another kind."""
    decoder = Decoder(lambda number: torch.ones(3)[: [3][number]], ragged=lambda *_: None)
    try:
        decoder.parsed(json.dumps(tree).encode())
    except CorruptShardError:
        return


def test_the_name_of_a_dtype_imports_nothing(monkeypatch):
    """Asked for the name of a module of its own, torch imports it: a tree does not ask it."""
    monkeypatch.setattr(torch, "__getattr__", lambda name: pytest.fail(f"asked for {name}"))
    decoder = Decoder(lambda _: torch.ones(1), ragged=lambda *_: None)
    assert decoder.parsed(b'{"dtype":"bfloat16"}') == torch.bfloat16
    with pytest.raises(CorruptShardError):
        decoder.parsed(b'{"dtype":"_nothing_of_this_name"}')


def test_texts_of_numpy_are_characters():
    """An array whose words are no characters would fail where it is shown."""
    decoder = Decoder(lambda _: torch.tensor([0, 0, 0, 64], dtype=torch.uint8), ragged=None)
    assert decoder.parsed(b'{"array":[0,"|S4",[1]]}').shape == (1,)
    with pytest.raises(CorruptShardError, match="no characters"):
        decoder.parsed(b'{"array":[0,"<U1",[1]]}')
    assert decoder.parsed(b'{"array":[0,">U1",[1]]}')[0] == "@"


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_damaged_files_are_told(tmp_path, damage):
    """A changed, short or missing file is CorruptShardError, of trees and of tensors."""
    lc.ActivationCache({"n": [1, 2], "x": torch.arange(3000.0)}).save(tmp_path)
    for path in (*tmp_path.glob("entries/*.json"), *tmp_path.glob("entries/*.parquet")):
        raw = bytearray(path.read_bytes())
        raw[1 if path.suffix == ".json" else 300] ^= 4
        path.write_bytes({"flip": raw, "cut": raw[:2]}.get(damage, b""))
        if damage == "gone":
            path.unlink()
    cache = lc.open(tmp_path, check=True)
    with pytest.raises(lc.LazycacheError) as caught:
        cache["n"]
    assert isinstance(caught.value, CorruptShardError) or damage == "cut"
    with pytest.raises(CorruptShardError):
        cache["x"].load()


def _change(record: Path, change) -> None:
    body = json.loads(record.read_bytes().splitlines()[0])
    change(body["ops"][0])
    line = json.dumps(body).encode()
    record.write_bytes(b"%s\n%08x\n" % (line, zlib.crc32(line)))


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [4, 2]},
        {"shape": [2**62, 2**62]},
        {"lead": 3},
        {"dtype": "float128"},
        {"length": 10},
        {"chunks": [[3, 64, 0], [0, 64, 0]]},
        {"chunks": [[3, 65, 0]]},
        {"chunks": [[3, 1 << 40, 0]]},
        {"path": "../../etc/passwd"},
        {"path": None},
        {"shape": [1 << 60, 0], "lead": 2, "path": None},
        {"shape": [3, *[1] * 32, 2]},
    ],
)
def test_a_hostile_log_record_is_refused(tmp_path, change):
    """Sizes, places and paths of a tensor that cannot be are CorruptShardError at open."""
    lc.ActivationCache({"x": torch.ones(3, 2)}).save(tmp_path)
    (record,) = tmp_path.glob("_log/*.json")
    _change(record, lambda op: op["tensors"][0].update(change))
    with pytest.raises(CorruptShardError):
        lc.open(tmp_path)


def test_infinities_and_zero_keep_their_sign():
    """Floats that JSON has no word for are written by name."""
    url = f"{tempfile.mkdtemp()}/saved"
    lc.ActivationCache({"f": [math.inf, -math.inf, -0.0, math.nan, 5e-324]}).save(url)
    assert same(lc.open(url)["f"], [math.inf, -math.inf, -0.0, math.nan, 5e-324])
