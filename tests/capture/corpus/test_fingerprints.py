"""Short numbers that tell models, tokenizers and corpora apart."""

import capture_helpers as h
import numpy as np
import pytest
import torch
from tokenizers import NormalizedString, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase, Normalizer
from transformers import PreTrainedTokenizerFast

from lazycache.capture.corpus.fingerprints import (
    corpus_fingerprint,
    tokenizer_fingerprint,
    weights_fingerprint,
)


def _tokenizer(normalizer=None, **special):
    plain = Tokenizer(WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    if normalizer is not None:
        plain.normalizer = normalizer
    return PreTrainedTokenizerFast(tokenizer_object=plain, **special)


def test_weights_are_told_apart_by_any_parameter():
    """One changed matrix gives another number; the same weights again give the same."""
    one, other = h.make("gpt2"), h.make("gpt2")
    assert weights_fingerprint(one) == weights_fingerprint(other)
    with torch.no_grad():
        other.transformer.h[1].mlp.c_fc.weight.mul_(1.01)
    assert weights_fingerprint(one) != weights_fingerprint(other)
    assert weights_fingerprint(one.to("meta")) is None


def test_tokenizers_are_told_apart_by_vocabulary_special_tokens_and_rules():
    """Calling one changes nothing; what it would do differently does."""
    known = tokenizer_fingerprint(_tokenizer())
    called = _tokenizer(pad_token="[UNK]")
    before = tokenizer_fingerprint(called)
    called(["a", "a a"], padding=True, truncation=True, max_length=1)
    assert tokenizer_fingerprint(called) == before
    assert before["vocabulary"] != known["vocabulary"]
    assert before["rules"] == known["rules"]
    lower = tokenizer_fingerprint(_tokenizer(Lowercase()))
    assert lower["vocabulary"] == known["vocabulary"]
    assert lower["rules"] != known["rules"]


def test_rules_in_python_have_no_fingerprint():
    """A normaliser that cannot be written down is no error: its vocabulary still counts."""

    class Mine:
        def normalize(self, text: NormalizedString) -> None:
            text.lowercase()

    tokenizer = _tokenizer()
    tokenizer.backend_tokenizer.normalizer = Normalizer.custom(Mine())
    found = tokenizer_fingerprint(tokenizer)
    assert found["rules"] is None
    assert found["vocabulary"] is not None


@pytest.mark.parametrize(
    "other",
    [
        [[1, 2], [3, 4]],
        [[1], [2, 3]],
        [[1, 2, 3], []],
        [{"input_ids": [1, 2], "example": 5}, [3]],
        [{"input_ids": [1, 2], "attention_mask": [1, 0]}, [3]],
        ["1 2", [3]],
    ],
)
def test_corpora_are_told_apart_by_what_a_model_reads(other):
    """Tokens, where examples end, ids and masks count; the form and user columns do not."""
    known = corpus_fingerprint([[1, 2], [3]])
    assert corpus_fingerprint(other)["crc32"] != known["crc32"]
    same = [{"input_ids": np.array([1, 2], np.int32), "label": "x"}, torch.tensor([3])]
    assert corpus_fingerprint(same) == known
    assert corpus_fingerprint([*same, [9]], first=2) == known


def test_a_corpus_that_may_be_read_once_is_left_alone():
    """Generators, and objects that compute their items, are not read."""

    class Rows:
        _fingerprint = "abc"

        def __len__(self):
            return 3

        def __iter__(self):
            raise AssertionError

    assert corpus_fingerprint(Rows()) == {"items": 3, "crc32": None, "fingerprint": "abc"}
    items = iter([[1]])
    assert corpus_fingerprint(items)["crc32"] is None
    assert next(items) == [1]
    assert corpus_fingerprint([object()])["crc32"] is None
