"""Tables of decoders and calls, and sites that are no plain columns, in SQL."""

import numpy as np
import pytest
import torch
from query_helpers import Made, empty_dataset, token_columns

from lazycache.cache.reading.site_reader import SiteReader
from lazycache.catalog.index import SCHEMA
from lazycache.codec.dtypes import as_bytes
from lazycache.codec.shard import ShardEncoder
from lazycache.errors import QueryError
from lazycache.query.sql.connection import connect
from lazycache.types import ArrayRef, Commit, IoCounters, RunInfo, ShardRef, SiteSpec

EXAMPLES = {"example": np.arange(3), "length": np.array([2, 2, 2])}


def calls_of(columns: dict, calls: int) -> dict:
    """The rows of a table of calls: all rows of the first call, then those of the second."""
    rows = len(columns["example"])
    repeated = {name: np.tile(columns[name], calls) for name in ("example", "position")
                if name in columns}  # fmt: skip
    return {**repeated, "call": np.repeat(np.arange(calls, dtype=np.int32), rows)}


@pytest.fixture
def made(tmp_path) -> Made:
    """Tokens, decoder tokens and calls of all three, a site of each."""
    made = empty_dataset(tmp_path)
    tokens, decoder = token_columns(range(3), 2), token_columns(range(3), 3)
    sites = {}
    tables = {
        "tokens": tokens,
        "examples": EXAMPLES,
        "decoder_tokens": decoder,
        "calls": calls_of(tokens, 2),
        "example_calls": calls_of({"example": EXAMPLES["example"]}, 3),
        "decoder_calls": calls_of(decoder, 2),
    }
    for number, (table, columns) in enumerate(tables.items()):
        rows = len(columns["example"])
        sites[f"of_{table}"] = (table, torch.arange(2.0 * rows).reshape(rows, 2) + 100 * number)
    made.commit(tables, sites)
    return made


@pytest.fixture
def sql(made, tmp_path):
    """The `sql` method of a connection."""
    reader = made.reader()
    with connect(made.snapshot, reader, made.store, index_directory=tmp_path) as connection:
        yield connection.sql


TABLES = ("tokens", "examples", "decoder_tokens", "calls", "example_calls", "decoder_calls")


@pytest.mark.parametrize("table", TABLES)
def test_every_table_has_its_rows_and_its_lazy_columns(sql, made, table: str) -> None:
    """In storage order, with the index columns of the table and the values of its sites."""
    site = f"of_{table}"
    rows = sql(f"SELECT row, {site}, unit({site}, 1) FROM {table} ORDER BY row").fetchall()
    values = made.values[site]
    assert [row for row, _, _ in rows] == list(range(len(values)))
    assert [list(whole) for _, whole, _ in rows] == values.tolist()
    assert [one for _, _, one in rows] == values[:, 1].tolist()


