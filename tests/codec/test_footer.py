"""Footers that lie: an error of ours before pyarrow looks at them, which may end the process."""

import io

import pyarrow.parquet as pq
import pytest

from lazycache.codec.footer import MAGIC
from lazycache.codec.tables import decode_table
from lazycache.codec.thrift import i32, i64, listing, struct, structs, text
from lazycache.errors import CorruptShardError


def table_file(names, chunks, *, values=2):
    """A file with one row group of 2 rows: names in its schema, and columns in the group."""
    page = struct({1: i32(2), 2: i32(0), 3: i32(3), 4: i32(3)})
    data = struct({1: i32(0), 2: i32(16), 3: i32(16), 5: page}).data + bytes(16)

    def chunk(name):
        sizes = {5: i64(values), 6: i64(len(data)), 7: i64(len(data)), 9: i64(4)}
        kinds = {1: i32(2), 2: listing([i32(0)]), 3: listing([text(name)]), 4: i32(0)}
        return struct({2: i64(4), 3: struct({**kinds, **sizes})})

    columns = [struct({1: i32(2), 3: i32(0), 4: text(name)}) for name in names]
    schema = structs([struct({4: text("schema"), 5: i32(len(names))}), *columns])
    group = struct({1: structs(list(map(chunk, chunks))), 2: i64(len(data)), 3: i64(2)})
    footer = struct({1: i32(1), 2: schema, 3: i64(2), 4: structs([group])}).data
    return MAGIC + data + footer + len(footer).to_bytes(4, "little") + MAGIC


LIES = {
    "a column less": table_file(["a", "b"], ["a"]),
    "no columns": table_file(["a"], []),
    "a column more": table_file(["a"], ["a", "a"]),
    "another column": table_file(["a"], ["b"]),
    "more values than rows": table_file(["a"], ["a"], values=1 << 40),
    "a name that is no text": table_file(["a"], ["a"]).replace(b"\x18\x01a", b"\x18\x01\xff"),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_footer_that_contradicts_itself_is_refused(lie):
    """Columns, their names and lengths are compared before anything else reads the file."""
    with pytest.raises(CorruptShardError, match="damaged"):
        decode_table(lie)


def test_the_same_file_without_a_lie_is_read():
    """What is refused above is refused for its lie alone."""
    good = table_file(["a"], ["a"])
    assert decode_table(good).to_pydict() == {"a": [0, 0]}
    assert pq.read_table(io.BytesIO(good)).to_pydict() == {"a": [0, 0]}
