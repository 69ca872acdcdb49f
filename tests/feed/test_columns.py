"""Columns beside the rows that are fed: the right ones, asked for once, in bounded memory."""

import errno
import itertools
import pickle
from functools import partial

import numpy as np
import pytest
import rows_helpers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lazycache.errors import QueryError, SelectionError, StorageError
from lazycache.feed import column_files, columns
from lazycache.feed.column_files import PiecewiseArray
from lazycache.feed.columns import ColumnReader
from lazycache.feed.words import Words
from lazycache.mapping.activation_cache import ActivationCache

LENGTHS = (3, 1, 5, 2, 4, 6, 1, 2)
NAMES = ["token", "position", "example", "label", "score", "run"]


@pytest.fixture(scope="module")
def made():
    """Two runs of examples with labels (some NULL) and scores, shuffled in storage."""
    yield rows_helpers.make(LENGTHS, runs=2)
    rows_helpers.forget()


def expected(made, x, names):
    """Return what the tables say of the rows of `x`, found by their values, not by their place."""
    known = {row.numpy().tobytes(): number for number, row in enumerate(made.x)}
    numbers = [known[row.numpy().tobytes()] for row in x.rows.load()]
    frame = made.tokens.iloc[numbers]
    return {name: frame[name].astype(object).tolist() for name in names}


def plain(taken):
    """Return columns of a batch as lists."""
    return {name: v if isinstance(v, list) else v.tolist() for name, v in taken.items()}


@pytest.mark.parametrize("piece_rows", [5, 1 << 20])
@pytest.mark.parametrize(
    "select",
    [
        lambda x: x,
        lambda x: x.rows,
        lambda x: x[2:, -1],
        lambda x: x.where("position > 0 AND example <> 2"),
        lambda x: (x * 2)[1:] / 2,
    ],
    ids=["whole", "rows", "view", "where", "expression"],
)
def test_columns_are_those_of_the_rows(made, select, piece_rows):
    """Whatever is selected and in whatever order it is read, a row has its own columns."""
    x = select(made.shared["x"])
    right = expected(made, x, NAMES)
    reader = ColumnReader(x, NAMES, piece_rows=piece_rows)
    places = np.random.default_rng(0).integers(0, x.lead.count, 40)
    found = reader.read(places)
    assert len(found) == 40
    assert plain(found.take(slice(None))) == {n: [v[p] for p in places] for n, v in right.items()}
    index = np.array([7, 7, 0])
    assert plain(found.take(index))["token"] == [right["token"][places[i]] for i in index]


def test_kinds_of_columns(made):
    """Whole numbers are int64, floats and bools keep their dtype, texts are lists with None."""
    names = ["position", "score", "position > 0", "CAST(score AS FLOAT)", "label", "score::DECIMAL"]
    reader = ColumnReader(made.shared["x"], names)
    taken = reader.read(np.arange(sum(LENGTHS))).take(slice(None))
    dtypes = {n: v.dtype for n, v in taken.items() if isinstance(v, torch.Tensor)}
    assert dtypes == {
        "position": torch.int64,
        "score": torch.float64,
        "position > 0": torch.bool,
        "CAST(score AS FLOAT)": torch.float32,
        "score::DECIMAL": torch.float64,
    }
    assert reader.text == {"label"}
    assert None in taken["label"]
    taken["position"].fill_(-1)
    assert reader.read(np.arange(1)).take(slice(None))["position"].item() >= 0


def test_pooled_rows_and_joined_caches(made):
    """Rows of `examples` have its columns, and rows of joined datasets those of their dataset."""
    x = made.shared["pooled"]
    taken = ColumnReader(x, ["example", "score"]).read(np.array([6, 2])).take(slice(None))
    assert plain(taken) == {
        name: [x.rows.columns(name).column(0).to_pylist()[i] for i in (6, 2)] for name in taken
    }
    other = rows_helpers.make((2, 2), seed=5)
    cache = made.open()
    cache.cat(other.open())
    both = cache["x"]
    right = expected(made, made.shared["x"], ["token"])["token"]
    right += expected(other, other.shared["x"], ["token"])["token"]
    found = ColumnReader(both, ["token"], piece_rows=7).read(np.arange(len(right)))
    joined = both.rows.columns("token").column(0).to_pylist()
    assert found.take(slice(None))["token"] == joined
    assert sorted(joined) == sorted(right)


