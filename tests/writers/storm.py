"""Processes that capture and commit into one dataset, some of them killed; run by `test_storm.py`.

`storm.py URL NOTES WRITERS COMMITS KILLS SEED`. Torch is imported once and forked. A writer notes
what it was told in NOTES/RANK, a line per commit: one short `write`, whole when SIGKILL comes. The
codes with which they ended are printed as JSON.
"""

import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch
from forking import import_what
from torch import nn

import lazycache as lc

BATCH = 3
SITES = ["0", "1"]


def make_model():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(1009, 8), nn.Linear(8, 6))


def tokens_of(example: int) -> list[int]:
    """Four token ids that say which example they are of."""
    return [(example * 31 + position * 7) % 1009 for position in range(4)]


def ids_of(rank: int, size: int, number: int) -> list[int]:
    """The examples of a batch of a rank, as they are counted."""
    return [rank + size * (number * BATCH + i) for i in range(BATCH)]


def write(model, url, notes: Path, rank: int, size: int, commits: int) -> None:
    with (
        torch.no_grad(),
        lc.capture(model, url, SITES, resume=True, rank=rank, world_size=size) as run,
    ):
        fd = os.open(notes / str(rank), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for number in range(commits):
            run.annotate(batch=[f"{rank}-{number}"] * BATCH)
            model(torch.tensor([tokens_of(i) for i in ids_of(rank, size, number)]))
            version = run.commit()
            os.write(fd, b"%d-%d %d\n" % (rank, number, version))


def noted(notes: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in notes.iterdir())


def main(url, notes, writers, commits, kills, seed):
    chance = random.Random(seed)
    model = make_model()
    with tempfile.TemporaryDirectory() as first:
        import_what(lambda: write(model, f"{url}-first", Path(first), 0, 1, 1))
    children = []
    for rank in range(writers):
        child = os.fork()
        if child == 0:
            try:
                write(model, url, notes, rank, writers, commits)
            except BaseException as error:  # noqa: BLE001  # the parent is told by the code
                os.write(2, f"rank {rank}: {type(error).__name__}: {error}\n".encode())
                os._exit(1)
            os._exit(0)
        children.append(child)
    for victim in chance.sample(range(writers), kills):
        enough = chance.randrange(writers * commits // 2)
        while noted(notes) < enough:
            time.sleep(0.005)
        os.kill(children[victim], signal.SIGKILL)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    sys.stdout.write(json.dumps(codes) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:]))
