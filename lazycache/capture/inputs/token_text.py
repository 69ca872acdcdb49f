"""The text of single tokens, as a person reads it: decoded once per id and kept."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lazycache.errors import CaptureError

_SENTENCEPIECE_SPACE = "\u2581"


class TokenText:
    """Gives ids their text. Works with any tokenizer that has `decode(list of ids)`.

    The text is what the token adds to a sentence, leading space included (` Paris`), not the
    tokenizer's inner spelling (`ĠParis`). A token that is a part of a character reads as U+FFFD.

    Example:
        >>> class Letters:
        ...     def decode(self, ids):
        ...         return "".join(chr(97 + i) for i in ids)
        >>> TokenText(Letters()).of([0, 2, 0])
        ['a', 'c', 'a']
    """

    def __init__(self, tokenizer: Any) -> None:
        if not callable(getattr(tokenizer, "decode", None)):
            raise CaptureError(
                f"{type(tokenizer).__name__} has no decode(ids), so it is no tokenizer that can "
                "give tokens their text."
            )
        self._tokenizer = tokenizer
        self._known: dict[int, str] = {}

    def of(self, ids: Iterable[int]) -> list[str]:
        """Return the text of each id; decodes only ids that are new."""
        known = self._known
        listed = list(ids)
        for token in set(listed).difference(known):
            known[token] = self._decode(token)
        return [known[token] for token in listed]

    def _decode(self, token: int) -> str:
        spelling = getattr(self._tokenizer, "convert_ids_to_tokens", None)
        if spelling is None:
            return str(self._tokenizer.decode([token]))
        # cleaning up would turn the token " ." into "."
        text = str(self._tokenizer.decode([token], clean_up_tokenization_spaces=False))
        inner = spelling(token)
        if isinstance(inner, str) and inner.startswith(_SENTENCEPIECE_SPACE):
            # these decoders drop the space of a first word, and here every token comes first
            return text if text.startswith(" ") else f" {text}"
        return text
