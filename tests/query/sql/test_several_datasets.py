"""Several datasets in one query: two models over the same texts, joined row by row."""

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np
import pandas as pd
import pytest
import torch
from query_helpers import FakeReader, empty_dataset, flip, token_columns

import lazycache as lc
from lazycache.errors import QueryError, ReadOnlyError, StorageError
from lazycache.query.sql.connection import Asked, connect_several
from lazycache.samples import small_cache

LENGTH = 20
EXAMPLES = {"base": range(60), "tuned": range(20, 80)}
"""40 examples are in both."""


def stored(made):
    """The values of the sites of a dataset."""
    return made.values  # noqa: PD011  # no frame


def model_outputs(path, name, seed):
    """A dataset with a site of two shapes of rows; every third row of `part` is missing."""
    made = empty_dataset(path / name, uuid=name)
    examples = EXAMPLES[name]
    generator = torch.Generator().manual_seed(seed)
    rows = len(examples) * LENGTH
    values = torch.randn(rows, 8, generator=generator)
    values[5, 2], values[6, 2] = torch.nan, torch.inf
    made.commit(
        {
            "tokens": token_columns(examples, LENGTH),
            "examples": {"example": np.asarray(examples), "length": np.full(60, LENGTH)},
        },
        {
            "resid_out_3": ("tokens", values),
            "z_1": ("tokens", torch.randn(rows, 2, 3, generator=generator)),
            f"only_{name}": ("tokens", values[:, :2].clone()),
        },
    )
    return made


