"""Text for the command line: files of a user, and real prose that every Python has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lazycache.errors import CaptureError, nearest

TEXT = "text"
"""Where an example has its text."""


def read_corpus(path: Path, *, text_column: str = TEXT) -> list[dict[str, Any]]:
    """Read a corpus file as one dict per example.

    Args:
        path: `.jsonl` with an object a line (`text` or `input_ids`, and columns of your own), or a
            text file whose paragraphs, separated by blank lines, are the examples.
        text_column: What `text` is called in a `.jsonl`. It is `text` in what is returned.

    Raises:
        CaptureError: no such file, nothing in it, a line that is not a JSON object, or one without
            the column that was named.
    """
    try:
        content = path.read_text(encoding="utf-8")
    except OSError as exc:
        raise CaptureError(f"Cannot read the corpus {str(path)!r}: {exc.strerror}.") from exc
    except UnicodeDecodeError as exc:
        raise CaptureError(f"The corpus {str(path)!r} is not UTF-8 text: {exc.reason}.") from exc
    if path.suffix in {".jsonl", ".ndjson"}:
        # not splitlines(): it also splits at separators that JSON strings may hold
        lines = [(i, line) for i, line in enumerate(content.split("\n"), 1) if line.strip()]
        examples = [_json_example(path, i, line, text_column) for i, line in lines]
    elif text_column != TEXT:
        raise CaptureError(f"{str(path)!r} is no .jsonl file: it has no column {text_column!r}.")
    else:
        examples = [{"text": text} for text in paragraphs(content)]
    if not examples:
        raise CaptureError(f"The corpus {str(path)!r} holds no example: it is empty.")
    return examples


def paragraphs(text: str) -> Iterator[str]:
    """Split prose at blank lines."""
    for block in text.split("\n\n"):
        if block.strip():
            yield " ".join(block.split())


def python_documentation(characters: int) -> list[dict[str, Any]]:
    """Give about `characters` of the language reference that CPython installs, by paragraph.

    Returns:
        One dict per paragraph: `text`, and the `topic` that it is from.
    """
    from pydoc_data.topics import topics

    found: dict[str, str] = {}  # text to topic: some paragraphs stand in several topics
    used = 0
    for topic in sorted(topics):
        for text in paragraphs(topics[topic]):
            if used >= characters:
                break
            if len(text) >= SHORTEST and text not in found:
                found[text] = topic
                used += len(text)
    return [{"text": text, "topic": topic} for text, topic in found.items()]


SHORTEST = 60
"""Characters below which a paragraph is a heading or a fragment of a list."""


def _json_example(path: Path, number: int, line: str, text_column: str) -> dict[str, Any]:
    """One line of a .jsonl file."""
    try:
        example = json.loads(line)
    except json.JSONDecodeError as exc:
        raise CaptureError(f"Line {number} of {str(path)!r} is not JSON: {exc.msg}.") from exc
    if not isinstance(example, dict):
        raise CaptureError(f"Line {number} of {str(path)!r} is not a JSON object.")
    return example if text_column == TEXT else _renamed(path, number, example, text_column)


def _renamed(path: Path, number: int, example: dict[str, Any], text_column: str) -> dict[str, Any]:
    """Call the column that was named `text`."""
    if text_column not in example:
        raise CaptureError(
            f"Line {number} of {str(path)!r} has no column {text_column!r}. "
            f"{nearest(text_column, example)}"
        )
    if TEXT in example:
        # one of the two would be lost: the text of an example is stored as column `text`
        raise CaptureError(
            f"Line {number} of {str(path)!r} has a column {TEXT!r} beside {text_column!r}. Rename "
            f"it: what the model reads is stored as {TEXT!r}."
        )
    return {(TEXT if key == text_column else key): value for key, value in example.items()}
