"""Where an answer goes: the terminal, a pipe, or a file that is there whole or not at all."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from lazycache.errors import DatasetExistsError, LazycacheError, QueryError, StorageError

FORMS = ("table", "csv", "json", "parquet")
"""What an answer can be printed as; json is one object a line."""

STDOUT = "-"
"""The file that is standard output."""

_ENDINGS = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}


def form_of(form: str | None, output: str) -> str:
    """Return the form that is meant: the one asked for, else by the ending of the file.

    Raises:
        QueryError: there is no such form, or a file has none.

    Example:
        >>> form_of(None, "-"), form_of(None, "hits.csv"), form_of("json", "hits.txt")
        ('table', 'csv', 'json')
    """
    if form is not None and form not in FORMS:
        raise QueryError(f"No output format {form!r}. There are: {', '.join(FORMS)}.")
    found = form or ("table" if output == STDOUT else _ENDINGS.get(Path(output).suffix.lower()))
    if found is None or (found == "table" and output != STDOUT):
        raise QueryError(
            f"--output {output}: say how it is written: --format csv, json or parquet. A table is "
            "for a terminal."
        )
    return found


def chosen_form(form: str | None, *, json: bool) -> str | None:
    """Return the form that `--format` and `--json` ask for.

    Raises:
        QueryError: they ask for two.

    Example:
        >>> chosen_form(None, json=True), chosen_form("csv", json=False)
        ('json', 'csv')
    """
    if json and form not in (None, "json"):
        raise QueryError(f"--json and --format {form}: give one of them.")
    return "json" if json else form


def check_terminal(form: str) -> None:
    """Refuse to write bytes to a terminal.

    Raises:
        QueryError: standard output is one.
    """
    if form == "parquet" and sys.stdout.isatty():
        raise QueryError("Parquet is no text for a terminal: --output FILE, or a pipe.")


def check_file(output: str, *, overwrite: bool) -> None:
    """Refuse a file that could not be written, before the question is asked.

    Raises:
        DatasetExistsError: there is one, and it shall not be replaced.
        StorageError: its folder is not there, or it is a folder.
    """
    path = _path(output)
    if path.exists() and not path.is_file():
        # also what is replaced by a file only to the harm of others: /dev/null
        raise StorageError(f"--output {output} is a folder or a device: name a file.")
    if path.exists() and not overwrite:
        raise DatasetExistsError(f"{output} is there: --overwrite replaces it.")
    if not path.parent.is_dir():
        raise StorageError(f"--output {output}: there is no folder {str(path.parent)!r}.")


def check_output(form: str | None, output: str, *, overwrite: bool) -> None:
    """Refuse what could not be written, before anything is asked.

    Raises:
        QueryError: there is no such form, or it is no text for a terminal.
        DatasetExistsError: there is such a file, and it shall not be replaced.
        StorageError: its folder is not there, or it is a folder.
    """
    check_terminal(form_of(form, output) if output == STDOUT else "")
    if output != STDOUT:
        form_of(form, output)
        check_file(output, overwrite=overwrite)


@contextmanager
def whole_file(output: str, *, overwrite: bool) -> Iterator[IO[bytes]]:
    """Give a stream whose bytes are in the file when all of them are, and not before.

    After an error the file is as it was: not there, or the old one.

    Raises:
        DatasetExistsError: there is one, and it shall not be replaced.
        StorageError: the file system failed.
    """
    check_file(output, overwrite=overwrite)
    path = _path(output)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        with part.open("xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        _put(part, path, overwrite=overwrite)
    except LazycacheError:
        raise
    except FileExistsError as exc:
        raise DatasetExistsError(f"{output} is there: --overwrite replaces it.") from exc
    except OSError as exc:
        raise StorageError(f"--output {output}: {exc.strerror or exc}.") from exc
    finally:
        with suppress(FileNotFoundError):
            part.unlink()


def _path(output: str) -> Path:
    return Path(output).expanduser().resolve()


def _put(part: Path, path: Path, *, overwrite: bool) -> None:
    if overwrite:
        part.replace(path)
        return
    try:
        os.link(part, path)  # fails where somebody else was faster
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if path.exists():
            raise
        part.rename(path)
