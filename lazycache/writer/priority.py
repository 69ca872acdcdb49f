"""What writer threads leave to the model that runs beside them."""

from __future__ import annotations

import os
import threading
from contextlib import suppress

STEP = 10
"""How much nicer a writer thread is than the thread that made it: a tenth of its weight."""


def give_way() -> None:
    """Let other threads of the process go first where cores are short. For the thread that calls.

    A model that uses all cores divides each operation among them and waits for the slowest part, so
    that one core taken for a millisecond costs the model a millisecond of all. On cores that are
    idle nothing changes. Does nothing where threads have no niceness (only Linux knows that).

    Example:
        >>> thread = threading.Thread(target=give_way)
        >>> thread.start(); thread.join()
    """
    if not hasattr(os, "setpriority") or os.uname().sysname != "Linux":
        return  # elsewhere the number would name a process, and slow the model too
    with suppress(OSError):  # a sandbox may forbid it: then it is as it was
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + STEP)
