"""Corpora become items."""

import zlib

import numpy as np
import pytest
import torch

from lazycache.capture.corpus.corpus import encode_items, longest_input
from lazycache.errors import CaptureError


def tokenizer(texts, padding, truncation=False, max_length=None):
    """One token per letter."""
    assert padding is False
    ids = [[ord(letter) for letter in text] for text in texts]
    return {"input_ids": [i[:max_length] for i in ids] if truncation else ids}


def _items(data, **given):
    options = {"tokenizer": tokenizer, "max_length": None, "keep": None}
    return list(encode_items(data, **(options | given)))


@pytest.mark.parametrize(
    "entry",
    [
        "ab",
        [97, 98],
        (97, 98),
        np.array([97, 98], dtype=np.int32),
        torch.tensor([97, 98]),
        {"text": "ab"},
        {"input_ids": [97, 98]},
        {"input_ids": [0, 97, 98], "attention_mask": [0, 1, 1]},
        {"input_ids": torch.tensor([97, 98, 0]), "attention_mask": torch.tensor([1, 1, 0])},
        {"input_ids": [97, 98], "token_type_ids": [0, 0]},
    ],
)
def test_items_of_every_kind(entry):
    """Texts, token lists, arrays, tensors and mappings give the same token ids."""
    (item,) = _items([entry])
    assert item.example == 0
    assert item.input_ids.tolist() == [97, 98]
    assert item.input_ids.dtype == np.int64


def test_columns_and_ids_of_mappings():
    """User columns are kept, `text` too; `example` names the example."""
    data = [{"text": "ab", "label": np.int64(1), "example": 9}, {"input_ids": [1], "x": None}, "c"]
    items = _items(data)
    assert [item.example for item in items] == [9, 1, 2]
    assert [item.columns for item in items] == [
        {"text": "ab", "label": 1},
        {"x": None},
        {"text": "c"},
    ]


def test_columns_can_be_chosen():
    """With `keep` others are left out, whatever they hold."""
    (item,) = _items([{"text": "ab", "label": 1, "answers": ["x"]}], keep=["label"])
    assert item.columns == {"label": 1}


def test_sequences_are_cut():
    """`max_length` cuts texts by the tokenizer and token lists at their end."""
    items = _items(["abcd", [1, 2, 3]], max_length=2)
    assert [item.input_ids.tolist() for item in items] == [[97, 98], [1, 2]]


def test_a_tensor_of_sequences_is_a_corpus():
    """A matrix of token ids is one sequence per row."""
    items = _items(torch.tensor([[1, 2], [3, 4]]))
    assert [item.input_ids.tolist() for item in items] == [[1, 2], [3, 4]]


def test_what_came_before_a_failing_item_is_given_first():
    """A corpus that raises in the middle has given every item before that."""
    seen = []

    def failing():
        yield from ["a", "b"]
        raise OSError("the corpus is gone")

    items = encode_items(failing(), tokenizer=tokenizer, max_length=None, keep=None)
    with pytest.raises(OSError, match="gone"):
        seen.extend(item.example for item in items)
    assert seen == [0, 1]


def test_an_item_has_a_checksum_of_its_tokens():
    """Equal tokens have equal checksums, other tokens others, whatever the item was given as."""
    text, ids, other = _items(["ab", [97, 98], [98, 97]])
    assert text.checksum == ids.checksum == zlib.crc32(np.array([97, 98], "<i8").tobytes())
    assert other.checksum != ids.checksum


def test_long_corpora_are_streamed():
    """Only a block is read before the first item is given."""
    read = []

    def endless():
        while True:
            read.append(1)
            yield [1, 2]

    items = encode_items(endless(), tokenizer=None, max_length=None, keep=None)
    assert next(items).example == 0
    assert len(read) <= 1000


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ([], "The corpus is empty"),
        (iter(()), "The corpus is empty"),
        ("text", r"a single text; give a list of texts"),
        ({"train": []}, "The corpus is a dict"),
        (5, "A int is no corpus"),
        (["a", ""], r"Item 1 of the corpus has no tokens \(its text is ''\)"),
        ([[1], []], "Item 1 of the corpus has no tokens"),
        ([{"input_ids": [1], "attention_mask": [0]}], "Item 0 of the corpus has no tokens"),
        ([[1, 2.5]], "Item 0 is no sequence of token ids"),
        ([[[1], [2]]], r"Item 0 is no sequence of token ids: list of shape \(2, 1\)"),
        ([[[1], [2, 3]]], "Item 0 is no sequence of token ids"),
        ([None], "Item 0 is no sequence of token ids"),
        ([7], "Item 0 is no sequence of token ids"),
        (
            [{"sentence": "a"}],
            "neither 'input_ids', 'pixel_values' nor a 'text'; its keys are sentence",
        ),
        ([{"text": None}], "neither 'input_ids', 'pixel_values' nor a 'text'"),
        ([{"text": "a", "answers": ["x"]}], r"Item 0: Column 'answers' holds a list.*keep="),
        ([{"text": "a", "example": "x"}], "Example ids are ints"),
        ([{"input_ids": [1], "attention_mask": [1, 1]}], r"attention_mask has shape \(2,\)"),
        ([{"input_ids": [1, 2], "token_type_ids": [0, 1]}], "token_type_ids other than 0"),
        ([{"input_ids": [1], "decoder_input_ids": []}], "Item 0 of the corpus has no tokens"),
        ([{"input_ids": [1], "pixel_values": [[[1.0]]]}], "has pixel_values and input_ids"),
        ([{"pixel_values": [[1.0]]}], r"pixel_values has shape \[1, 1\]"),
        ([{"pixel_values": object()}], "pixel_values is a object, which is no tensor"),
    ],
)
def test_bad_corpora(data, says):
    """Whatever is no corpus says which item is wrong and what to do."""
    with pytest.raises(CaptureError, match=says):
        _items(data)


def test_texts_need_a_tokenizer():
    """A corpus of texts without a tokenizer is an error."""
    with pytest.raises(CaptureError, match="give extract a tokenizer"):
        _items(["a"], tokenizer=None)


def test_lengths_below_one_are_refused_before_anything_is_read():
    """`max_length=0` would leave nothing."""
    with pytest.raises(CaptureError, match="at least one"):
        encode_items(["a"], tokenizer=tokenizer, max_length=0, keep=None)


def test_the_limit_of_a_real_model(minilm):
    """The shorter of what model and tokenizer say; a tokenizer without a limit says 1e30."""
    model, real = minilm
    assert longest_input(model, real) == min(512, real.model_max_length)
    real_limit = type("T", (), {"model_max_length": int(1e30)})()
    assert longest_input(model, real_limit) == 512
