"""Save caches in child processes that kill themselves at their n-th change of the file system.

python save_crasher.py FOLDER: FOLDER/new-<n> had nothing before, FOLDER/over-<n> an older dataset,
to that in FOLDER/add-<n> values are added.
"""

import os
import signal
import sys
from pathlib import Path

import torch

import lazycache as lc

CHANGES = {"os.rename", "os.link", "os.remove", "os.mkdir"}
MOST = 60


def old() -> lc.ActivationCache:
    """The dataset that is replaced."""
    return lc.ActivationCache({"old": torch.arange(50.0), "note": "before"})


def new() -> lc.ActivationCache:
    """The cache that is saved."""
    return lc.ActivationCache({f"x{i}": torch.full((40,), i) for i in range(2)} | {"note": ["now"]})


def _armed(count: int):
    left = [count]

    def hook(event, args):
        if event in CHANGES or (event == "open" and args[2] and args[2] & os.O_CREAT):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return hook


def _child(url: Path, count: int, kind: str) -> bool:
    """Save or persist; return whether the process lived to the end."""
    pid = os.fork()
    if not pid:
        cache = new()
        if kind == "add":
            cache = lc.open(url)
            cache.update(new())
        sys.addaudithook(_armed(count))
        cache.persist() if kind == "add" else cache.save(url, overwrite=kind == "over")
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def main(folder: Path) -> None:
    """Kill at the first change, at the second, ... until a process lives."""
    torch.set_num_threads(1)
    import lazycache.saving

    assert lazycache.saving
    for kind in ("new", "over", "add"):
        for count in range(MOST):
            url = folder / f"{kind}-{count}"
            if kind != "new":
                old().save(url)
            if _child(url, count, kind):
                break


if __name__ == "__main__":
    main(Path(sys.argv[1]))
