"""What a forward pass was called with."""

import inspect

import capture_helpers as h
import pytest
import torch
from transformers import BatchEncoding, DynamicCache

from lazycache.capture.inputs.arguments import named_arguments
from lazycache.capture.inputs.forward_inputs import read_inputs
from lazycache.errors import CaptureError

IDS = h.ids(2, 4)
MASK = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])


def _hf(input_ids=None, attention_mask=None, inputs_embeds=None, past_key_values=None, **kwargs):
    """A signature as models of transformers have it."""


def _read(*args, forward=_hf, mask=None, patches=None, **kwargs):
    named = named_arguments(inspect.signature(forward), args, kwargs)
    return read_inputs(named, mask=mask, patches=patches)


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
        (lambda: _read(IDS, (1.0 - MASK.float()) * -1e9), "other values than 0 and 1"),
        (lambda: _read(IDS, MASK.float() - 1), "other values than 0 and 1"),
        (lambda: _read(IDS, src_key_padding_mask=MASK == 0), "called with src_key_padding_mask"),
    ],
)
def test_what_cannot_become_rows_is_an_error(call, says):
    """Inputs that would give wrong rows are refused before the model runs."""
    with pytest.raises(CaptureError, match=says):
        call()


@pytest.mark.parametrize(
    "name",
    [
        "bool_masked_pos_mask",
        "labels",
        "start_labels",
        "token_type_ids",
        "position_ids",
        "decoder_input_ids",
        "past_tokens",
        "cache_position",
    ],
)
def test_masks_labels_and_types_are_no_token_ids(name):
    """Integers that only go with the input do not become tokens, whatever comes first."""
    inputs = _read(forward=lambda **_given: None, **{name: IDS[:, :3]}, tokens=IDS)
    assert torch.equal(inputs.input_ids, IDS)
    features = _read(forward=lambda **_given: None, **{name: IDS}, x=torch.zeros(2, 8))
    assert (features.batch, features.length, features.input_ids) == (2, None, None)


@pytest.mark.parametrize("shape", [(2, 4, 8), (2, 4, 3, 3)])
def test_features_with_a_mask_are_tokens_without_ids(shape):
    """A float model's attention mask says how many positions there are and which are real."""
    inputs = _read(
        forward=lambda input_features, attention_mask: None,  # noqa: ARG005  # names only
        input_features=torch.zeros(shape),
        attention_mask=MASK,
    )
    assert (inputs.batch, inputs.length, inputs.input_ids) == (2, 4, None)
    assert torch.equal(inputs.mask, MASK == 1)


@pytest.mark.parametrize(
    ("features", "mask"),
    [
        (torch.zeros(2, 400), torch.ones(2, 400)),
        (torch.zeros(2, 8, 400), torch.ones(2, 400)),
        (torch.zeros(2, 4, 8), torch.ones(4, 4, 4)),
        (torch.zeros(2, 4, 8), {"full": MASK}),
    ],
)
def test_masks_of_samples_are_refused(features, mask):
    """An attention mask that does not have the axes of features may count something else."""

    def read(**given):
        return _read(
            forward=lambda x, attention_mask: None,  # noqa: ARG005  # names only
            x=features,
            attention_mask=mask,
            **given,
        )

    with pytest.raises(CaptureError, match=r"such as samples.*annotate\(mask=\.\.\.\)"):
        read()
    inputs = read(mask=MASK)
    assert (inputs.length, inputs.input_ids) == (4, None)
    assert torch.equal(inputs.mask, MASK != 0)


def test_a_given_mask_goes_before_a_padding_mask():
    """Once the user says what is real, other masks of the call need not be understood."""
    inputs = _read(IDS, src_key_padding_mask=MASK == 0, mask=MASK == 1)
    assert torch.equal(inputs.mask, MASK == 1)


def test_ids_are_those_that_were_given():
    """A copy: the model may write into its own."""
    ids = IDS.clone()
    inputs = _read(ids)
    ids.zero_()
    assert torch.equal(inputs.input_ids, IDS)


def test_outputs_of_an_encoder_stand_in_for_its_inputs():
    """A decoder that is given what the encoder made has its tokens, but no ids of them."""
    given = {"encoder_outputs": (torch.zeros(2, 4, 8),), "decoder_input_ids": IDS}
    inputs = _read(attention_mask=MASK, **given)
    assert (inputs.batch, inputs.length, inputs.input_ids) == (2, 4, None)
    assert torch.equal(inputs.mask, MASK == 1)


def test_images_have_as_many_positions_as_their_family_says():
    """Without a family they have none."""
    pixels = torch.zeros(2, 3, 8, 8)
    inputs = _read(pixel_values=pixels, patches=lambda shape: shape[-1] // 4 + 1)
    assert (inputs.batch, inputs.length, inputs.input_ids) == (2, 3, None)
    assert inputs.mask.all()
    assert _read(pixel_values=pixels).length is None


def test_an_empty_key_value_cache_is_no_continuation():
    """A fresh cache, as `generate` makes it for the prompt, is harmless."""
    assert _read(IDS, past_key_values=DynamicCache()).batch == 2
