"""Fork processes that extract a corpus or add a site, and kill them until each has finished.

Run as a script: `extract_crasher.py FOLDER KILLS SEED`. A dataset is extracted by one process after
the other, each killed at a random moment, until one ends by itself; then a site is added to it in
the same way; then the next dataset follows, until there were kills enough. Torch is imported once
and forked, so that a kill costs a fraction of a second.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from faults.capture_crasher import make_model
from forking import import_what

import lazycache as lc

SITES = ["embed", "resid_out_*"]
ADDED = "mlp_act_1"
SMALL = {"queue_bytes": 1 << 16, "shard_bytes": 1 << 14, "commit_seconds": 0.01, "progress": False}
LEAST = 10  # kills of each are more


def make_data() -> list[dict]:
    chance = random.Random(3)
    return [
        {"input_ids": [chance.randrange(97) for _ in range(chance.randint(1, 24))], "label": i % 5}
        for i in range(80)
    ]


def extract(model, url: Path) -> None:
    lc.extract(model, make_data(), url, SITES, batch_size=4, **SMALL)


def add(model, url: Path) -> None:
    lc.extract(model, None, sites=ADDED, add_to=url, **SMALL)


def run_and_kill(work, model, url: Path, seconds: float) -> bool:
    """Let a child work for so long; say whether it had to be killed."""
    child = os.fork()
    if child == 0:
        work(model, url)
        os._exit(0)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            if status:
                sys.exit(f"{work.__name__} of {url} ended with status {status}")
            return False
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if status and not os.WIFSIGNALED(status):
        sys.exit(f"{work.__name__} of {url} ended with status {status}")
    return bool(status)


def main(folder: Path, most: int, seed: int) -> None:
    chance = random.Random(seed)
    model = make_model()
    kills = {"extract": 0, "add": 0}
    finished = 0
    first = folder / "first"
    import_what(lambda: (extract(model, first), add(model, first)))
    whole = {}
    for work in (extract, add):
        began = time.monotonic()
        run_and_kill(work, model, folder / "whole", 60)
        whole[work] = time.monotonic() - began
    # as the machine is busy or not, one of both is killed far more often
    while sum(kills.values()) < most or min(kills.values()) <= LEAST:
        url = folder / f"run{finished}"
        for work in (extract, add):
            longest = 0.7 * whole[work]
            # longer and longer, so that it ends however slow the machine is just now
            while run_and_kill(work, model, url, chance.uniform(0, longest)):
                kills[work.__name__] += 1
                longest *= 1.02
        finished += 1
    counts = {"finished": finished, **kills}
    (folder / "counts.json").write_text(json.dumps(counts), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
