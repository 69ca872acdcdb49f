"""Text of single tokens."""

import pytest

from lazycache.capture.inputs.token_text import TokenText
from lazycache.errors import CaptureError


class Counting:
    """A tokenizer that counts what it decodes, as those of transformers take their arguments."""

    def __init__(self, words):
        self.words = words
        self.decoded = []

    def decode(self, ids, clean_up_tokenization_spaces=True):
        self.decoded.extend(ids)
        assert clean_up_tokenization_spaces is False
        return "".join(self.words[i] for i in ids).replace("\u2581", " ").lstrip(" ")

    def convert_ids_to_tokens(self, token):
        return self.words[token]


def test_each_id_is_decoded_once():
    """Decoding is remembered over batches."""
    tokenizer = Counting(["a", "b"])
    text = TokenText(tokenizer)
    assert text.of([0, 1, 0]) == ["a", "b", "a"]
    assert text.of([1, 1]) == ["b", "b"]
    assert sorted(tokenizer.decoded) == [0, 1]


def test_the_space_of_sentencepiece_words_is_kept():
    """A decoder that drops a leading space does not hide where words begin."""
    assert TokenText(Counting(["\u2581Paris", "is"])).of([0, 1]) == [" Paris", "is"]


def test_real_tokens_read_as_text(minilm):
    """The real WordPiece tokenizer gives words, parts of words and special tokens."""
    _, tokenizer = minilm
    ids = tokenizer("Paris is unbelievable.")["input_ids"]
    text = TokenText(tokenizer).of(ids)
    assert text[:3] == ["[CLS]", "paris", "is"]
    assert text[-2:] == [".", "[SEP]"]


def test_what_cannot_decode_is_refused():
    """A tokenizer without `decode` is an error at once."""
    with pytest.raises(CaptureError, match=r"has no decode\(ids\)"):
        TokenText(object())
