"""Masks of real tokens."""

import pytest
import torch

from lazycache.capture.inputs.masks import given_mask, real_tokens, refuse_padding_mask
from lazycache.errors import CaptureError


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float16])
def test_ones_and_zeros_of_any_dtype_are_a_mask(dtype):
    """Nonzero is real, whatever the numbers are kept as."""
    assert real_tokens(torch.tensor([[1, 0]]).to(dtype), name="m").tolist() == [[True, False]]


def test_segment_numbers_are_a_mask():
    """Packed sequences number their segments from 1; 0 is padding."""
    assert real_tokens(torch.tensor([[1, 2, 0]]), name="m").tolist() == [[True, True, False]]


@pytest.mark.parametrize(
    "values", [[0.0, -1e9], [0.0, float("-inf")], [0.5, 1.0], [0.0, float("nan")], [0, -10000]]
)
def test_masks_that_are_added_to_scores_are_refused(values):
    """Read as truth an additive mask would keep exactly the padding."""
    with pytest.raises(CaptureError, match=r"attention_mask .* annotate\(mask=\.\.\.\)"):
        real_tokens(torch.tensor([values]), name="attention_mask")


def test_a_given_mask_is_a_copy():
    """What happens to the user's tensor later changes nothing."""
    mask = torch.tensor([[True, False]])
    given = given_mask(mask)
    mask.zero_()
    assert given.tolist() == [[True, False]]


@pytest.mark.parametrize("mask", ["abc", [[1], [1, 0]], [[None]], {"a": 1}, object(), [["x"]]])
def test_what_is_no_rectangle_of_numbers_is_refused(mask):
    """Whatever torch says of it comes out as one error of ours."""
    with pytest.raises(CaptureError, match="no rectangle of numbers"):
        given_mask(mask)


@pytest.mark.parametrize("name", ["src_key_padding_mask", "padding_mask", "encoder_padding_mask"])
def test_padding_masks_are_refused(name):
    """Their meaning is the opposite of an attention mask's, by convention only."""
    refuse_padding_mask({name: None, "attention_mask": torch.ones(1, 2)})
    with pytest.raises(CaptureError, match=rf"called with {name}.*annotate\(mask=\.\.\.\)"):
        refuse_padding_mask({name: torch.zeros(1, 2)})