def test_calls_are_told_apart_by_their_number(sql, made) -> None:
    """`call` is a column like position; a call of a token joins with the token."""
    query = "SELECT call, position, example FROM calls WHERE call = 1 ORDER BY row"
    rows = sql(query).fetchall()
    assert rows == [(1, row % 2, row // 2) for row in range(6)]
    ((first, last),) = sql(
        "SELECT min(unit(of_calls, 0)), max(unit(of_calls, 0)) FROM calls "
        "JOIN tokens USING (run, example, position) WHERE call = 1 AND token = ' Paris'"
    ).fetchall()
    assert [first, last] == made.values["of_calls"][[6, 11], 0].tolist()
    query = "SELECT call, count(*) FROM example_calls GROUP BY call ORDER BY call"
    assert sql(query).fetchall() == [(0, 3), (1, 3), (2, 3)]


def test_a_site_of_another_table_is_said_to_be_there(sql) -> None:
    """Logits of an encoder-decoder model are not of `tokens`, for example."""
    for query in ("SELECT of_decoder_tokens FROM tokens", "SELECT t.of_calls FROM tokens t"):
        with pytest.raises(QueryError, match=r"'of_\w+' is a column of \w+: ask there"):
            sql(query)


def test_decoder_tokens_have_text(sql) -> None:
    """As tokens do."""
    assert sql("DESCRIBE decoder_tokens").fetchall()[:6] == sql("DESCRIBE tokens").fetchall()[:6]
    ((count,),) = sql("SELECT count(*) FROM decoder_tokens WHERE token = ' Paris'").fetchall()
    assert count == 2


def test_tables_that_a_dataset_does_not_use_are_not_there(tmp_path) -> None:
    """Every dataset has tokens and examples; the error names these."""
    made = empty_dataset(tmp_path)
    made.commit({"tokens": token_columns([0], 2)})
    with connect(made.snapshot, made.reader(), made.store, index_directory=tmp_path) as connection:
        assert connection.sql("SELECT count(*) FROM examples").fetchall() == [(0,)]
        with pytest.raises(QueryError, match="No table 'calls'") as error:
            connection.sql("SELECT * FROM calls").fetchall()
        assert "lazycache_index" not in str(error.value)


def test_the_step_of_a_generated_token_is_a_column(tmp_path) -> None:
    """Of a generation; NULL for rows of other passes, and no column where there was none."""
    made = empty_dataset(tmp_path)
    made.commit({"tokens": token_columns([0], 2)})
    with connect(made.snapshot, made.reader(), made.store, index_directory=tmp_path) as connection:
        with pytest.raises(QueryError, match="No column or site 'step'"):
            connection.sql("SELECT step FROM tokens").fetchall()
    made.commit({"tokens": token_columns([1], 3, step=np.array([0, 0, 1], dtype=np.int32))})
    with connect(made.snapshot, made.reader(), made.store, index_directory=tmp_path) as connection:
        found = connection.sql("SELECT example, step FROM tokens ORDER BY row")
        assert found.types == ("BIGINT", "INTEGER")
        assert found.fetchall() == [(0, None), (0, None), (1, 0), (1, 0), (1, 1)]


def test_an_index_grows_with_new_tables(made, tmp_path) -> None:
    """What an earlier version's index lacks is added to a copy of it."""
    with connect(made.snapshot, made.reader(), made.store, index_directory=tmp_path) as connection:
        connection.sql("SELECT 1").fetchall()
    more = calls_of(token_columns([3], 2), 2)
    made.commit({"calls": more}, {"of_calls": ("calls", torch.full((4, 2), 7.0))})
    with connect(made.snapshot, made.reader(), made.store, index_directory=tmp_path) as connection:
        query = "SELECT count(*), max(row), sum(unit(of_calls, 0)) FROM calls WHERE example = 3"
        assert connection.sql(query).fetchall() == [(4, 15, 28.0)]
    (folder,) = [path for path in tmp_path.iterdir() if path.is_dir() and path.name != "dataset"]
    assert sorted(path.name[:2] for path in folder.glob("*.duckdb")) == [f"s{SCHEMA}"] * 2


class Attention:
    """A dataset of real shards: a pattern, z of three heads, and their projection."""

    def __init__(self, made: Made) -> None:
        self.made = made
        self.widths = [2, 2, 3, 3, 3]
        self.z = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))
        self.matrix = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(1))
        tokens = {"example": np.array([0, 0, 1, 1, 1]), "position": np.array([0, 1, 0, 1, 2])}
        examples = {"example": np.array([0, 1]), "length": np.array([2, 3])}
        made.commit({"tokens": tokens, "examples": examples})
        made.commits.append(self._commit(tokens))

    def _commit(self, tokens: dict) -> Commit:
        pattern = SiteSpec("pattern_0", "tokens", "float32", (2, -1), 8, "ragged")
        z = SiteSpec("z_0", "tokens", "float32", (3, 4), 48)
        rows = [torch.full((2, width), float(width)) for width in self.widths]
        return Commit(
            version=2,
            txn="t2",
            writer="test",
            time="2026-11-21T12:00:00Z",
            run="main",
            runs=(RunInfo("main", {"heads": {"": [3, 3]}}),),
            sites=(pattern, z),
            shards=(
                self._shard(pattern, rows, {**tokens, "width": np.array(self.widths)}),
                self._shard(z, list(self.z), tokens),
            ),
            arrays=(self._array("head_out_0.weight", self.matrix),),
        )

    def _shard(self, spec: SiteSpec, rows: list[torch.Tensor], index: dict) -> ShardRef:
        file = bytearray()
        encoder = ShardEncoder(spec, write=lambda pieces: file.extend(b"".join(pieces)))
        chunk = encoder.add_chunk([as_bytes(row.contiguous()) for row in rows], index)
        encoder.finish()
        path = f"data/{spec.name}/{0:032x}-r0.parquet"
        self.made.store.put(path, bytes(file))
        return ShardRef(spec.name, path, len(file), len(rows), 0, 1, (chunk,))

    def _array(self, name: str, values: torch.Tensor) -> ArrayRef:
        import zlib

        data = bytes(as_bytes(values))
        path = f"arrays/{name}/{0:032x}-r0.parquet"
        self.made.store.put(path, bytes(64) + data)
        return ArrayRef(
            name, path, 64 + len(data), "float32", tuple(values.shape), 64, zlib.crc32(data)
        )


@pytest.fixture
def attention(tmp_path):
    """Such a dataset, and its connection."""
    found = Attention(empty_dataset(tmp_path))
    snapshot = found.made.snapshot
    found.reader = SiteReader(found.made.store, snapshot, io=IoCounters())
    with connect(snapshot, found.reader, found.made.store, index_directory=tmp_path) as connection:
        found.sql = connection.sql
        yield found


