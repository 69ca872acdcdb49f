"""Compiled modules that the processes of a run share, where an environment keeps none."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def shared_bytecode() -> Iterator[None]:
    """Have this process and those that it starts keep in one folder what they compile.

    Only where nothing is kept otherwise (`PYTHONDONTWRITEBYTECODE`): there every process would
    compile torch and the peers again, and `import torch` would mostly measure that.
    """
    if not sys.dont_write_bytecode:
        yield
        return
    folder = tempfile.mkdtemp()  # no `TemporaryDirectory`: the end of a fork would remove it
    before = os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix = folder
    sys.dont_write_bytecode = False
    try:
        yield
    finally:
        sys.dont_write_bytecode, sys.pycache_prefix = True, None
        del os.environ["PYTHONPYCACHEPREFIX"]
        if before is not None:
            os.environ["PYTHONDONTWRITEBYTECODE"] = before
        shutil.rmtree(folder, ignore_errors=True)
