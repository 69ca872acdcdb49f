"""Values of a user to columns of one plain type."""

import json

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lazycache.codec.columns import ARROW_TYPES, column_type, to_array
from lazycache.errors import CaptureError

CASES = {
    "ints": ([1, -2], "int64"),
    "ints with None": ([None, 1], "int64"),
    "numpy ints": ([np.int32(1), np.int64(2)], "int64"),
    "int32 array": (np.array([1, 2], np.int32), "int32"),
    "small int array": (np.array([1, 2], np.int8), "int64"),
    "unsigned array": (np.array([1, 2], np.uint64), "int64"),
    "bools": ([True, None], "bool"),
    "bool array": (np.array([True, False]), "bool"),
    "floats": ([1.5, 2.5], "float64"),
    "ints and floats": ([1, 2.5], "float64"),
    "float32 array": (np.array([0.1, 2], np.float32), "float64"),
    "float tensor": (torch.tensor([0.5, 1.5], dtype=torch.bfloat16), "float64"),
    "int tensor": (torch.tensor([3, 4]), "int64"),
    "strings": (["a", "é"], "string"),
    "string array": (np.array(["a", "bc"]), "string"),
    "bytes": ([b"a", b"\x00"], "binary"),
    "dicts": ([{"a": 1}, [1, 2]], "json"),
    "2-d array": (np.eye(2), "json"),
}


@pytest.mark.parametrize("case", CASES)
def test_values_tell_their_type_and_are_stored_as_they_are(case):
    """Each kind of values has one column type and comes back equal from it."""
    values, kind = CASES[case]
    assert column_type(values) == kind
    array = to_array(values, kind)
    assert array.type == ARROW_TYPES[kind]
    expected = values.tolist() if hasattr(values, "tolist") else list(values)
    got = array.to_pylist()
    if kind == "json":
        got = [json.loads(value) for value in got]
    assert got == expected


@given(st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1))))
def test_integers_keep_all_64_bits(values):
    """No integer passes through a float on its way."""
    assert to_array(values, "int64").to_pylist() == values


@given(st.lists(st.one_of(st.none(), st.text())))
def test_text_keeps_every_character(values):
    """Any Unicode text comes back, and None stays None."""
    assert to_array(values, "string").to_pylist() == values


def test_nan_is_not_null():
    """A float that is not a number stays one."""
    array = to_array([float("nan"), None], "float64")
    assert array.null_count == 1
    assert str(array[0].as_py()) == "nan"


def test_nothing_but_none_has_no_type():
    """Columns of None leave the type to a later batch."""
    assert column_type([None, None]) is None
    assert to_array([None, None], "string").null_count == 2


def test_an_array_of_the_column_type_is_not_copied():
    """int64 ids keep their memory."""
    ids = np.arange(5)
    assert to_array(ids, "int64").buffers()[1].address == ids.ctypes.data


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, "a"], None),
        ([True, 1], None),
        ([object()], None),
        (np.array(["2020-01-01"], "M8[D]"), None),
        (["a"], "int64"),
        ([1.5], "int64"),
        ([True], "int64"),
        ([2**63], "int64"),
        (np.array([2**63], np.uint64), "int64"),
        ([2**31], "int32"),
        (np.array([2**53 + 1]), "float64"),
        ([float("nan"), {"a": 1}], "json"),
        (["\ud800"], "string"),
    ],
)
def test_values_that_do_not_fit_exactly_are_refused(values, kind):
    """Mixed types, overflow and lost precision are errors, not silent changes."""
    with pytest.raises(CaptureError):
        to_array(values, kind or column_type(values))


def test_numbers_fit_wider_columns():
    """Integers go into a float column and 64-bit ids into a 32-bit one if they are exact."""
    assert to_array(np.array([2**53]), "float64").to_pylist() == [2.0**53]
    assert to_array([7], "int32").type == pa.int32()
    assert to_array(["a", 1], "json").to_pylist() == ['"a"', "1"]
