"""A small dataset with everything that pages have to stand: two runs, odd tokens, all kinds."""

import itertools
import socket
import threading
from contextlib import contextmanager

import numpy as np
import torch
import uvicorn

from lazycache.catalog.identity import create_dataset
from lazycache.catalog.snapshot import Snapshot
from lazycache.opening import open as open_dataset
from lazycache.serve.app import make_app
from lazycache.storage.open_store import open_store
from lazycache.types import EXAMPLES, TOKENS, RowBatch, RunInfo, SiteBlock, TableBlock
from lazycache.writer.settings import Settings
from lazycache.writer.writer import DatasetWriter

ODD = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(2)>',
    "\n",
    "\t",
    "a\x00b",
    "\u202eabc\u202c",
    "x" * 300,
    "",
    " Paris",
    "{{ 7*7 }}",
    "🧠",
    "' onmouseover='alert(3)",
)
"""Tokens: each is at its position in example 0."""

LENGTHS = (len(ODD), 3, 70)
"""Tokens of each example of the first run; the second run has one example, 0, with 2 tokens."""

ODD_SITE = 'layers.<i>"x:out'
"""A name that a module may have."""

HEADS, UNITS = 3, 4

INFO = {"subset": {"pattern_0": {"axis": "heads", "index": [0, 2, 5]}}}
"""What the runs say: which heads of the model `pattern_0` has."""

_SETTINGS = Settings(
    queue_bytes=1 << 22,
    shard_bytes=1 << 22,
    chunk_rows=8192,
    commit_bytes=1 << 22,
    commit_seconds=60,
    rank=0,
)
_numbers = itertools.count()


def odd_dataset(url=None, *, text=True, runs=2):
    """Write a dataset and open it, in memory where no address is given.

    Row r of the 85 tokens of run `main` is r in unit 1 of `mlp_act_0`. Unit 0 is minus that,
    unit 2 is 0, unit 3 is minus its square; `mlp_act_1` is the same, `z_0` has heads by units,
    `pooled` one row for each example, `pattern_0` attends evenly.
    """
    url = f"memory://served{next(_numbers)}" if url is None else str(url)
    store = open_store(url, create=True, storage_options=None)
    snapshot = Snapshot.replay(create_dataset(store), [])
    for run, lengths in (("main", LENGTHS), ("second", (2,)))[:runs]:
        writer = DatasetWriter(
            store, snapshot=snapshot, run=RunInfo(run, INFO), settings=_SETTINGS, arrays={}
        )
        writer.write(_batch(lengths, text=text))
        writer.close()
        with open_dataset(url) as written:
            snapshot = written.snapshot
    return open_dataset(url)


def _batch(lengths, *, text):
    rows, ids = sum(lengths), np.arange(len(lengths))
    position = np.concatenate([np.arange(n, dtype=np.int32) for n in lengths])
    tokens = {"example": np.repeat(ids, lengths), "position": position}
    if text:
        tokens["token"] = [ODD[p % len(ODD)] for p in position.tolist()]
    examples = {"example": ids, "length": np.array(lengths)}
    examples |= {"label": ["<b>bold</b>", "plain", "long " * 60][: len(lengths)]}
    row = torch.arange(float(rows))
    act = torch.stack([-row, row, row * 0, -row.square()], 1)
    widths = np.repeat(np.array(lengths, dtype=np.int32), lengths)
    pattern = torch.cat([torch.full((HEADS, int(w)), 1.0 / int(w)).flatten() for w in widths])
    z = row.reshape(-1, 1, 1) + torch.arange(float(HEADS * UNITS)).reshape(HEADS, UNITS)
    sites = {
        "mlp_act_0": SiteBlock(TOKENS, act),
        "mlp_act_1": SiteBlock(TOKENS, act.clone()),
        ODD_SITE: SiteBlock(TOKENS, act.clone()),
        "z_0": SiteBlock(TOKENS, z),
        "pooled": SiteBlock(EXAMPLES, torch.arange(2.0 * len(ids)).reshape(-1, 2)),
        "pattern_0": SiteBlock(TOKENS, pattern, shape=(HEADS, -1), widths=widths),
    }
    tables = {TOKENS: TableBlock(rows, tokens), EXAMPLES: TableBlock(len(ids), examples)}
    return RowBatch(tables=tables, sites=sites)


@contextmanager
def running(cache, **changes):
    """Serve a cache on a free port of this machine; give the address of its first page."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()  # who asks before the server runs waits for it
    app = make_app(cache, url="acts", **{"token": None, **changes})
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listening.close()
