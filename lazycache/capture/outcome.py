"""What the end of a capture has to say: nothing recorded, passes that were lost, where to point."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from lazycache.capture.values.hooks import is_wrapped_by_compile
from lazycache.errors import CaptureError

_OURS = ("lazycache", "contextlib")


@dataclass(frozen=True, slots=True)
class Counts:
    """What was met in a block."""

    forwards: int
    """Forward passes that were recorded."""
    dropped: int
    """Forward passes that began and were not recorded."""
    stray: int
    """Times that a site was met outside a forward pass of the model."""
    waiting: int = 0
    """Forward passes, of those that were dropped, whose gradients did not all come."""
    missing: Sequence[str] = ()
    """Sites whose gradients these were."""


def check_recorded(model: nn.Module, counts: Counts, *, allow_empty: bool) -> None:
    """Refuse a block that recorded nothing, and say what it looks like.

    Raises:
        CaptureError: nothing was recorded although sites were met, or was allowed to be empty.

    Example:
        >>> check_recorded(nn.ReLU(), Counts(forwards=1, dropped=0, stray=0), allow_empty=False)
    """
    if counts.forwards or (allow_empty and (counts.dropped or not counts.stray)):
        return
    raise CaptureError(f"Nothing was recorded: {_why(model, counts)}")


def _why(model: nn.Module, counts: Counts) -> str:
    kind = type(model).__name__
    if counts.waiting:
        return _missing(counts)
    if counts.dropped:
        return (
            f"none of the forward passes that began ({counts.dropped}, of {kind}) was finished. An "
            "exception that the block caught stopped them; it says what is wrong."
        )
    if counts.stray:
        return (
            f"sites were met {counts.stray} times, but the {kind} that is captured was never "
            "called as a whole. Call model(...), not model.forward(...) or a module inside it; or "
            "capture that module."
        )
    if is_wrapped_by_compile(model):
        return (
            f"the {kind} that is captured was never called, but there is a torch.compile of it. "
            "What was compiled before runs without hooks: call the model itself in the block."
        )
    return (
        f"the {kind} that is captured was never called in the block. Call model(...), this very "
        "object: a copy, a wrapper with a copy in it or a function that was compiled before does "
        "not run its hooks."
    )


def lost_report(counts: Counts) -> str:
    """Say that forward passes are missing."""
    why = "An exception stopped them, or the block ended before they did."
    if counts.waiting:
        why = _missing(counts)
    return (
        f"Forward passes that began and were not recorded: {counts.dropped}. {why} The dataset "
        "lacks their examples."
    )


def _missing(counts: Counts) -> str:
    names = ", ".join(counts.missing[:5]) + ", ..." * (len(counts.missing) > 5)  # noqa: PLR2004  # as many as fit a line
    return (
        f"of {counts.waiting} forward passes gradients never came: {names}. Run backward() on a "
        "loss that depends on these sites, in the block."
    )


def overflow_report(dtype: torch.dtype | None, overflowed: Mapping[str, int]) -> str | None:
    """Say in one sentence what the cast to `dtype` lost; None if nothing.

    Example:
        >>> overflow_report(torch.float16, {}) is None
        True
    """
    if not overflowed:
        return None
    sites = ", ".join(f"{name} ({count:,})" for name, count in overflowed.items())
    return (
        f"dtype={dtype}: values that it cannot hold were stored as its limit, infinity "
        f"or NaN: {sites}. dtype=None or torch.bfloat16 keeps their range."
    )


def unused_report() -> str:
    """Say that an annotation went nowhere."""
    return (
        "annotate() was called, but the thread that called it did not call the model after it: "
        "its ids and columns are stored nowhere. Annotate in the thread that calls the model."
    )


def callers_level() -> int:
    """Return the `stacklevel` of the `with` statement outside lazycache that called the caller."""
    level, frame = 1, sys._getframe(1)  # noqa: SLF001  # inspect.stack() reads source files
    while frame.f_back is not None and _is_ours(frame.f_globals.get("__name__", "")):
        level, frame = level + 1, frame.f_back
    return level


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] in _OURS
