"""Fork processes that copy a dataset, and kill them at random moments.

Run as a script: `copy_crasher.py FOLDER COUNT SEED`. FOLDER has the dataset `source`; by turns it
is copied whole, some of its sites, and some of its rows, to `copyKIND-N`, with N the next number
when one is done.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

from copy_kinds import KINDS
from forking import import_what

import lazycache as lc
from lazycache.care import copied_rows, transfer


def copy(folder: Path, target: Path, kind: int) -> None:
    lc.copy(folder / "source", target, progress=False, **KINDS[kind])


def seconds_of(folder: Path, kind: int) -> float:
    """How long a whole copy takes here and now: later there is nothing to kill."""
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        copy(folder, folder / f"timed{kind}", kind)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if status:
        sys.exit(f"a copy that nothing disturbs failed: status {status}")
    return time.monotonic() - began


def main(folder: Path, count: int, seed: int) -> None:
    chance = random.Random(seed)
    transfer.PIECE_BYTES, copied_rows.PART_BYTES = 2000, 1  # many moments at which to be killed
    seen, started = os.pipe()
    done, kills = [0] * len(KINDS), 0
    import_what(lambda: [copy(folder, folder / f"first{n}", n) for n in range(len(KINDS))])
    longest = [seconds_of(folder, kind) for kind in range(len(KINDS))]
    while kills < count:
        kind = (kills + sum(done)) % len(KINDS)
        target = folder / f"copy{kind}-{done[kind]}"
        child = os.fork()
        if child == 0:
            os.write(started, b"x")
            copy(folder, target, kind)
            os._exit(0)
        os.read(seen, 1)
        time.sleep(chance.uniform(0, longest[kind]))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            kills += 1
        elif status:
            sys.exit(f"{target} failed: status {status}")
        else:
            done[kind] += 1


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
