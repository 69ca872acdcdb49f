"""When statistics are compiled, and that what is compiled is what numpy computes."""

import threading
from unittest import mock

import numpy as np
import pytest
import torch

from lazycache.codec.dtypes import by_name
from lazycache.writer import fused
from lazycache.writer.fused import COMPILER, PAYS, Compiler, Fused
from lazycache.writer.greatest import Greatest
from lazycache.writer.numbers import SHIFTS, Numbers
from lazycache.writer.rank_keys import from_keys, to_keys
from lazycache.writer.tiles import runs
from lazycache.writer.zone_numbers import ZoneNumbers

numba = pytest.importorskip("numba", reason="numba is an extra: pip install 'lazycache[fast]'")


def test_a_process_compiles_once_it_has_seen_values_enough():
    """Each dtype counts for itself, and is compiled once; what has no loops is counted in vain."""
    compiler = Compiler()
    with mock.patch.object(fused, "_compiled", side_effect=lambda dtype: dtype) as compiling:
        assert compiler.kernel("bfloat16", PAYS // 2) is None
        assert compiler.kernel("float32", PAYS - 1) is None
        assert compiler.kernel("bfloat16", PAYS // 2) == "bfloat16"
        assert compiler.kernel("bfloat16", 1) == "bfloat16"
        assert compiler.kernel("float32", 1) == "float32"
        assert compiling.call_count == 2
    assert Compiler().kernel("int64", PAYS) is None


def test_a_thread_does_not_wait_for_another_one_that_compiles():
    """It goes on by numpy; who asks for compiled loops in so many words waits."""
    compiler, begun, may_end = Compiler(), threading.Event(), threading.Event()

    def slow(dtype):
        begun.set()
        assert may_end.wait(30)
        return dtype

    with mock.patch.object(fused, "_compiled", side_effect=slow):
        other = threading.Thread(target=compiler.kernel, args=("bfloat16", PAYS))
        other.start()
        assert begun.wait(30)
        assert compiler.kernel("bfloat16", PAYS) is None
        may_end.set()
        assert compiler.prepared("bfloat16") == "bfloat16"
        other.join()


def test_without_numba_numpy_computes():
    """Where it is not installed nothing is said."""
    with mock.patch("importlib.util.find_spec", return_value=None):
        assert Compiler().prepared("bfloat16") is None


def test_a_numba_that_does_not_load_is_told():
    """It was installed for this: numpy computes, and the cause is in a warning."""
    with (
        mock.patch.dict("sys.modules", {"numba": None}),
        mock.patch("importlib.util.find_spec", return_value=numba.__spec__),
        pytest.warns(RuntimeWarning, match="numpy computes the statistics.*numba"),
    ):
        assert Compiler().prepared("bfloat16") is None


@pytest.mark.parametrize("error", [numba.core.errors.TypingError, RuntimeError])
def test_what_numba_cannot_compile_numpy_computes(error):
    """A capture goes on, and is told so."""
    failing = mock.Mock(side_effect=error("no such type"))
    with (
        mock.patch.object(fused, "make_kernel", failing),
        pytest.warns(RuntimeWarning, match="numpy computes the statistics.*no such type"),
    ):
        assert Compiler().prepared("bfloat16") is None


@pytest.mark.parametrize("dtype", [*SHIFTS, "float32"])
def test_every_value_is_loaded_exactly(dtype):
    """All bit patterns of the narrow dtypes; what is not finite is beyond the largest, or NaN."""
    size = by_name(dtype).itemsize
    if size == 4:
        raw = torch.randn(1000).numpy()
    else:
        raw = np.arange(1 << (8 * size), dtype=np.uint32).astype(f"u{size}").view(f"i{size}")
    load = numba.njit(fused._load(dtype))
    found = np.array([load(value) for value in raw], np.float32)
    true = torch.from_numpy(raw).view(by_name(dtype).torch).float().numpy()
    finite = np.isfinite(true)
    assert found[finite].tobytes() == true[finite].tobytes()
    assert not (np.abs(found[~finite]) <= Numbers(dtype).largest).any()


@pytest.mark.parametrize("two_steps", [False, True])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_whole_numbers_give_the_same_bits_as_by_numpy(dtype, two_steps):
    """Sums, squares and extremes of any runs, and ranks with both zeros, are equal bit for bit."""
    random, numbers, units = torch.Generator().manual_seed(3), Numbers(dtype), 37
    values = torch.randint(-9, 10, (1500, units), generator=random).to(by_name(dtype).torch)
    values[values == 3] = -0.0
    values[700:, :5] = float("nan")
    values[::7, 9], values[::9, 10] = float("inf"), -float("inf")
    raw = values.view(torch.uint8).numpy().view(numbers.raw).reshape(1500, units)
    one, other = Greatest(units, numbers), Greatest(units, numbers)
    kernel = COMPILER.prepared(dtype)
    compiled = Fused(kernel, dtype, other.kept, units=units)
    row = 0
    for count in (128, 3, 569, 800):
        parts = runs([raw[row : row + count]], first=row % 128)
        by_numpy = ZoneNumbers(parts, numbers, with_groups=True, two_steps=two_steps)
        one.add(parts, by_numpy.maxima, by_numpy.high, row=row)
        found = ZoneNumbers(
            parts, numbers, with_groups=True, two_steps=two_steps, fused=compiled, row=row
        )
        row += count
        for name in ("low", "high", "sum", "rows", "odd", "missing"):
            a, b = getattr(by_numpy, name), getattr(found, name)
            assert np.array_equal(a, b), name
        assert found.m2 == pytest.approx(by_numpy.m2, rel=1e-12, abs=1e-9)
    other.keep(*compiled.kept(), seen=row)
    assert [part.tobytes() for part in one.take()] == [part.tobytes() for part in other.take()]


@pytest.mark.parametrize("chunks", [[6000, 300], [5120], [5119, 1]])
def test_ranks_of_a_long_first_chunk_are_those_of_numpy(chunks):
    """The maxima of its zones bound them: few finite values, Inf in many zones, equal ones."""
    numbers, units, rows = Numbers("float32"), 9, sum(chunks)
    random = torch.Generator().manual_seed(1)
    values = torch.randn(rows, units, generator=random)
    values[:, 0] = float("-inf")
    values[20:, 1] = float("nan")
    values[::40, 2] = float("inf")
    values[:, 3] = values[:, 3].round()
    values[:, 4] = 0.0
    values[1000:, 5] = float("inf")
    raw, row = values.numpy(), 0
    one, other = Greatest(units, numbers), Greatest(units, numbers)
    compiled = Fused(COMPILER.prepared("float32"), "float32", other.kept, units=units)
    for count in chunks:
        parts = runs([raw[row : row + count]], first=row % 128)
        zones = ZoneNumbers(parts, numbers, with_groups=True)
        one.add(parts, zones.maxima, zones.high, row=row)
        ZoneNumbers(parts, numbers, with_groups=True, fused=compiled, row=row)
        row += count
    other.keep(*compiled.kept(), seen=row)
    assert [part.tobytes() for part in one.take()] == [part.tobytes() for part in other.take()]


def test_a_shard_without_ranks_keeps_none():
    """From its beginning, or from the row on that has no number."""
    numbers, raw = Numbers("float32"), np.ones((300, 4), np.float32)
    kernel = COMPILER.prepared("float32")
    never = Fused(kernel, "float32", None, units=4)
    later = Fused(kernel, "float32", Greatest(4, numbers).kept, units=4)
    for compiled in (never, later):
        ZoneNumbers([raw], numbers, with_groups=False, fused=compiled)
    assert len(never.kept()[0]) == 0
    assert later.kept()[0].max() == 1.0
    later.forget()
    ZoneNumbers([raw], numbers, with_groups=False, fused=later)
    assert len(later.kept()[0]) == 0


def test_keys_sort_as_values_and_first_rows():
    """Of any two, and back again: both zeros, the ends of float32, the first and the last row."""
    largest = np.finfo(np.float32).max
    values = np.array([0, -0.0, 1, 1, -1, -1, largest, -largest, 1e-45, -1e-45], np.float32)
    rows = np.array([5, 4, 0, 2**31 - 1, 7, 8, 9, 10, 11, 12], np.int32)
    found, at = from_keys(to_keys(values, rows))
    order = np.lexsort((-rows.astype(np.int64), values + np.float32(0)))
    assert found.tobytes() == values[order].tobytes()
    assert at.tolist() == rows[order].tolist()
