"""What the end of a capture says."""

import capture_helpers as h
import pytest
import torch
from torch import nn

from lazycache.capture.outcome import Counts, check_recorded
from lazycache.errors import CaptureError

X = torch.ones(2, 3)


def _net():
    return nn.Sequential(nn.Linear(3, 2))


def test_a_block_without_a_call_is_an_error():
    """Nothing recorded is never silent, and says what may have happened."""
    model = _net()
    with pytest.raises(CaptureError, match="Sequential that is captured was never called in the"):
        with h.recorder(model, "0", h.ListSink()):
            _net()(X)
    assert h.hook_count(model) == 0


def test_a_compiled_wrapper_is_named():
    """A `torch.compile` that was traced before runs no hooks: the message points at it."""
    model = _net()
    compiled = torch.compile(model, backend="eager")
    compiled(X)
    with pytest.raises(CaptureError, match=r"there is a torch\.compile of it"):
        with h.recorder(model, "0", h.ListSink()):
            compiled(X)


def test_passes_that_were_all_stopped_are_an_error():
    """A loop that catches every exception has recorded nothing."""
    model, stopped = _net(), 0
    record = h.recorder(model, "0", h.ListSink())
    with pytest.raises(CaptureError, match=r"that began \(2, of Sequential\) was"), record:
        for _ in range(2):
            try:
                model(torch.ones(2, 4))
            except RuntimeError:
                stopped += 1
    assert (stopped, record.passes.dropped, record.passes.forwards) == (2, 2, 0)


def test_passes_that_are_missing_are_reported():
    """Among others they are a warning, which points at the `with` statement."""
    model = _net()
    record = h.recorder(model, "0", h.ListSink())
    with pytest.warns(RuntimeWarning, match="began and were not recorded: 1") as caught:  # noqa: PT031
        with record:
            model(X)
            with pytest.raises(RuntimeError):
                model(torch.ones(2, 4))
    assert (record.passes.dropped, record.passes.forwards) == (1, 1)
    assert caught[0].filename == __file__


def test_an_error_on_its_way_out_is_the_only_report():
    """What is lost with an exception needs no second message."""
    model = _net()
    with pytest.raises(ZeroDivisionError), h.recorder(model, "0", h.ListSink()):
        with pytest.raises(RuntimeError):
            model(torch.ones(2, 4))
        raise ZeroDivisionError


def test_a_block_may_be_allowed_to_be_empty():
    """A capture that is continued and has nothing left to do is right."""
    with h.recorder(_net(), "0", h.ListSink(), allow_empty=True) as record:
        pass
    assert record.passes.forwards == 0


@pytest.mark.parametrize(
    ("counts", "allow_empty", "right"),
    [
        (Counts(forwards=0, dropped=0, stray=0), False, False),
        (Counts(forwards=0, dropped=0, stray=0), True, True),
        (Counts(forwards=0, dropped=0, stray=4), True, False),
        (Counts(forwards=0, dropped=2, stray=0), False, False),
        (Counts(forwards=0, dropped=2, stray=0), True, True),
        (Counts(forwards=1, dropped=2, stray=3), False, True),
    ],
)
def test_what_counts_as_nothing(counts, allow_empty, right):
    """Sites that were met around the model are an error even where an empty block is none."""
    if right:
        check_recorded(_net(), counts, allow_empty=allow_empty)
    else:
        with pytest.raises(CaptureError, match="Nothing was recorded"):
            check_recorded(_net(), counts, allow_empty=allow_empty)
