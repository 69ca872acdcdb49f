"""Closing while queries run, by a call or by the end of the interpreter."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from query_helpers import FakeReader, small_dataset

from lazycache.errors import QueryError
from lazycache.query.sql.connection import connect

WHOLE = "SELECT sum(unit(mlp_act_3, 1)), sum(unit(resid_out_0, 2)) FROM tokens"


class SlowReader(FakeReader):
    """Says when it reads, and goes on when it may."""

    def __init__(self, values):
        super().__init__(values)
        self.reads = threading.Event()
        self.may_go_on = threading.Event()

    def take(self, site, rows, *, units=()):
        self.reads.set()
        assert self.may_go_on.wait(60)
        return super().take(site, rows, units=units)


@pytest.fixture
def made(tmp_path):
    return small_dataset(tmp_path)


@pytest.fixture
def reader(made):
    return SlowReader(made.values)


@pytest.fixture
def connection(made, reader, tmp_path):
    return connect(made.snapshot, reader, made.store, index_directory=tmp_path / "index")


def started(work):
    """A thread that runs `work`, and the list of what came of it."""
    found = []

    def run():
        try:
            found.append(work())
        except Exception as exc:  # noqa: BLE001 - told to the test
            found.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, found


READS = [
    lambda result: result.fetchall(),
    lambda result: result.fetchone(),
    lambda result: result.arrow(),
    lambda result: list(result.batches(10)),
]


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("what", ["connection", "result"])
def test_closing_ends_what_another_thread_reads(connection, reader, read, what):
    """The reader is waited for; its caller hears that it was closed, in our words."""
    result = connection.sql(WHOLE)
    asking, found = started(lambda: read(result))
    assert reader.reads.wait(60)
    closing, closed = started((connection if what == "connection" else result).close)
    closing.join(0.05)
    assert closing.is_alive(), "nothing may be closed under a function that runs"
    reader.may_go_on.set()
    closing.join(60)
    asking.join(60)
    assert closed == [None]
    (error,) = found
    assert isinstance(error, QueryError)
    assert "closed" in str(error)
    with pytest.raises(QueryError, match="closed"):
        read(result)
    if what == "connection":
        with pytest.raises(QueryError, match="closed"):
            connection.sql("SELECT 1")
    else:
        assert len(connection.sql("SELECT resid_out_0 FROM tokens").fetchall()) == 5000
        connection.close()


@pytest.mark.parametrize("what", ["connection", "result"])
def test_batches_after_closing_are_an_error(connection, reader, what):
    """The next batch of a stream that was closed is an error, not a crash; so is every later."""
    reader.may_go_on.set()
    result = connection.sql("SELECT row, resid_out_0 FROM tokens")
    batches = result.batches(1000)
    assert next(batches).num_rows == 1000
    (connection if what == "connection" else result).close()
    with pytest.raises(QueryError, match="closed"):
        next(batches)
    assert next(batches, None) is None
    connection.close()


def test_a_stream_that_nobody_reads_on_is_ended(connection, reader):
    """Leaving a loop over batches ends the query, and others go on."""
    reader.may_go_on.set()
    result = connection.sql("SELECT resid_out_0 FROM tokens")
    for _ in result.batches(100):
        break
    assert not result._readers
    assert sum(batch.num_rows for batch in result.batches(100)) == 5000
    connection.close()


SCRIPT = """
import json, os, pathlib, sys, threading
sys.path[:0] = sys.argv[2:]
from query_helpers import small_dataset
from test_activity import ENDS, SlowReader
from lazycache.query.sql.connection import connect  # and torch: once for all

def begin(folder):
    global connection, reader, result
    folder.mkdir()
    made = small_dataset(folder)
    reader = SlowReader(made.values)
    connection = connect(made.snapshot, reader, made.store, index_directory=None)
    result = connection.sql("SELECT resid_out_0, unit(z_1, 0, 0) FROM tokens")

folder, found, child = pathlib.Path(sys.argv[1]), {}, 1
for number, (name, end) in enumerate(ENDS.items()):
    told = [folder / f"{number}.{stream}" for stream in ("out", "err")]
    child = os.fork()
    if child == 0:
        for stream, path in enumerate(told, 1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream)
        break
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    found[name] = [code, *(path.read_text() for path in told)]
if child:
    print(json.dumps(found))
else:  # and from here on it is a script like any other, which ends as any other does
    begin(folder / str(number))
    exec(end)
"""

ENDS = {
    "a result that was read": "reader.may_go_on.set(); assert result.fetchone() is not None",
    "a stream, half read": "reader.may_go_on.set(); it = result.batches(100); next(it)",
    "a stream, half read, and sys.exit": """
reader.may_go_on.set()
for batch in result.batches(100):
    sys.exit(0)
""",
    "a daemon thread in fetchall": """
threading.Thread(target=result.fetchall, daemon=True).start()
assert reader.reads.wait(60)
threading.Timer(0.2, reader.may_go_on.set).start()
""",
    "a daemon thread in a stream": """
threading.Thread(target=lambda: list(result.batches(10)), daemon=True).start()
assert reader.reads.wait(60)
threading.Timer(0.2, reader.may_go_on.set).start()
""",
    "a daemon thread that asks again and again": """
def ask():
    while True:
        connection.sql("SELECT sum(unit(z_1, 0, 0)) FROM tokens").fetchall()
reader.may_go_on.set()
threading.Thread(target=ask, daemon=True).start()
assert reader.reads.wait(60)
""",
}


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """Exit code and words of interpreters that ended, each in its way; all have one's imports."""
    here = Path(__file__).parent
    command = [sys.executable, "-c", SCRIPT, tmp_path_factory.mktemp("ends"), here.parents[1], here]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


@pytest.mark.parametrize("end", ENDS)
def test_the_interpreter_ends_quietly(ended, end):
    """Whatever runs or is left open: exit code 0, and not a word of complaint."""
    assert ended[end] == [0, "", ""]
