"""SQL over a foreign dataset, also hostile SQL: no file, no network, no environment."""

import socket
import threading

import pytest
from hostile_datasets import made

import lazycache as lc
from lazycache.errors import LazycacheError


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with lc.open(made(tmp_path_factory.mktemp("foreign") / "acts")) as cache:
        yield cache


QUERIES = [
    "SELECT * FROM read_text('{secret}')",
    "SELECT * FROM read_blob('{secret}')",
    "SELECT * FROM read_csv('{secret}')",
    "SELECT * FROM read_csv_auto('{secret}')",
    "SELECT * FROM read_json('{secret}')",
    "SELECT * FROM read_ndjson_objects('{secret}')",
    "SELECT * FROM read_parquet('{secret}')",
    "SELECT * FROM parquet_metadata('{secret}')",
    "SELECT * FROM parquet_schema('{secret}')",
    "SELECT * FROM sniff_csv('{secret}')",
    "SELECT * FROM '{secret}'",
    "DESCRIBE '{secret}'",
    "SUMMARIZE '{secret}'",
    "SELECT (SELECT content FROM read_text('{secret}'))",
    "WITH x AS MATERIALIZED (SELECT * FROM read_text('{secret}')) SELECT * FROM x",
    "FROM glob('{folder}/*')",
    "SELECT getenv('LAZYCACHE_SECRET')",
    "COPY (SELECT 1) TO '{folder}/written'",
    "COPY tokens FROM '{secret}'",
    "EXPORT DATABASE '{folder}/written'",
    "IMPORT DATABASE '{folder}'",
    "ATTACH '{folder}/written.db' AS x",
    "ATTACH '{url}/x.db' AS x (TYPE sqlite)",
    "SELECT * FROM read_csv('{url}/x.csv')",
    "SELECT * FROM read_parquet('{url}/x.parquet')",
    "SELECT * FROM '{url}/x.parquet'",
    "SELECT * FROM read_parquet('s3://bucket/x.parquet')",
    "SELECT * FROM sqlite_scan('{secret}', 'x')",
    "SELECT * FROM postgres_scan('host=127.0.0.1', 'public', 'x')",
    "INSTALL httpfs",
    "INSTALL httpfs FROM '{url}'",
    "LOAD httpfs",
    "LOAD '{secret}'",
    "CREATE SECRET x (TYPE s3, KEY_ID 'a', SECRET 'b')",
    "SET enable_external_access = true",
    "SET lock_configuration = false",
    "SET temp_directory = '{folder}'",
    "RESET enable_external_access",
    "PRAGMA enable_external_access = true",
    "PRAGMA database_list; COPY (SELECT 1) TO '{folder}/written'",
    "CALL pragma_storage_info('{secret}')",
    "SELECT 1; ATTACH '{folder}/written.db'",
    "PREPARE x AS SELECT * FROM read_text('{secret}')",
    "EXECUTE x",
    "CREATE MACRO x() AS TABLE SELECT * FROM read_text('{secret}')",
    "SELECT * FROM query('SELECT * FROM read_text(''{secret}'')')",
    "SELECT * FROM query_table('{secret}')",
    "SELECT * FROM json_execute_serialized_sql(json_serialize_sql('FROM read_text(''{secret}'')'))",
    "CHECKPOINT",
]


@pytest.mark.parametrize("query", QUERIES)
def test_nothing_but_the_dataset_is_in_reach(cache, query, tmp_path, monkeypatch):
    """Refused with an error of ours; nothing is read, written or called."""
    monkeypatch.setenv("LAZYCACHE_SECRET", "s3cr3t")
    secret = tmp_path / "secret"
    secret.write_text("s3cr3t,s3cr3t\n1,2\n")
    before = sorted(tmp_path.iterdir())
    calls = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        listening = threading.Thread(target=_answer, args=(server, calls), daemon=True)
        listening.start()
        asked = query.format(secret=secret, folder=tmp_path, url=url)
        with pytest.raises(LazycacheError) as refused:
            found = cache.sql(asked).fetchall()
            assert "s3cr3t" not in str(found)
        socket.create_connection(server.getsockname()).close()  # ends the listening
        listening.join()
    assert len(calls) == 1, "only the test itself has called"
    assert "s3cr3t" not in str(refused.value).replace(asked, "")
    assert sorted(tmp_path.iterdir()) == before
    assert cache.sql("SELECT count(*) FROM examples").fetchall() == [(2,)]


def _answer(server, calls):
    connection, _ = server.accept()
    calls.append(1)
    connection.close()


@pytest.mark.parametrize("function", ["where", "top_k"])
def test_conditions_reach_no_further_than_queries(cache, function, tmp_path):
    """A condition is an expression over the tables: a subquery over a file is refused."""
    (tmp_path / "secret").write_text("s3cr3t")
    condition = f"(SELECT count(*) FROM read_text('{tmp_path}/secret')) > 0"
    with pytest.raises(LazycacheError):
        if function == "where":
            cache.where(condition)["a"].load()
        else:
            cache.top_k("a", 0, k=1, where=condition)
