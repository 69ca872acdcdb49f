"""Short numbers that tell models, tokenizers and corpora apart."""

from functools import partial

import capture_helpers as h
import numpy as np
import pytest
import torch
from tokenizers import NormalizedString, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase, Normalizer
from torch import nn
from transformers import PreTrainedTokenizerFast

from lazycache.capture.corpus.fingerprints import (
    corpus_fingerprint,
    function_fingerprint,
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int8])
def test_weights_are_told_apart_by_each_single_number(dtype):
    """A neuron that was switched off is another model, wherever it is and however long the rest."""
    weights = torch.arange(1, 1000).to(dtype)
    model = torch.nn.Module()
    for first in (0, 1):  # a parameter may begin in the middle of a word of its storage
        model.weight = torch.nn.Parameter(weights[first:], requires_grad=False)
        known = weights_fingerprint(model)
        for at in (-1, 1, 500, 996):
            kept = model.weight[at].item()
            model.weight[at] = 0
            assert weights_fingerprint(model) != known
            model.weight[at] = kept
        assert weights_fingerprint(model) == known


def test_weights_without_numbers_have_a_fingerprint():
    """A parameter may be empty, or one number without a dimension."""
    model = torch.nn.Module()
    model.empty = torch.nn.Parameter(torch.empty(0, 3))
    model.scale = torch.nn.Parameter(torch.tensor(2.0))
    known = weights_fingerprint(model)
    model.scale.data.mul_(2)
    assert weights_fingerprint(model) != known


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


def test_buffers_that_a_checkpoint_saves_are_weights():
    """Running statistics are part of what a model computes; tables it makes itself are not."""
    model = nn.Sequential(nn.BatchNorm1d(2))
    model.register_buffer("table", torch.zeros(3), persistent=False)
    before = weights_fingerprint(model)
    model.table.add_(1)
    assert weights_fingerprint(model) == before
    model[0].running_mean.add_(1)
    assert weights_fingerprint(model) != before


def test_functions_of_one_name_are_told_apart():
    """By source, by what they close over, by defaults and by the values of a partial."""

    def scaled(k):
        return lambda x: x * k

    def shifted(x, by=1):
        return x + by

    def halved(x):
        return halved(x / 2) if x > 1 else x

    assert function_fingerprint(halved) == function_fingerprint(halved)
    known = [function_fingerprint(scaled(1)), function_fingerprint(shifted)]
    assert known == [function_fingerprint(scaled(1)), function_fingerprint(shifted)]
    others = [scaled(2), partial(shifted, by=1), partial(shifted, by=2), len, torch.relu]
    assert len({*known, *map(function_fingerprint, others)}) == 7


def test_a_function_without_source_counts_by_its_code():
    """Functions that were typed into a prompt have no file."""
    spaces = [{}, {}]
    for space, text in zip(spaces, ("x + 1", "x - 1"), strict=True):
        exec(f"def f(x): return {text}", space)
    first, second = (function_fingerprint(space["f"]) for space in spaces)
    assert first != second
