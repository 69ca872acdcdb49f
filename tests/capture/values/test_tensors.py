"""Tensors inside what modules take and give."""

from typing import NamedTuple

import pytest
import torch
from transformers.modeling_outputs import BaseModelOutput

from lazycache.capture.values.tensors import first_tensor, pick_tensor, swapped
from lazycache.errors import CaptureError

ONE, TWO = torch.ones(1), torch.ones(2)


class Pair(NamedTuple):
    """A tuple with names."""

    first: torch.Tensor
    second: torch.Tensor


def test_the_first_tensor_is_found_at_any_depth():
    """In order, through tuples, lists and mappings; None where there is none."""
    assert first_tensor((None, {"a": [TWO]}, ONE)) is TWO
    assert first_tensor(("a", {})) is None


@pytest.mark.parametrize(
    ("value", "given"),
    [
        ((None, TWO), {}),
        ((ONE, TWO), {"index": 1}),
        ({"a": ONE, "b": TWO}, {"index": 1}),
        ({"a": ONE, "b": TWO}, {"field": "b"}),
        ({"a": ONE, "b": (ONE, TWO)}, {"field": "b", "index": 1}),
        (Pair(ONE, TWO), {"field": "second"}),
        (
            BaseModelOutput(last_hidden_state=ONE, hidden_states=(ONE, TWO)),
            {"index": 1, "field": "hidden_states"},
        ),
    ],
)
def test_elements_and_fields(value, given):
    """An element is taken by its index, a field by its name, an element of a field by both."""
    assert pick_tensor(value, name="x", **given) is TWO


@pytest.mark.parametrize(
    ("value", "given", "says"),
    [
        ((None, "a"), {}, "site_x: there is no tensor in what passes here"),
        ((ONE,), {"index": 3}, "site_x: element 3 was asked for, but there are 1"),
        (ONE, {"field": "a"}, "site_x: there is no field 'a' in what passes here .Tensor"),
        ({"logits": ONE}, {"field": "logit"}, "Nearest: logits"),
        (BaseModelOutput(), {"field": "hidden_states"}, "there is no tensor"),
        (Pair(ONE, TWO), {"field": "_fields"}, "no field '_fields'"),
    ],
)
def test_what_holds_no_tensor_is_an_error_that_names_the_site(value, given, says):
    """A site without a tensor, field or element says so by its name."""
    with pytest.raises(CaptureError, match=says):
        pick_tensor(value, name="site_x", **given)


@pytest.mark.parametrize(
    "value",
    [
        ONE,
        (None, ONE),
        [TWO, [ONE]],
        {"a": (ONE,)},
        Pair(TWO, ONE),
        BaseModelOutput(last_hidden_state=TWO, hidden_states=(ONE,)),
    ],
)
def test_a_tensor_is_swapped_in_a_copy(value):
    """The new tensor is where the old one was; what was given keeps the old one, and its type."""
    new = torch.zeros(1)
    changed = swapped(value, ONE, new)
    assert type(changed) is type(value)
    assert _holds(changed, new)
    assert not _holds(changed, ONE)
    assert value is ONE or _holds(value, ONE)


def test_only_the_first_occurrence_is_swapped():
    """The same tensor given twice stays where it was the second time."""
    new = torch.zeros(1)
    first, second = swapped((ONE, ONE), ONE, new)
    assert first is new
    assert second is ONE


def _holds(value, tensor):
    if value is None or isinstance(value, torch.Tensor):
        return value is tensor
    parts = value.values() if isinstance(value, dict) else value
    return any(_holds(part, tensor) for part in parts)
