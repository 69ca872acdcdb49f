"""The corpus that a run was captured from, in storage order: its stored tokens, or read again."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import IO, Self

import numpy as np

from lazycache.capture.corpus.items import Item
from lazycache.capture.corpus.work import Work
from lazycache.catalog.stored_examples import StoredExamples, Tokens
from lazycache.codec.checksum import crc32
from lazycache.errors import CaptureError

_NONE = Tokens(-1, np.empty(0, np.int32), np.empty(0, np.int64))


class StoredCorpus:
    """Gives the examples of a run again, as the model read them.

    Where every token of every example is stored, they come from the dataset. Else they come from
    the corpus, which is read once, in its own order, and kept in a temporary file.

    Args:
        stored: The examples.
        lengths: Id to the number of tokens that the model read; None where it read none.
        checksums: Id to the CRC-32 of these tokens, as far as it is known.

    Raises:
        CaptureError: examples without tokens, such as images.
    """

    def __init__(
        self,
        stored: StoredExamples,
        *,
        lengths: Mapping[int, int | None],
        checksums: Mapping[int, int | None],
    ) -> None:
        self._stored = stored
        self._checksums = checksums
        known = [lengths.get(example) for example in stored.ids.tolist()]
        if any(length is None for length in known):
            raise CaptureError(
                "The examples of this run are no sequences of tokens, so there is nothing to know "
                "them by: capture the site in another run."
            )
        self._lengths = np.array(known, np.int64)
        self.is_complete = bool((self._lengths == stored.tokens.count).all())
        """Whether every token that the model read is stored."""
        self._file: IO[bytes] | None = None
        self._offsets = np.full(len(stored), -1, np.int64)

    def __enter__(self) -> Self:
        """Read and give examples inside the block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove the temporary file, if there was one."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def work(self, chosen: np.ndarray) -> Work:
        """Return what running the model over some of the examples asks: bool[examples]."""
        return Work.of(self._lengths[chosen].tolist())

    def match(self, items: Iterable[Item]) -> None:
        """Compare a corpus with what is stored; examples that are not stored are passed over.

        Raises:
            CaptureError: an example differs, by its id and the first position that does; examples
                that are stored and not in the corpus.
        """
        seen = np.zeros(len(self._stored), dtype=bool)
        checksums = self._known_checksums()
        for item in items:
            at = int(self._stored.at([item.example])[0])
            if at < 0:
                continue
            seen[at] = True
            ids = _ids_of(item)
            if len(ids) != self._lengths[at] or checksums.get(item.example, item.checksum) not in (
                item.checksum,
                None,
            ):
                raise self._difference(item.example, ids, at)
            if not self.is_complete:
                self._keep(at, ids)
        if not seen.all():
            missing = np.sort(self._stored.ids[~seen])
            raise CaptureError(
                f"The corpus lacks example {missing[0]}, which is stored"
                f"{f', and {len(missing) - 1} more' * (len(missing) > 1)}. Give the corpus that "
                "the run was captured from, or none (data=None) where all tokens are stored."
            )

    def items(self, expected: dict[int, Tokens]) -> Iterator[Item]:
        """Give all examples in storage order; what is stored of each is left in `expected`."""
        sequences = self._stored.sequences()
        counts = self._stored.tokens.count
        for at, example in enumerate(self._stored.ids.tolist()):
            tokens = next(sequences) if counts[at] else _NONE
            expected[example] = tokens
            ids = tokens.token_ids if self.is_complete else self._kept(at)
            yield Item(example, np.array(ids, np.int64), {})  # Arrow's are read-only

    def _known_checksums(self) -> Mapping[int, int | None]:
        if not self.is_complete or not any(value is None for value in self._checksums.values()):
            return self._checksums
        return {t.example: _crc(t.token_ids) for t in self._stored.sequences()}

    def _difference(self, example: int, ids: np.ndarray, at: int) -> CaptureError:
        advice = (
            "Sites are added to the rows that are stored: give the corpus, tokenizer and "
            "max_length that they came from."
        )
        if len(ids) != self._lengths[at]:
            what = f"it has {len(ids)} tokens, the model read {self._lengths[at]} of the stored one"
            return CaptureError(f"Example {example} of the corpus is another one: {what}. {advice}")
        tokens = next(t for t in self._stored.sequences() if t.example == example)
        differs = np.flatnonzero(ids[tokens.positions] != tokens.token_ids)
        what = "at a position that is not stored"
        if len(differs):
            row = differs[0]
            position = tokens.positions[row]
            what = f"at position {position} it has token {ids[position]}, stored is "
            what += str(tokens.token_ids[row])
        return CaptureError(f"Example {example} of the corpus is another one: {what}. {advice}")

    def _keep(self, at: int, ids: np.ndarray) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the block
        self._offsets[at] = self._file.seek(0, os.SEEK_END)
        self._file.write(ids.astype("<i8").tobytes())

    def _kept(self, at: int) -> np.ndarray:
        assert self._file is not None, "every example was matched"
        self._file.seek(int(self._offsets[at]))
        return np.frombuffer(self._file.read(8 * int(self._lengths[at])), "<i8")


def _ids_of(item: Item) -> np.ndarray:
    if item.input_ids is None or item.decoder_ids is not None:
        raise CaptureError(
            f"Example {item.example} is not one sequence of tokens; sites can be added later for "
            "those only. Capture the site in another run."
        )
    return item.input_ids


def _crc(ids: np.ndarray) -> int:
    return crc32(ids.astype("<i8").tobytes())
