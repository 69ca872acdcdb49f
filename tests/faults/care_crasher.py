"""Fork processes that compact, collect and remove, and kill them at random moments.

Run as a script: `care_crasher.py FOLDER COUNT SEED`. Torch is imported once and forked. In each
round a dataset of many small commits is looked after by one process, which is killed, while another
one reads. Prints what was counted as JSON; exits with an error if a reader saw what cannot be.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

import torch
from care_helpers import add_commits, small_commits

import lazycache as lc
from lazycache.care import compacting
from lazycache.care.removing import remove_run
from lazycache.errors import LazycacheError

SITES = ("resid_out_0", "z_0", "pooled")
FIRST, SECOND, THIRD = range(4), range(4, 7), range(7, 10)


def make_dataset(folder):
    """Ten commits of two runs in turn."""
    store = small_commits(folder, FIRST, sites=SITES)
    add_commits(store, SECOND, sites=SITES, run="second")
    add_commits(store, THIRD, sites=SITES)
    return store


def look_after(url, started):
    os.write(started, b"x")
    compacting.COMMIT_BYTES = 1 << 10  # a commit for each site and table
    lc.compact(url, progress=False)
    lc.gc(url, grace_seconds=0, progress=False)
    remove_run(url, "second")
    lc.compact(url, progress=False)
    lc.gc(url, grace_seconds=0, progress=False)


def read(url, whole, out, started):
    """Read the newest version until told to stop; say how often, or what is wrong."""
    reads, told = 0, []
    # a flag, not an exception: that could be raised where it is ignored
    signal.signal(signal.SIGTERM, lambda *_: told.append(True))
    os.write(started, b"x")
    while not told:
        wrong = look(url, whole)
        if wrong:
            os.write(out, wrong.encode())
            os._exit(1)
        reads += 1
    os.write(out, str(reads).encode())


def look(url, whole):
    """Say what is wrong with the newest version; None: nothing."""
    cache = lc.open(url)
    try:
        seen = contents(cache)
    except (LazycacheError, FileNotFoundError) as exc:
        # without grace, files may go under a reader: only those of versions that have expired
        if lc.open(url).snapshot.expired <= cache.snapshot.version:
            return f"version {cache.snapshot.version}: {exc!r}"
        return None
    if "second" in cache.snapshot.runs:
        same = all(torch.equal(values, whole[name]) for name, values in seen.items())
        return None if same else f"other values in version {cache.snapshot.version}"
    count = {len(values) for name, values in seen.items() if name != "pooled"}
    examples = 2 * (len(FIRST) + len(THIRD))
    if len(seen["pooled"]) == examples and count == {cache.snapshot.rows("tokens")}:
        return None
    return f"other rows in version {cache.snapshot.version}"


def contents(cache):
    return {name: cache[name].rows.load() for name in SITES}


def seconds_needed(folder):
    """How long it takes to look after the dataset if nothing is in the way."""
    shutil.copytree(folder / "made", folder / "timed")
    began, nowhere = time.monotonic(), os.open(os.devnull, os.O_WRONLY)
    worker = _forked(lambda: look_after(folder / "timed", nowhere))
    os.waitpid(worker, 0)
    return time.monotonic() - began


def one_round(url, pause, whole):
    """Kill a process that looks after a dataset, with one that reads it beside."""
    (started, start), (said, say) = os.pipe(), os.pipe()
    reader = _forked(lambda: read(url, whole, say, start))
    worker = _forked(lambda: look_after(url, start))
    os.close(start)
    for _ in (reader, worker):
        os.read(started, 1)
    time.sleep(pause)
    os.kill(worker, signal.SIGKILL)
    _, status = os.waitpid(worker, 0)
    os.kill(reader, signal.SIGTERM)
    _, failed = os.waitpid(reader, 0)
    os.close(say)
    text = os.read(said, 4096).decode()
    for end in (started, said):
        os.close(end)
    if failed:
        sys.exit(f"{url}: {text}")
    return int(text), os.WIFSIGNALED(status)


def _forked(work):
    pid = os.fork()
    if not pid:
        try:
            work()
        except BaseException:  # noqa: BLE001 - a fork must not go on as its parent
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return pid


def main(folder, count, seed):
    torch.set_num_threads(1)
    chosen = random.Random(seed)
    make_dataset(folder / "made")
    whole = contents(lc.open(folder / "made"))  # and what forks need is loaded
    assert lc.compact
    assert lc.gc
    longest = seconds_needed(folder)  # beside a reader it takes longer
    reads = killed = 0
    for number in range(count):
        url = folder / f"round{number}"
        shutil.copytree(folder / "made", url)
        seen, was_killed = one_round(url, chosen.uniform(0, longest), whole)
        reads, killed = reads + seen, killed + was_killed
    sys.stdout.write(json.dumps({"reads": reads, "killed": killed}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
