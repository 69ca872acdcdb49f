"""Operations of torch on the thread that asks for them, without a team of further threads."""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[bool]:
    """Let torch compute on the calling thread alone while the block lasts; others are untouched.

    torch splits an operation on more than 32,768 numbers among as many threads as the machine has
    cores, and every thread of ours that computes would start such a team beside the model's.
    `torch.set_num_threads` is no help, as it changes all threads; OpenMP's own setting is of one.

    Yields:
        Whether that worked: not without OpenMP, as on macOS and Windows. Then stay at operations
        that torch does not split.

    Cost: a few microseconds.

    Example:
        >>> before = torch.get_num_threads()
        >>> with one_thread() as worked:
        ...     torch.get_num_threads() == 1 or not worked
        True
        >>> torch.get_num_threads() == before
        True
    """
    before = torch.get_num_threads()  # also settles it for this thread, which would come later
    if before == 1:
        yield True
        return
    openmp = _openmp()
    if openmp is None:
        yield False
        return
    openmp.omp_set_num_threads(1)
    try:
        yield torch.get_num_threads() == 1  # not if torch has an OpenMP of its own
    finally:
        openmp.omp_set_num_threads(before)


@functools.cache
def _openmp() -> ctypes.CDLL | None:
    """Return the OpenMP of this process; None if there is none to find."""
    if sys.platform == "win32":
        return None
    process = ctypes.CDLL(None)
    return process if hasattr(process, "omp_set_num_threads") else None
