"""The matrices that `head_out` is computed with."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from transformers.pytorch_utils import Conv1D

from lazycache.capture.sites.heads import HeadShape
from lazycache.capture.sites.projection import BoundProjection, projection_weight
from lazycache.errors import CaptureError

SHAPE = HeadShape(heads=2, kv_heads=1, d_head=3)


def _bound(*, transposed=False):
    return BoundProjection("0", transposed, SHAPE)


@pytest.mark.parametrize("transposed", [False, True])
def test_the_matrix_takes_each_head_to_the_stream(transposed):
    """Summed over heads and with the bias it is what the module gives, from either layout."""
    module = Conv1D(8, 6) if transposed else nn.Linear(6, 8)
    nn.init.normal_(module.bias)
    z = torch.randn(5, 6)
    weight = projection_weight(nn.Sequential(module), _bound(transposed=transposed))
    assert weight.shape == (2, 3, 8)
    out = torch.einsum("rhd,hdm->rhm", z.reshape(5, 2, 3), weight).sum(1) + module.bias
    torch.testing.assert_close(out, module(z))


def test_the_matrix_is_a_copy_without_gradient():
    """Training on does not change what a run keeps."""
    module = nn.Linear(6, 8, dtype=torch.bfloat16)
    weight = projection_weight(nn.Sequential(module), _bound())
    before = weight.clone()
    with torch.no_grad():
        module.weight.zero_()
    assert torch.equal(weight, before)
    assert not weight.requires_grad
    assert weight.is_contiguous()
    assert weight.dtype == torch.bfloat16


def test_a_parametrized_layer_gives_the_weight_that_it_computes_with():
    """Of a weight-normed layer that is the product, not one of its factors."""
    module = parametrizations.weight_norm(nn.Linear(6, 8))
    z = torch.randn(5, 6)
    weight = projection_weight(nn.Sequential(module), _bound())
    out = torch.einsum("rhd,hdm->rhm", z.reshape(5, 2, 3), weight).sum(1) + module.bias
    torch.testing.assert_close(out, module(z))


class _Adapter(nn.Module):
    """An adapter as LoRA has it: `weight` is that of the layer below, and not all there is."""

    def __init__(self):
        super().__init__()
        self.base_layer, self.lora_A = nn.Linear(6, 8), nn.Linear(6, 8)

    @property
    def weight(self):
        return self.base_layer.weight


class _Packed(torch.Tensor):
    """A weight of another library."""


def _packed():
    module = nn.Linear(6, 8)
    module.weight = nn.Parameter(torch.zeros(8, 6).as_subclass(_Packed))
    return module


def _quantised(dtype):
    module = nn.Linear(6, 8)
    module.weight = nn.Parameter(torch.zeros(8, 6).to(dtype), requires_grad=False)
    return module


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (_Adapter(), r"_Adapter\), but that has no weight of its own"),
        (nn.ReLU(), r"ReLU\), but that has no weight of its own"),
        (_quantised(torch.int8), r"is quantised \(int8\)"),
        (_quantised(torch.float8_e4m3fn), r"is quantised \(float8_e4m3fn\)"),
        (_packed(), "is of type _Packed"),
        (nn.Linear(6, 8, device="meta"), r"is not loaded \(device meta\)"),
        (nn.Linear(7, 8), r"has the shape \[8, 7\], where heads have 6 units"),
    ],
)
def test_a_matrix_that_is_not_in_the_open_is_refused(module, says):
    """What would give a wrong `head_out` is an error that says what to do instead."""
    with pytest.raises(CaptureError, match=says) as caught:
        projection_weight(nn.Sequential(module), _bound())
    assert "Capture z and attn_out instead" in str(caught.value)


def test_a_projection_that_is_gone_is_an_error():
    """A path that is not in the model is named."""
    with pytest.raises(CaptureError, match="'0'"):
        projection_weight(nn.Sequential(), _bound())
