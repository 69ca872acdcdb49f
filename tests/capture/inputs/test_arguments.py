"""Arguments of a call, by name and by position."""

import inspect

import pytest
import torch
from torch import nn

from lazycache.capture.inputs.arguments import find_argument, named_arguments, positional_names
from lazycache.errors import CaptureError

ONE, TWO = torch.ones(1), torch.ones(2)


def _forward(ids, mask=None, *rest, scale=1, **more):
    """A signature with every kind of parameter."""


def test_all_arguments_have_names():
    """Positional, variable and keyword arguments are named as the signature does; mappings open."""
    signature = inspect.signature(_forward)
    named = named_arguments(signature, (1, 2, 3), {"scale": 4, "extra": 5})
    assert named == {"ids": 1, "mask": 2, "rest[0]": 3, "scale": 4, "extra": 5}
    assert named_arguments(signature, ({"input_ids": 7},), {})["input_ids"] == 7


def test_a_call_that_does_not_bind_is_left_to_the_model():
    """The error that Python raises for it is better than any of ours."""
    assert named_arguments(inspect.signature(lambda x: x), (1, 2), {"y": 3}) == {"y": 3}


def test_names_of_positional_parameters():
    """Keyword-only and variable ones have no position; modules without a signature have none."""
    assert positional_names(_forward) == ("ids", "mask")
    assert positional_names(nn.Linear(1, 1).forward) == ("input",)


def test_the_first_argument_is_of_those_by_position_then_the_hidden_states():
    """`hidden_states` go before a mask that was given by keyword, but not before positions."""
    find = {"name": "x"}
    assert find_argument((None, ONE), {"hidden_states": TWO}, **find) == 1
    assert find_argument((None,), {"mask": ONE, "hidden_states": TWO}, **find) == "hidden_states"
    assert find_argument((), {"a": None, "b": ONE}, **find) == "b"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"field": "msk"}, "x: .* without an argument 'msk'. Nearest: mask"),
        ({"index": 4}, r"without an argument 4 \(it was given 0, mask\)"),
    ],
)
def test_what_was_not_given_is_an_error(given, says):
    """It names the site and what was given."""
    with pytest.raises(CaptureError, match=says):
        find_argument((1,), {"mask": 2}, name="x", parameters=("ids", "mask"), **given)
    with pytest.raises(CaptureError, match="x: the module was called without a tensor"):
        find_argument((1,), {}, name="x")


def test_a_position_may_be_given_by_keyword():
    """The signature says which keyword has it; without one their order does."""
    kwargs = {"mask": ONE, "ids": TWO}
    assert find_argument((), kwargs, name="x", index=1, parameters=("ids", "mask")) == "mask"
    assert find_argument((), kwargs, name="x", index=1) == "ids"
