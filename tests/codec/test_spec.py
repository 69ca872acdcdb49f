"""What a site is, told by its first tensor."""

import numpy as np
import pytest
import torch

from lazycache.codec.spec import spec_of, spec_of_block
from lazycache.errors import CaptureError, UnsupportedDtypeError
from lazycache.types import SiteBlock, SiteSpec


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


def ragged(widths, *, shape=(2, -1), elements=None, dtype=torch.float32):
    count = 2 * int(np.sum(widths)) if elements is None else elements
    return SiteBlock("tokens", torch.zeros(count, dtype=dtype), shape, np.asarray(widths))


def test_a_block_without_widths_is_a_plain_site():
    """The shape of a row is told by the tensor; saying it again does no harm."""
    values = torch.zeros(5, 2, 3)
    expected = spec_of("z_0", "tokens", values)
    assert spec_of_block("z_0", SiteBlock("tokens", values)) == expected
    assert spec_of_block("z_0", SiteBlock("tokens", values, (2, 3))) == expected


def test_a_ragged_site_has_a_row_of_width_one():
    """Shape has -1 for the width, and bytes are those of a row of width 1, whatever the widths."""
    expected = SiteSpec("pattern_0", "tokens", "bfloat16", (2, -1), 4, "ragged")
    for widths in ([3, 4], [1], np.empty(0, np.int32)):
        assert spec_of_block("pattern_0", ragged(widths, dtype=torch.bfloat16)) == expected


@pytest.mark.parametrize(
    "block",
    [
        ragged([3], shape=None),
        ragged([3], shape=(2, 3)),
        ragged([3], shape=(-1, -1)),
        ragged([3], shape=(0, -1)),
        ragged([0, 3]),
        ragged([-1, 4]),
        ragged([1.5, 1.5]),
        ragged([[3]]),
        ragged([3], elements=7),
        SiteBlock("tokens", torch.zeros(3, 2), (2, -1), np.array([1, 1, 1])),
        SiteBlock("tokens", torch.zeros(6), (2, -1)),
        SiteBlock("tokens", torch.zeros(3, 2), (3,)),
        SiteBlock("tokens", torch.empty(1 << 29, device="meta"), (1, -1), np.array([1 << 29])),
    ],
)
def test_ragged_blocks_that_contradict_themselves_are_refused(block):
    """Shape, widths and values must agree, and a row must fit into a page."""
    with pytest.raises(CaptureError, match="site 'x'"):
        spec_of_block("x", block)
