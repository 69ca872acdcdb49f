"""Casts on the device."""

import pytest
import torch

from lazycache.capture.values.convert import cast, check_dtype, torch_dtype
from lazycache.errors import CaptureError

FINITE = [1.0, -65504.0, 65519.0, 65520.0, -1e30, float("inf"), float("nan")]


@pytest.mark.parametrize(
    ("source", "target", "lost"),
    [
        (torch.float32, torch.float16, 2),
        (torch.float32, torch.bfloat16, 0),
        (torch.float32, torch.float64, None),
        (torch.bfloat16, torch.float32, None),
        (torch.float32, torch.float8_e5m2, 4),
        (torch.float32, torch.float8_e4m3fn, 5),
        (torch.float32, None, None),
        (torch.float32, torch.float32, None),
    ],
)
def test_finite_values_that_do_not_fit_are_counted(source, target, lost):
    """Finite values beyond the range count, and infinities only where the dtype has none."""
    values = torch.tensor(FINITE, dtype=source)
    result, count = cast(values, target)
    assert result.dtype == (target or source)
    assert count is None if lost is None else int(count) == lost


def test_the_largest_float32_does_not_fit_into_bfloat16():
    """Rounding up to infinity counts too."""
    values = torch.tensor([torch.finfo(torch.float32).max, 1.0])
    assert int(cast(values, torch.bfloat16)[1]) == 1


def test_no_values_lose_nothing():
    """An empty selection can be cast."""
    values, count = cast(torch.zeros(0, 3), torch.float16)
    assert (tuple(values.shape), int(count)) == ((0, 3), 0)


def test_integers_keep_their_dtype():
    """Ids and masks are not activations: a cast could only lose."""
    values = torch.tensor([70_000])
    assert cast(values, torch.float16) == (values, None)


@pytest.mark.parametrize("dtype", [torch.int8, torch.complex64, torch.bool, "float16", 16])
def test_other_dtypes_are_refused(dtype):
    """Activations are cast to floating-point dtypes only."""
    with pytest.raises(CaptureError, match="floating-point dtype"):
        check_dtype(dtype)


@pytest.mark.parametrize("dtype", [torch.float8_e5m2fnuz, torch.float8_e8m0fnu])
def test_floats_that_cannot_be_stored_are_refused(dtype):
    """A cast must lead to a dtype that the files have: refused before the model runs."""
    with pytest.raises(CaptureError, match="one of float16, bfloat16, float32"):
        check_dtype(dtype)
    with pytest.raises(CaptureError, match="one of float16"):
        torch_dtype(str(dtype))


@pytest.mark.parametrize("value", [float("inf"), float("-inf")])
def test_infinities_that_become_finite_are_counted(value):
    """`float8_e4m3fn` has no infinity and makes 448 of one: that is a loss."""
    result, lost = cast(torch.tensor([value, 1.0]), torch.float8_e4m3fn)
    assert int(lost) == int(result.float()[:1].isfinite())
    assert int(cast(torch.tensor([value, 1.0]), torch.float8_e5m2)[1]) == 0
