"""Forks of this process: what was imported here is not imported again in each of them."""

from __future__ import annotations

import atexit
import os
import sys
import traceback
from collections.abc import Callable


def forked(action: Callable[[], object]) -> int:
    """Do something in a fork of this process, and return its number; it ends with 0 or, failed, 1.

    To be called where no threads run and none have been used. Unlike the processes of
    `multiprocessing` it is a main process for all who ask, and what is to be done at exit is done
    in it; so the caller has no `TemporaryDirectory` open. Its standard output goes nowhere.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if child := os.fork():
        return child
    status = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        action()
        status = 0
    except BaseException:  # noqa: BLE001  # nothing may go on as if it were the parent
        traceback.print_exc()
    finally:
        try:
            atexit._run_exitfuncs()  # noqa: SLF001  # os._exit does not run them
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)
