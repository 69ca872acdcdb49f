"""One process that has imported what the crashers need, and forks each of them.

Run as a script: a line `["copy_crasher", "FOLDER", 8, 6]` is answered by one with the exit status,
what was printed and what was complained of. An interpreter that imports torch, a model library and
the rest takes seconds, which each crasher would need for itself. A crasher is a fork of a process
without threads, its children are forks of it, and they are killed as ever.
"""

import importlib
import json
import os
import sys
import tempfile
from pathlib import Path

from care_helpers import small_commits
from copy_kinds import KINDS
from faults import capture_crasher, care_crasher, copy_crasher, extract_crasher, save_crasher
from forking import import_what


def all_of_them(folder: Path) -> None:
    """Do once what crashers do: what it imports is imported for all of them."""
    model = capture_crasher.make_model()
    capture_crasher.capture(model, folder / "capture", batches=8)
    extract_crasher.extract(model, folder / "extract")
    extract_crasher.add(model, folder / "extract")
    small_commits(folder / "source", range(2))
    for kind in range(len(KINDS)):
        copy_crasher.copy(folder, folder / f"copy{kind}", kind)
    care_crasher.make_dataset(folder / "care")
    care_crasher.look_after(folder / "care", os.open(os.devnull, os.O_WRONLY))
    save_crasher.captured(folder / "save")
    save_crasher.change(folder / "save", "rows")()


def answer(name: str, folder: str, *numbers: int) -> list[object]:
    """Run a crasher in a fork as if it were a script; say how it ended."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if child == 0:
            for stream, file in enumerate((out, err), 1):
                os.dup2(file.fileno(), stream)
            importlib.import_module(f"faults.{name}").main(Path(folder), *numbers)
            sys.exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return [status, *(_whole(file) for file in (out, err))]


def _whole(file) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        import_what(lambda: all_of_them(Path(place)))
    # not iterated: a fork must not find the next line in a buffer
    while line := sys.stdin.readline():
        sys.stdout.write(json.dumps(answer(*json.loads(line))) + "\n")
        sys.stdout.flush()
