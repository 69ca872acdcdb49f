"""Save caches in child processes that kill themselves at their n-th change of the file system.

python save_crasher.py FOLDER: FOLDER/new-<n> had nothing before, FOLDER/over-<n> an older dataset,
to that in FOLDER/add-<n> values are added, to FOLDER/rows-<n> a site of two runs and a value.
"""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from forking import import_what

import lazycache as lc

CHANGES = {"os.rename", "os.link", "os.remove", "os.mkdir"}
MOST = 60


def old() -> lc.ActivationCache:
    """The dataset that is replaced."""
    return lc.ActivationCache({"old": torch.arange(50.0), "note": "before"})


def new() -> lc.ActivationCache:
    """The cache that is saved."""
    return lc.ActivationCache({f"x{i}": torch.full((40,), i) for i in range(2)} | {"note": ["now"]})


MORE = 3
"""By how much the site `more`, which is added, is greater than the site `0:out`."""


def captured(url: Path) -> None:
    """A dataset of two runs, to whose rows sites are added."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    for run in ("a", "b"):
        with torch.no_grad(), lc.capture(model, url, ["0"], run=run, resume=True):
            model(torch.ones(3, 2))


def _armed(count: int):
    left = [count]

    def hook(event, args):
        if event in CHANGES or (event == "open" and args[2] and args[2] & os.O_CREAT):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return hook


def change(url: Path, kind: str) -> Callable[[], object]:
    """Return what saves or persists."""
    if kind in ("new", "over"):
        cache = new()
        return lambda: cache.save(url, overwrite=kind == "over")
    cache = lc.open(url)
    if kind == "add":
        cache.update(new())
    else:
        cache["more"], cache["note"] = cache["0:out"] + MORE, "now"
    return cache.persist


def _child(url: Path, count: int, kind: str) -> bool:
    """Save or persist; return whether the process lived to the end."""
    pid = os.fork()
    if not pid:
        work = change(url, kind)
        sys.addaudithook(_armed(count))
        work()
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code not in (0, -signal.SIGKILL):
        sys.exit(f"{url} failed: code {code}")
    return code == 0


def _first(folder: Path) -> None:
    """Make what is changed, in a child: this starts threads, and forks beside them may hang."""
    captured(folder / "captured")
    old().save(folder / "old")
    shutil.copytree(folder / "captured", folder / "imports")
    change(folder / "imports", "rows")()


def main(folder: Path) -> None:
    """Kill at the first change, at the second, ... until a process lives."""
    torch.set_num_threads(1)
    import_what(lambda: _first(folder))
    for kind in ("new", "over", "add", "rows"):
        for count in range(MOST):
            url = folder / f"{kind}-{count}"
            if kind != "new":
                shutil.copytree(folder / ("captured" if kind == "rows" else "old"), url)
            if _child(url, count, kind):
                break


if __name__ == "__main__":
    main(Path(sys.argv[1]))
