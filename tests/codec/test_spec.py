"""What a site is, told by its first tensor."""

import pytest
import torch

from lazycache.codec.spec import spec_of
from lazycache.errors import CaptureError, UnsupportedDtypeError
from lazycache.types import SiteSpec


def test_the_row_is_what_follows_the_first_dimension():
    """Shape and bytes of a row do not depend on the number of rows."""
    expected = SiteSpec("z_0", "tokens", "bfloat16", (2, 3), 12)
    assert spec_of("z_0", "tokens", torch.zeros(5, 2, 3, dtype=torch.bfloat16)) == expected
    assert spec_of("z_0", "tokens", torch.zeros(0, 2, 3, dtype=torch.bfloat16)) == expected


def test_a_scalar_per_row_has_an_empty_shape():
    """A 1-d tensor is one value per row."""
    assert spec_of("loss", "examples", torch.zeros(4, dtype=torch.float64)) == SiteSpec(
        "loss", "examples", "float64", (), 8
    )


@pytest.mark.parametrize("tensor", [torch.zeros(()), torch.zeros(3, 0), torch.empty(0, 1 << 29)])
def test_rows_that_no_page_holds_are_refused(tensor):
    """No rows at all, rows without bytes, and rows beyond a gigabyte are errors naming the site."""
    with pytest.raises(CaptureError, match="site 'x'"):
        spec_of("x", "tokens", tensor)


def test_an_unsupported_dtype_is_refused():
    """The dtype table decides."""
    with pytest.raises(UnsupportedDtypeError, match="complex64"):
        spec_of("x", "tokens", torch.zeros(2, 2, dtype=torch.complex64))
