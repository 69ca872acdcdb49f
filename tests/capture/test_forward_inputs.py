"""What a forward pass was called with."""

import inspect

import capture_helpers as h
import pytest
import torch
from transformers import BatchEncoding, DynamicCache

from lazycache.capture.forward_inputs import read_inputs
from lazycache.errors import CaptureError

IDS = h.ids(2, 4)
MASK = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])


def _hf(input_ids=None, attention_mask=None, inputs_embeds=None, past_key_values=None, **kwargs):
    """A signature as models of transformers have it."""


def _read(*args, forward=_hf, mask=None, **kwargs):
    return read_inputs(inspect.signature(forward), args, kwargs, mask=mask)


@pytest.mark.parametrize(
    "call",
    [
        lambda: _read(IDS, MASK),
        lambda: _read(input_ids=IDS, attention_mask=MASK),
        lambda: _read(IDS, attention_mask=MASK.bool()),
        lambda: _read({"input_ids": IDS, "attention_mask": MASK}),
        lambda: _read(BatchEncoding({"input_ids": IDS, "attention_mask": MASK.float()})),
        lambda: _read(IDS, torch.ones_like(MASK), mask=MASK),
        lambda: _read(IDS, forward=lambda _tokens: None, mask=MASK),
        lambda: _read(IDS, forward=lambda *_args: None, mask=MASK),
    ],
)
def test_ids_and_mask_are_found_however_they_come(call):
    """By position, by keyword, in a mapping, under another name; the user's mask goes first."""
    inputs = call()
    assert (inputs.batch, inputs.length) == (2, 4)
    assert torch.equal(inputs.input_ids, IDS)
    assert torch.equal(inputs.mask, MASK == 1)


def test_without_a_mask_all_is_kept():
    """No attention mask means that there is no padding."""
    assert _read(IDS).mask.all()


def test_embeddings_stand_in_for_ids():
    """`inputs_embeds` say how many examples and positions there are."""
    inputs = _read(inputs_embeds=torch.zeros(2, 4, 8), attention_mask=MASK)
    assert (inputs.batch, inputs.length, inputs.input_ids) == (2, 4, None)
    assert torch.equal(inputs.mask, MASK == 1)


def test_other_inputs_have_examples_only():
    """An image or a plain vector has a batch, but no positions."""
    inputs = _read(torch.zeros(5, 3, 8, 8), forward=lambda _x: None)
    assert (inputs.batch, inputs.length, inputs.mask) == (5, None, None)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: _read(IDS[0]), r"input_ids has shape \(4,\)"),
        (lambda: _read(IDS[:0]), "An empty batch.* 0 x 4"),
        (lambda: _read(IDS[:, :0]), "An empty batch.* 2 x 0"),
        (lambda: _read(torch.zeros(0, 3), forward=lambda _x: None), "An empty batch"),
        (lambda: _read(IDS, MASK[:, 1:]), r"The attention mask is \[2, 3\]"),
        (lambda: _read(IDS, MASK[:, None, None]), r"annotate\(mask=\.\.\.\)"),
        (lambda: _read(IDS, {"full": MASK}), "The attention mask is dict"),
        (lambda: _read(forward=lambda _x=None: None), "called without a tensor"),
        (lambda: _read(IDS, past_key_values=((IDS,),)), "continues a key-value cache"),
    ],
)
def test_what_cannot_become_rows_is_an_error(call, says):
    """Inputs that would give wrong rows are refused before the model runs."""
    with pytest.raises(CaptureError, match=says):
        call()


def test_an_empty_key_value_cache_is_no_continuation():
    """A fresh cache, as `generate` makes it for the prompt, is harmless."""
    assert _read(IDS, past_key_values=DynamicCache()).batch == 2
