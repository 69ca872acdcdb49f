"""Which table values belong to."""

import capture_helpers as h
import pytest
import torch
from torch import nn

from lazycache.capture.inputs.forward_inputs import ForwardInputs
from lazycache.capture.sites.names import HookPoint
from lazycache.capture.values.placement import table_of, unit_widths
from lazycache.errors import CaptureError


def _table(shape, *, name="x:out", batch=2, length=3, before=None, widths=(), dtype=torch.float32):
    inputs = ForwardInputs(batch, length, None, None)
    return table_of(name, torch.zeros(shape, dtype=dtype), inputs, before=before, widths=widths)


@pytest.mark.parametrize(
    ("shape", "table"),
    [
        ((2, 3, 8), "tokens"),
        ((2, 3, 4, 2), "tokens"),
        ((6, 8), "tokens"),
        ((6,), "tokens"),
        ((2, 8), "examples"),
        ((2,), "examples"),
        ((2, 4, 8), "examples"),
    ],
)
def test_shapes_say_the_table(shape, table):
    """A token axis, flattened or not, makes rows of tokens; else a batch axis rows of examples."""
    assert _table(shape) == table
    assert _table(shape, before=table) == table


def test_a_model_without_sequences_has_examples_only():
    """Without positions every site has one row per example."""
    assert _table((2, 3, 8), length=None) == "examples"
    assert _table((2,), length=None) == "examples"


def test_integers_per_position_are_tokens():
    """Token ids on their way into the embedding are one number per token."""
    assert _table((2, 3), dtype=torch.int64) == "tokens"


def test_a_vector_as_long_as_the_batch_is_ambiguous_until_settled():
    """[batch, length] of floats is refused at first, and follows earlier batches later."""
    with pytest.raises(CaptureError, match="one number per token, or 3 units per example"):
        _table((2, 3))
    assert _table((2, 3), before="examples") == "examples"
    assert _table((2, 3), before="tokens") == "tokens"


def test_a_vector_as_long_as_the_batch_is_known_by_its_width():
    """[batch, length] of floats is a row per example where module or model has that many units."""
    assert _table((2, 3), widths={8, 3}) == "examples"
    with pytest.raises(CaptureError, match="or capture a module around"):
        _table((2, 3), widths={8})
    assert _table((2, 3), widths={3}, dtype=torch.int64) == "tokens"
    assert _table((2, 3), widths={3}, before="tokens") == "tokens"


def test_widths_come_from_module_and_configuration():
    """The side that is captured counts, and the sizes that the configuration names."""
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    assert unit_widths(model, HookPoint("0", "out")) == {3}
    assert unit_widths(model, HookPoint("0", "in")) == {4}
    assert unit_widths(model, HookPoint("1", "out")) == set()
    bert = h.make("bert-base")
    assert unit_widths(bert, HookPoint("pooler", "out")) == {h.HIDDEN, bert.config.num_labels}


def test_single_tokens_are_examples_unless_the_site_is_canonical():
    """With one token per example a raw site is taken per example, a canonical one per token."""
    assert _table((2, 8), length=1) == "examples"
    assert _table((2, 8), length=1, name="mlp_out_0") == "tokens"
    assert _table((2, 1, 8), length=1) == "tokens"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"shape": (5, 8)}, "neither a row per token nor a row per example"),
        ({"shape": ()}, "neither"),
        ({"shape": (1, 3, 8)}, "neither"),
        ({"shape": (2, 8), "before": "tokens"}, "not a row per token, which this site has"),
        ({"shape": (2, 8), "name": "resid_out_0"}, "not a row per token"),
        ({"shape": (6, 8), "before": "examples"}, "not a row per example"),
    ],
)
def test_what_fits_no_table_says_its_shape(options, says):
    """A shape that gives no rows is an error with the shape and the batch."""
    with pytest.raises(CaptureError, match=says):
        _table(**options)