def test_each_piece_is_asked_for_once(made, monkeypatch):
    """Reading the same stretches again asks the index nothing; others are asked for when needed."""
    asked = []

    def counted(*args, count, **options):
        asked.append(count)
        return table_of(*args, count=count, **options)

    table_of = columns.row_columns.table_of
    monkeypatch.setattr(columns.row_columns, "table_of", counted)
    reader = ColumnReader(made.shared["x"], ["token", "position"], piece_rows=10)
    assert asked == [0]
    for _ in range(3):
        reader.read(np.array([23, 1, 22, 2]))
    assert asked == [0, 10, 4]
    reader.read(np.array([15]))
    reader.read(np.arange(24))
    assert asked == [0, 10, 4, 10]


def test_texts_that_are_too_many_are_not_kept(made, monkeypatch):
    """A column with more text than may be kept is asked for anew, and says the same."""
    x = made.shared["x"]
    monkeypatch.setattr(columns, "Words", partial(Words, most_bytes=200))
    many = "token || position || example || '/' || run"
    reader = ColumnReader(x, [many, "token", "position"], piece_rows=6)
    everyone = np.arange(sum(LENGTHS))
    right = x.rows.columns(many, "token").to_pydict()
    for _ in range(2):
        taken = reader.read(everyone[::-1].copy()).take(slice(None))
        assert taken[many][::-1] == right[many]
        assert taken["token"][::-1] == right["token"]
    assert many not in reader._kept
    assert "position" in reader._kept


@settings(max_examples=20)
@given(st.data())
def test_a_file_holds_what_memory_holds(data):
    """Numbers in a file without a name are the same as in memory, whatever the order of parts."""
    count = data.draw(st.integers(1, 50))
    cuts = sorted({0, count, *data.draw(st.lists(st.integers(0, count)))})
    values = np.random.default_rng(count).integers(0, 1 << 30, count).astype(np.int32)
    filed = PiecewiseArray(count, values.dtype, held_bytes=0)
    for first, stop in data.draw(st.permutations(list(itertools.pairwise(cuts)))):
        filed.write(first, values[first:stop])
    places = np.array(data.draw(st.lists(st.integers(0, count - 1), min_size=1)))
    assert filed.take(places).tolist() == values[places].tolist()


def test_a_full_disk_is_a_storage_error(monkeypatch):
    """Columns that do not fit into the folder for temporary files say where and how large."""

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    filed = PiecewiseArray(100, np.dtype(np.int64), held_bytes=0)
    monkeypatch.setattr(column_files.os, "pwrite", full)
    with pytest.raises(StorageError, match=r"column of 800 bytes .* TMPDIR"):
        filed.write(0, np.zeros(100, dtype=np.int64))


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["positon"], "position"),
        (["x"], "unit"),
        (["[position]"], "Take one number"),
        (["current_date"], "epoch"),
        (["position; DROP TABLE x"], "not one expression|no expression"),
        ([3], "named by texts, not 3"),
    ],
)
def test_bad_columns_are_named_at_once(made, names, says):
    """A column that is not there, or neither numbers nor texts, is an error before anything."""
    with pytest.raises(QueryError, match=says):
        ColumnReader(made.shared["x"], names)


def test_missing_whole_numbers_are_an_error(made):
    """A whole number that is NULL has no value in a tensor: it says how many, and what to do."""
    name = "CASE WHEN position = 0 THEN NULL ELSE position END"
    reader = ColumnReader(made.shared["x"], [name])
    for _ in range(2):
        with pytest.raises(QueryError, match=r"no value for 8 of 24 rows .*coalesce"):
            reader.read(np.arange(3))
    with_nan = ColumnReader(made.shared["x"], [f"CAST(({name}) AS DOUBLE)"])
    (values,) = with_nan.read(np.arange(24)).take(slice(None)).values()
    assert int(values.isnan().sum()) == 8


def test_what_is_in_memory_has_no_columns():
    """A tensor of no dataset has no tables: the error names it."""
    cache = ActivationCache()
    cache["a"] = torch.zeros(3, 2)
    x = cache.stack(["a"])["a"]
    with pytest.raises(SelectionError, match="has no tables"):
        ColumnReader(x, ["token"])


def test_a_reader_is_pickled_as_an_address(made, tmp_path):
    """Unpickled, a reader asks the dataset again and says the same; no value is written."""
    cache = made.open()
    cache.save(str(tmp_path / "ds"))
    import lazycache as lc

    reader = ColumnReader(lc.open(str(tmp_path / "ds"))["x"], ["token", "position"])
    places = np.arange(24)
    right = plain(reader.read(places).take(slice(None)))
    raw = pickle.dumps(reader)
    assert len(raw) < 4096
    assert plain(pickle.loads(raw).read(places).take(slice(None))) == right
