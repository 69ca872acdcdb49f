"""Fork processes that write batches of every kind, and kill each with SIGKILL at a random moment.

Run as a script: `kill_script.py FOLDER COUNT SEED`. Everything is imported once and forked, so that
a kill costs a fraction of a second.
"""

import os
import random
import signal
import sys
import time
from itertools import count
from pathlib import Path

import pandas as pd  # pyarrow imports it at its first conversion: not in every child
import torch
from writer_helpers import ARRAYS, EVERY_SITE, make_batch, new_store, new_writer


def write_for_ever(folder: Path) -> None:
    store = new_store(folder)
    # sizes so small that every stage of writing happens many times a second
    writer = new_writer(
        store, queue_bytes=20_000, shard_bytes=4_000, commit_seconds=0.02, arrays=ARRAYS
    )
    for number in count():
        writer.write(make_batch(number, sites=tuple(EVERY_SITE)))
        if number % 16 == 15:
            writer.commit()


def main(folder: Path, kills: int, seed: int) -> None:
    assert pd.__version__
    torch.set_num_threads(1)
    # a killed process loses nothing that the system has: without syncing there are more moments
    os.fsync = lambda _: None
    chance = random.Random(seed)
    for kill in range(kills):
        child = os.fork()
        if child == 0:
            write_for_ever(folder / f"run{kill}")
            os._exit(1)
        time.sleep(chance.uniform(0.01, 0.4))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            sys.exit(f"writer {kill} ended before it was killed: status {status}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
