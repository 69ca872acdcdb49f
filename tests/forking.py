"""What forked children need is imported once, by the process that forks them."""

import importlib
import os
import sys
from contextlib import suppress


def import_what(work) -> None:
    """Do `work` in a child, and import here all that it has imported there.

    A library that is imported at its first use costs each child a second otherwise, and most
    kills would hit an import. The work itself starts no thread here, which a fork would lose.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        work()
        with os.fdopen(writing, "w", encoding="utf-8") as names:
            names.write("\n".join(sys.modules))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as names:
        found = names.read().splitlines()
    _, status = os.waitpid(child, 0)
    if status:
        sys.exit(f"what is imported could not be found out: status {status}")
    for name in set(found).difference(sys.modules):
        with suppress(ImportError):  # some are made, not imported
            importlib.import_module(name)
