"""User columns and ids."""

import numpy as np
import pytest
import torch

from lazycache.capture.inputs.columns import MAX_ID, as_column, as_ids, as_mapping, check_name
from lazycache.errors import CaptureError


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["a", None], ["a", None]),
        ((1, 2), [1, 2]),
        ([1, 2.5], [1, 2.5]),
        (torch.tensor([True, False]), [True, False]),
        (np.array([0.5, 1.5], dtype=np.float32), [0.5, 1.5]),
        ([np.int32(3), torch.tensor(4)], [3, 4]),
        (np.array(["x", "y"]), ["x", "y"]),
        ({"a": 1, "b": 2}.values(), [1, 2]),
    ],
)
def test_columns_become_plain_values(values, expected):
    """Lists, arrays and tensors become plain Python values of the same kind."""
    column = as_column("label", values, rows=2)
    assert column == expected
    assert [type(value) for value in column] == [type(value) for value in expected]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ("ab", "a list with one value per example is needed"),
        (3, "a list with one value per example is needed"),
        ({"a": 1}, "a list with one value per example is needed"),
        ([1], "has 1 values for 2 examples"),
        (torch.zeros(2, 2), r"has shape \(2, 2\)"),
        ([[1], [2]], "holds a list"),
        ([1j, 2j], "holds a complex"),
        (["a", 1], "mixes int, str"),
        ([True, 1], "mixes bool, int"),
        ([1 << 63, 0], "beyond 64 bits"),
    ],
)
def test_what_is_no_column_is_refused(values, says):
    """Every way in which values are no column has its message, with the column's name."""
    with pytest.raises(CaptureError, match=says) as caught:
        as_column("label", values, rows=2)
    assert "label" in str(caught.value)


@pytest.mark.parametrize(
    "values", [[1, 1], [1.0], ["a"], [True], [None], 5, [1 << 63], [MAX_ID + 1]]
)
def test_what_is_no_id_is_refused(values):
    """Ids are unique ints of 64 bits."""
    with pytest.raises(CaptureError):
        as_ids(values)


def test_the_largest_id_can_be_followed():
    """One more than it still fits into 64 bits."""
    assert as_ids([MAX_ID]) == [2**63 - 2]


@pytest.mark.parametrize("name", ["", "a\nb", "a\0", "\x7f", "x" * 501, "\ud800", 3, None, ("a",)])
def test_names_that_the_log_would_not_take_are_refused(name):
    """The rule of the log, before anything runs: printable text of 1 to 500 characters."""
    with pytest.raises(CaptureError, match="cannot name a column: a name is"):
        check_name(name, sites=[])


@pytest.mark.parametrize("name", ["a b", "x" * 500, "größe", "mask", "self", "class", "1"])
def test_other_names_are_columns(name):
    """A column need not be a Python name."""
    check_name(name, sites=[])


@pytest.mark.parametrize("columns", ["label", ["label"], {"label"}, 3])
def test_columns_are_a_mapping(columns):
    """Names without values are refused with what is needed."""
    with pytest.raises(CaptureError, match=r"columns=\{'name': value\}"):
        as_mapping(columns)


@pytest.mark.parametrize("name", ["example", "position", "token", "resid_out_0"])
def test_names_that_are_taken_are_refused(name):
    """A column cannot take the name of one of ours, nor of a captured site."""
    with pytest.raises(CaptureError, match=f"cannot be named '{name}'"):
        check_name(name, sites=["resid_out_0"])
