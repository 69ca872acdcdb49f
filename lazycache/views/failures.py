"""What a person is told when a command fails: one line on standard error, and the exit code."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from lazycache.errors import LazycacheError

FAILED, INTERRUPTED = 1, 130
"""Exit codes: a command that was refused or failed, and one that was stopped by Ctrl-C."""


@contextmanager
def told() -> Iterator[None]:
    """Tell what goes wrong in the block, and end the process with the code that it means.

    Raises:
        SystemExit: something went wrong that is the user's to mend. Anything else is an error of
            ours and keeps its traceback.
    """
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            yield
    except LazycacheError as exc:
        # of those that are errors of the system too, `str` begins with a number
        said = exc.strerror if isinstance(exc, OSError) else None
        _tell(type(exc).__name__, said or str(exc))
        sys.exit(FAILED)
    except SystemExit as exc:
        if exc.code == INTERRUPTED:  # typer has made it of Ctrl-C, and said nothing
            _tell("Interrupted", "what was committed stays.")
        raise
    except OSError as exc:
        if exc.errno == errno.EPIPE:  # `| head` has read enough
            _close_quietly()
            sys.exit(FAILED)
        _tell(type(exc).__name__, _of_system(exc))
        sys.exit(FAILED)


def _of_system(exc: OSError) -> str:
    """Say what the system refused, and of which file."""
    said = exc.strerror or str(exc)
    return f"{exc.filename}: {said}." if exc.filename is not None else f"{said}."


def _tell(title: str, text: str) -> None:
    from lazycache.views.render import errors, harmless

    errors.print(f"[bold red]{title}[/]: ", end="")
    # what it says may be of the dataset: tokens, names
    errors.print("\n".join(map(harmless, text.split("\n"))), markup=False, soft_wrap=True)


def _close_quietly() -> None:
    """Let nothing be written any more, not even what python has left to write at its end."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere:  # noqa: PTH123  # a device
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,  # noqa: ARG001  # of the library: python calls it with these
    lineno: int,  # noqa: ARG001
    file: TextIO | None = None,  # noqa: ARG001
    line: str | None = None,  # noqa: ARG001
) -> None:
    """Show a warning in a line, without the source line that python adds."""
    from lazycache.views.render import errors, harmless

    errors.print(f"[bold yellow]{category.__name__}[/]: ", end="")
    errors.print(harmless(str(message)), markup=False, soft_wrap=True)
