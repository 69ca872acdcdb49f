"""A small dataset of every kind of file, and what turns one of its parts into a lie."""

import json
import resource
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import numpy as np
import torch
from catalog_helpers import sealed
from writer_helpers import new_store, new_writer

import lazycache as lc
from lazycache.types import RowBatch, SiteBlock, TableBlock

ROWS = 400


def batch(*, rows=ROWS, first=0):
    """One example of `rows` tokens; a wide site, a ragged one and one of examples."""
    ids = np.full(rows, first)
    positions = np.arange(rows, dtype=np.int32)
    tables = {
        "tokens": TableBlock(
            rows, {"example": ids, "position": positions, "token": [f"t{i % 9}" for i in positions]}
        ),
        "examples": TableBlock(1, {"example": np.array([first]), "length": np.array([rows])}),
    }
    widths = 1 + positions % 3
    return RowBatch(
        tables,
        {
            "a": SiteBlock("tokens", torch.arange(rows * 16.0).reshape(rows, 16)),
            "p": SiteBlock("tokens", torch.ones(2 * int(widths.sum())), (2, -1), widths),
            "e": SiteBlock("examples", torch.ones(1, 3)),
        },
    )


def made(url: Path) -> Path:
    """Three commits: rows with statistics and an array, more rows, values beside the sites."""
    writer = new_writer(new_store(url), arrays={"a.weight": torch.ones(2, 3)})
    writer.write(batch())
    writer.commit()
    writer.write(batch(first=1))
    writer.close()
    cache = lc.open(url)
    cache["t"], cache["n"] = torch.arange(12.0).reshape(3, 4), {"w": [torch.ones(3), 1.5]}
    cache.persist()
    return url


def copied(whole: Path, folder: Path) -> Path:
    """A copy that is a dataset of its own: no index of another one is taken for its."""
    url = shutil.copytree(whole, folder / "acts")
    identity = json.loads((url / "lazycache.json").read_bytes())
    (url / "lazycache.json").write_text(json.dumps({**identity, "uuid": uuid.uuid4().hex}))
    return url


def record_path(url, version):
    return url / "_log" / f"{version:020d}.json"


def read_record(url, version):
    return json.loads(record_path(url, version).read_bytes().splitlines()[0])


def change(url, version, how):
    """Change a record; its checksum is right again."""
    entry = read_record(url, version)
    how(entry)
    record_path(url, version).write_bytes(sealed(entry))


def op_of(entry, kind, **where):
    return next(
        op
        for op in entry["ops"]
        if op["op"] == kind and all(op.get(key) == value for key, value in where.items())
    )


def use(url):
    """Open a dataset and read everything in every way that a reader has; SQL too."""
    with lc.open(url, check=True) as cache:
        for name in cache:
            found = cache[name]
            if hasattr(found, "load"):
                found.load()
        if "a" in cache:
            x = cache["a"]
            x.rows.load(), x.mean("rows"), x.rows.topk(3)
        cache.sql("SELECT count(*), min(token), max(position) FROM tokens").fetchall()


APART = """
import json, resource, sys, warnings
import lazycache as lc
from hostile_datasets import use
warnings.simplefilter("ignore")
whole, *lies = sys.argv[1:]
use(whole), lc.verify(whole)  # libraries and caches are not counted
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = []
for url in lies:
    try:
        answer = str(use(url))
    except lc.LazycacheError as exc:
        answer = f"{type(exc).__name__}: {exc}"
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found.append([answer[:2000], str(lc.verify(url))[:2000], (after - before) * 1024])
print(json.dumps(found))
"""


def asked_apart(whole, lies):
    """Use datasets in one process of its own: what each raised, what verify said, bytes of memory.

    The memory is the most that the process ever had, beyond what the whole dataset takes.
    """
    code = f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n{APART}"
    done = subprocess.run(
        [sys.executable, "-c", code, str(whole), *map(str, lies)],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (24 << 30, 24 << 30)),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])