class Two:
    """Two datasets and a connection over both, with readers that count."""

    def __init__(self, path):
        self.made = {n: model_outputs(path, n, s) for s, n in enumerate(EXAMPLES)}
        self.readers = {name: FakeReader(stored(made)) for name, made in self.made.items()}
        self.folder = path / "index"
        self.connection = self.connect()
        self.frame = self.joined()

    def connect(self):
        asked = {
            name: Asked(made.snapshot, self.readers[name], made.store, {}, None)
            for name, made in self.made.items()
        }
        return connect_several(asked, index_directory=self.folder)

    def joined(self):
        """The inner join as pandas makes it: `row_x`, `row_y`, `token_x`."""
        tables = []
        for name, made in self.made.items():
            columns = pd.DataFrame(token_columns(EXAMPLES[name], LENGTH))
            tables.append(columns.assign(row=np.arange(len(stored(made)["resid_out_3"]))))
        return tables[0].merge(tables[1], on=["example", "position"])

    def difference(self, frame, unit):
        """Unit of base minus that of tuned, for rows of the join."""
        base, tuned = (stored(self.made[name])["resid_out_3"][:, unit] for name in EXAMPLES)
        return (base[frame.row_x.tolist()] - tuned[frame.row_y.tolist()]).tolist()

    def asked(self, query, *args, **kwargs):
        """The rows of a query, and how many values each reader gave for it."""
        for reader in self.readers.values():
            reader.io.reset()
        rows = self.connection.sql(query, *args, **kwargs).fetchall()
        return rows, [(reader.io.rows, reader.io.bytes) for reader in self.readers.values()]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Both datasets; nothing is changed in them."""
    made = Two(tmp_path_factory.mktemp("two"))
    with made.connection:
        yield made


ON = "base.tokens b JOIN tuned.tokens t USING (example, position)"
DIFFERENCE = "unit(b.resid_out_3, 5) - unit(t.resid_out_3, 5)"


CHOSEN = "WHERE b.token = ' Paris' AND position < 4 ORDER BY example, position"
FORMS = {
    "aliases": f"SELECT {DIFFERENCE} FROM {ON} {CHOSEN}",
    # where tables have no alias, all three names
    "three names": """
        SELECT unit(base.tokens.resid_out_3, 5) - unit(Tuned.tokens.resid_out_3, 5)
        FROM base.tokens JOIN tuned.tokens USING (example, position)
        WHERE base.tokens.token = ' Paris' AND position < 4 ORDER BY example, position""",
    # CTEs and subqueries pass the sites on
    "ctes": f"""
        WITH t AS (FROM tuned.tokens), b AS (SELECT * FROM base.tokens WHERE token = ' Paris')
        SELECT {DIFFERENCE} FROM b JOIN t USING (example, position) {CHOSEN}""",
    "subquery": f"""
        SELECT unit(b.x, $u) - unit(t.resid_out_3, $u)
        FROM (SELECT row, resid_out_3 AS x, token, example, position FROM base.tokens) b
        JOIN tuned.tokens t USING (example, position) {CHOSEN}""",
    # beside the other dataset
    "self join": f"""
        SELECT {DIFFERENCE} FROM base.tokens b JOIN base.tokens c ON b.row = c.row
        JOIN tuned.tokens t ON c.example = t.example AND c.position = t.position
        WHERE c.token = ' Paris' AND b.position < 4 ORDER BY b.example, b.position""",
}


@pytest.mark.parametrize("query", FORMS.values(), ids=FORMS)
def test_a_difference_of_models_reads_one_unit_of_the_rows_that_survive(two, query):
    """Four bytes of each dataset for each row of the answer, in every form of the query."""
    frame = two.frame[(two.frame.token_x == " Paris") & (two.frame.position < 4)]
    frame = frame.sort_values(["example", "position"])
    rows, read = two.asked(query, {"u": 5} if "$u" in query else None)
    assert [value for (value,) in rows] == two.difference(frame, 5)
    assert read == [(len(frame), 4 * len(frame))] * 2
    assert len(frame) == 40


def test_not_a_number_and_missing_partners(two):
    """NaN and infinity pass through; a row without a partner is NULL, and not read."""
    rows, read = two.asked(
        "SELECT b.row, unit(b.resid_out_3, 2), unit(t.resid_out_3, 2), t.row "
        "FROM base.tokens b LEFT JOIN tuned.tokens t USING (example, position) "
        "WHERE b.row IN (5, 6, 7, 400) ORDER BY b.row"
    )
    values = stored(two.made["base"])["resid_out_3"][:, 2]
    assert np.isnan(rows[0][1])
    assert rows[1][1] == np.inf
    assert [row[1] for row in rows[2:]] == values[[7, 400]].tolist()
    assert [row[3] for row in rows] == [None, None, None, 0]
    assert rows[3][2] == stored(two.made["tuned"])["resid_out_3"][0, 2].item()
    assert [one[0] for one in read] == [4, 1]


def test_vectors_heads_and_sites_of_one_dataset_alone(two):
    """Whole vectors, units of heads, and a site that the other dataset lacks."""
    rows, read = two.asked(
        "SELECT b.resid_out_3, unit(t.z_1, 1, -1), unit(t.only_tuned, 1), b.token "
        f"FROM {ON} WHERE example = 30 AND position = 3"
    )
    base, tuned = 30 * LENGTH + 3, 10 * LENGTH + 3
    values = {name: stored(made) for name, made in two.made.items()}
    assert rows == [
        (
            tuple(values["base"]["resid_out_3"][base].tolist()),
            values["tuned"]["z_1"][tuned, 1, -1].item(),
            values["tuned"]["only_tuned"][tuned, 1].item(),
            rows[0][3],
        )
    ]
    assert [one[0] for one in read] == [1, 2]
    ((mean,),), _ = two.asked(f"SELECT avg({DIFFERENCE}) FROM {ON}")
    assert mean == pytest.approx(np.mean(two.difference(two.frame, 5)), abs=1e-6)


def test_measures_of_each_dataset(two):
    """Norms and products of a direction, of the rows that survive, as torch has them."""
    direction = torch.arange(8.0)
    rows, read = two.asked(
        "SELECT avg(norm(b.resid_out_3)), avg(dot(t.resid_out_3, $v)), "
        f"avg(dot(b.resid_out_3, t.resid_out_3)) FROM {ON} WHERE position = 7",
        {"v": direction},
    )
    frame = two.frame[two.frame.position == 7]
    base, tuned = (stored(two.made[name])["resid_out_3"].double() for name in EXAMPLES)
    b, t = base[frame.row_x.tolist()], tuned[frame.row_y.tolist()]
    expected = [b.norm(dim=1).mean(), (t @ direction.double()).mean(), (b * t).sum(1).mean()]
    assert rows[0] == pytest.approx([one.item() for one in expected], rel=1e-5)
    assert [one[0] for one in read] == [80, 80]


def test_tables_that_describe_are_there_for_each(two):
    """Counting and metadata read no shard; a column of each side keeps its own name."""
    rows, read = two.asked(
        "SELECT b.site, t.site FROM base.sites b FULL JOIN tuned.sites t USING (site) "
        "WHERE b.site IS NULL OR t.site IS NULL ORDER BY 1"
    )
    assert rows == [("only_base", None), (None, "only_tuned")]
    for table in ("shards", "chunks", "commits", "runs", "examples"):
        (((base, tuned),), more) = two.asked(
            f"SELECT (SELECT count(*) FROM base.{table}), (SELECT count(*) FROM tuned.{table})"
        )
        assert base == tuned > 0
        assert more == read == [(0, 0)] * 2


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("FROM tokens", r"say which one, base\.tokens or tuned\.tokens\.$"),
        ("SELECT count(*) FROM base.tokns", r"No table 'tokns'\. Nearest: base\.tokens"),
        ("FROM bse.tokens", r"No table 'bse\.tokens'\. Nearest: base\.tokens"),
        ("SELECT unit(resid_ot_3, 1) FROM base.tokens", r"Nearest: resid_out_3"),
        ("SELECT base.token FROM base.tokens", r"base is a dataset: a column is base\.tokens\."),
        ("SELECT only_tuned FROM base.tokens", r"a column of tuned\.tokens"),
        (f"SELECT resid_out_3 FROM {ON}", r"Ambiguous"),
        (f"SELECT unit(t.resid_out_3, 0.5) FROM {ON}", r"takes 1 integer for resid_out_3"),
        ("SELECT unit(b.resid_out_3, 8) FROM base.tokens b", r"outside the shape \[8\]"),
    ],
)
def test_mistakes_name_the_tables_of_the_datasets(two, query, message):
    """Typos, tables without a dataset and ambiguous sites come with what to write instead."""
    with pytest.raises(QueryError, match=message) as error:
        two.connection.sql(query).fetchall()
    assert "lazycache_index" not in str(error.value)


@pytest.mark.parametrize(
    "query", ["DELETE FROM base.tokens", "CREATE TABLE tuned.x AS SELECT 1", "DROP SCHEMA base"]
)
def test_nothing_is_written(two, query):
    """Neither to a dataset nor beside it."""
    with pytest.raises(ReadOnlyError, match="only reads"):
        two.connection.sql(query)


def test_an_index_in_memory_and_chosen_rows_are_read_only_too(tmp_path):
    """A WITH clause that deletes is refused; the same dataset may be there with fewer rows."""
    cache = small_cache()
    with lc.connect({"every": cache, "later": cache.where("position > 0")}) as connection:
        query = "SELECT sum(unit(l.resid_out_0, 1)), count(*) FROM every.tokens e "
        query += "LEFT JOIN later.tokens l ON e.row = l.row"
        assert connection.sql(query).fetchall() == [(3.0 + 7.0 + 9.0, 6)]
        for table in ("lazycache_kept_later.tokens", "lazycache_index_every.tokens"):
            with pytest.raises(ReadOnlyError, match="only reads"):
                connection.sql(f"WITH x AS (DELETE FROM {table} RETURNING *) FROM x").fetchall()
        assert connection.sql(query).fetchone()[1] == 6


def test_many_threads_ask_at_once(two):
    """Eight cursors over both datasets, some half read, all right."""
    query = f"SELECT {DIFFERENCE} FROM {ON} WHERE position = ? ORDER BY example"
    half_read = two.connection.sql(f"SELECT example FROM {ON} ORDER BY example")
    assert half_read.fetchone() == (20,)

    def ask(position):
        return [value for (value,) in two.connection.sql(query, [position]).fetchall()]

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, list(range(LENGTH)) * 2))
    for position, values in zip(list(range(LENGTH)) * 2, found, strict=True):
        frame = two.frame[two.frame.position == position].sort_values("example")
        assert values == two.difference(frame, 5)
    assert half_read.fetchone() == (20,)


def test_damaged_indexes_are_made_again(tmp_path):
    """What a query over both finds is what would have been there."""
    made = Two(tmp_path)
    made.connection.close()
    for path in made.folder.rglob("*.duckdb"):
        flip(path)
    with made.connect() as connection:
        found = connection.sql(f"SELECT count(*), min(b.token) FROM {ON}").fetchall()
    assert found == [(len(made.frame), made.frame.token_x.min())]


@pytest.mark.parametrize(
    "name", ["select", "a b", "a-b", "1a", "", "tokens", "Main", "temp", "lazycache_x", 3]
)
def test_a_name_must_be_able_to_stand_before_a_table(name):
    """Words of SQL and tables of ours are refused before anything is opened."""
    with pytest.raises(QueryError, match="cannot stand before a table"):
        lc.connect({name: "/nowhere"})


def test_names_that_sql_takes_for_one_and_none_at_all():
    """SQL does not see case."""
    with pytest.raises(QueryError, match="'A' and 'a' are one name"):
        lc.connect({"A": "/nowhere", "a": "/nowhere"})
    with pytest.raises(QueryError, match="no dataset to connect to"):
        lc.connect({})


def test_what_was_opened_is_closed_and_what_was_given_stays(tmp_path):
    """Addresses are the connection's own; caches are the caller's, and count what is read."""
    cache = small_cache()
    url = str(tmp_path / "copy")
    cache.save(url)
    connection = lc.connect({"given": cache, "opened": url})
    result = connection.sql("SELECT unit(resid_out_0, 1) FROM given.tokens WHERE row = 2")
    before = cache.io.rows
    assert result.fetchall() == [(5.0,)]
    assert cache.io.rows > before
    found = connection.sql("SELECT count(*) FROM opened.tokens o JOIN given.tokens USING (row)")
    assert found.fetchall() == [(6,)]
    connection.close()
    for read in (result.fetchall, lambda: connection.sql("SELECT 1")):
        with pytest.raises(QueryError, match="closed"):
            read()
    assert cache["resid_out_0"].rows[2].load().tolist() == [4.0, 5.0]
    cache.close()
    with pytest.raises(StorageError, match="was closed"):
        lc.connect({"given": cache})


def test_one_dataset_has_tables_without_a_name(tmp_path):
    """`lc.connect(url)` is `cache.sql` without a cache; addresses that lead nowhere say so."""
    url = tmp_path / "copy"
    small_cache().save(str(url))
    with lc.connect(url) as connection:
        assert connection.sql("SELECT sum(unit(resid_out_0, 0)) FROM tokens").fetchall() == [(30,)]
    with pytest.raises(lc.DatasetNotFoundError, match="No dataset at"):
        lc.connect({"a": url, "b": tmp_path / "nothing"})


def test_caches_that_are_not_one_dataset_are_sent_to_the_right_place():
    """A joined cache points to `lc.connect`, and is refused there; so is one in memory."""
    joined = small_cache()
    joined.cat(small_cache())
    with pytest.raises(QueryError, match=r"joins 2.*lc\.connect\("):
        joined.sql("SELECT 1")
    with pytest.raises(QueryError, match="joins 2 datasets: give each its own"):
        lc.connect({"joined": joined})
    with pytest.raises(QueryError, match=r"in memory: cache\.save"):
        lc.connect(lc.ActivationCache({"x": torch.ones(2)}))


def test_nothing_is_held_for_ever():
    """A cache that is dropped lets its connection go; a result keeps what it needs."""
    cache = small_cache()
    result = cache.sql("SELECT max FROM statistics ORDER BY unit")
    held = weakref.ref(cache.stored._connection)
    del cache
    gc.collect()
    assert held() is not None
    with closing(result):
        assert result.fetchall() == [(10.0,), (11.0,)]
    del result
    gc.collect()
    assert held() is None
