"""Texts by number: each distinct text is kept once, as long as all of them are not much."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

WORDS_BYTES = 64 << 20
"""Most characters of distinct texts that are kept; each counts for 64 more, as Python's do."""

_EACH = 64


class Words:
    """Distinct texts in the order in which they were met; number 0 is no text (NULL)."""

    def __init__(self, *, most_bytes: int = WORDS_BYTES) -> None:
        self._numbers: dict[Any, int] = {None: 0}
        self._room = most_bytes
        self._all = np.array([None], dtype=object)

    @property
    def are_many(self) -> bool:
        """Whether there are more than are to be kept."""
        return self._room < 0

    def all(self) -> np.ndarray:
        """Return the texts by number: object[n]."""
        if len(self._all) < len(self._numbers):
            # in order of the numbers: a dict keeps the order in which its keys came
            self._all = np.array(list(self._numbers), dtype=object)
        return self._all

    def numbers_of(self, column: pa.ChunkedArray) -> np.ndarray:
        """Return the numbers of a column of texts that has a dictionary; new texts get new ones.

        Example:
            >>> import pyarrow as pa
            >>> words = Words()
            >>> column = pa.chunked_array([pa.array(["b", None, "a", "b"]).dictionary_encode()])
            >>> words.numbers_of(column), words.all().tolist()
            (array([1, 0, 2, 1], dtype=int32), [None, 'b', 'a'])
        """
        found = column.unify_dictionaries()
        texts = found.chunk(0).dictionary.to_pylist() if found.num_chunks else []
        known = np.zeros(len(texts) + 1, dtype=np.int32)  # the last one is of NULL
        known[:-1] = [self._number(text) for text in texts]
        codes = [chunk.indices.fill_null(-1).to_numpy() for chunk in found.chunks]
        return known.take(np.concatenate([np.empty(0, dtype=np.int64), *codes]))

    def _number(self, text: str | None) -> int:
        number = self._numbers.get(text)
        if number is None:
            number = self._numbers[text] = len(self._numbers)
            self._room -= len(text or "") + _EACH
        return number