def test_head_out_is_a_column_that_is_computed(attention) -> None:
    """Its values are z times the projection; only rows and heads that are asked for are read."""
    want = torch.einsum("rhd,hdm->rhm", attention.z, attention.matrix)
    rows = attention.sql("SELECT head_out_0 FROM tokens ORDER BY row").fetchall()
    assert torch.allclose(torch.tensor([row for (row,) in rows]), want, atol=1e-5)
    attention.reader.io.reset()
    query = "SELECT position, unit(head_out_0, 1, 3) FROM tokens WHERE example = 1 ORDER BY row"
    values = [value for _, value in attention.sql(query).fetchall()]
    assert torch.allclose(torch.tensor(values), want[2:, 1, 3], atol=1e-5)
    assert (attention.reader.io.rows, attention.reader.io.bytes) == (3, 3 * 4 * 4)
    assert attention.sql("SELECT head_out_0 FROM tokens").types == ("FLOAT[6][3]",)
    with pytest.raises(QueryError, match="outside the shape"):
        attention.sql("SELECT unit(head_out_0, 3, 0) FROM tokens").fetchall()


def test_a_ragged_site_is_a_column_of_lists(attention) -> None:
    """Heads of keys, as many keys as the row has; a key that a row lacks is NULL."""
    columns = [row[0] for row in attention.sql("DESCRIBE tokens").fetchall()]
    assert columns[-3:] == ["head_out_0", "pattern_0", "z_0"]
    result = attention.sql(
        "SELECT PATTERN_0, head(pattern_0, -1), unit(pattern_0, 1, 2), unit(t.pattern_0, 0, -1) "
        "FROM tokens t ORDER BY row"
    )
    assert result.types == ("FLOAT[][]", "FLOAT[]", "FLOAT", "FLOAT")
    whole, head, third, last = zip(*result.fetchall(), strict=True)
    assert [list(map(list, row)) for row in whole] == [[[w] * w] * 2 for w in attention.widths]
    assert [list(row) for row in head] == [[w] * w for w in attention.widths]
    assert third == (None, None, 3.0, 3.0, 3.0)
    assert last == (2.0, 2.0, 3.0, 3.0, 3.0)
    for column, numbers in {
        "pattern_0": 12,
        "head(pattern_0, 1)": 6,
        "unit(pattern_0, 1, 2)": 2,
    }.items():
        attention.reader.io.reset()
        attention.sql(f"SELECT {column} FROM tokens WHERE row > 2").fetchall()
        assert attention.reader.io.bytes == 4 * numbers, column
    for asked in ("unit(pattern_0, 2, 0)", "head(pattern_0, -3)"):
        with pytest.raises(QueryError, match=r"outside the shape \[2, -1\]"):
            attention.sql(f"SELECT {asked} FROM tokens").fetchall()


def test_a_head_is_no_column_and_says_how_it_is_read(attention) -> None:
    """Per-head names are names of the cache."""
    with pytest.raises(QueryError, match=r'cache\["z_L0H1"\] reads it; in SQL it is head\(z_0, h'):
        attention.sql('SELECT "z_L0H1" FROM tokens').fetchall()
    with pytest.raises(QueryError, match=r"in SQL it is head\(pattern_0, h\)"):
        attention.sql("SELECT pattern_L0H1 FROM tokens").fetchall()


def test_the_catalogue_lists_what_is_ragged_and_what_is_computed(attention) -> None:
    """With the shape that a row has; -1 is as wide as the row says."""
    query = "SELECT site, shape, layout, rows, shards > 0 FROM sites"
    assert attention.sql(query).fetchall() == [
        ("head_out_0", [3, 6], "computed", 5, False),
        ("pattern_0", [2, -1], "ragged", 5, True),
        ("z_0", [3, 4], "row", 5, True),
    ]
    query = "SELECT site, rows, value_bytes FROM chunks ORDER BY site"
    assert attention.sql(query).fetchall() == [
        ("pattern_0", 5, 8 * sum(attention.widths)),
        ("z_0", 5, 5 * 48),
    ]


def test_names_that_differ_in_case_keep_their_meaning(tmp_path) -> None:
    """A computed site has its name from the commit that brought its projection."""
    found = Attention(empty_dataset(tmp_path))
    made = found.made
    made.commits.append(
        Commit(
            version=3,
            txn="t3",
            writer="test",
            time="2026-11-21T12:00:00Z",
            run="main",
            sites=(SiteSpec("HEAD_OUT_0", "tokens", "float32", (), 4),),
        )
    )
    reader = SiteReader(made.store, made.snapshot, io=IoCounters())
    with connect(made.snapshot, reader, made.store, index_directory=tmp_path) as connection:
        columns = [row[0] for row in connection.sql("DESCRIBE tokens").fetchall()]
    assert {"head_out_0", "HEAD_OUT_0_2"} <= set(columns)


def test_names_with_dots_are_advised_in_quotes(made, tmp_path) -> None:
    """What a message says to write is SQL."""
    sites = {"decoder.z_0": ("decoder_tokens", torch.ones(2, 3, 4))}
    made.commit({"decoder_tokens": token_columns([7], 2)}, sites)
    with connect(made.snapshot, made.reader(), made.store, index_directory=tmp_path) as connection:
        for query in (
            'SELECT "decoder.z_L0H1" FROM decoder_tokens',
            'SELECT unit("decoder.z_0", 1.5, 0) FROM decoder_tokens',
        ):
            with pytest.raises(QueryError, match=r'(unit|head)\("decoder\.z_0", '):
                connection.sql(query).fetchall()
