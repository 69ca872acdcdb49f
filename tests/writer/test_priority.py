"""Writer threads go behind the threads of the model."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import nn

import lazycache as lc
from lazycache.writer import priority

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has it for threads")


def nice_of(thread: int) -> int:
    """Return what the scheduler goes by for one thread."""
    return os.getpriority(os.PRIO_PROCESS, thread)


def test_writer_threads_are_nicer_than_the_thread_of_the_model_which_stays_as_it_was(
    tmp_path: Path,
) -> None:
    """While a capture is open its writers are nicer by the step; who captures is not."""
    before = nice_of(threading.get_native_id())
    model = nn.Sequential(nn.Linear(2, 3))
    with lc.capture(model, str(tmp_path / "acts"), "0") as session:
        model(torch.ones(4, 2))
        session.commit()  # the writers have begun, and have done something
        found = [
            nice_of(thread.native_id)
            for thread in threading.enumerate()
            if thread.name.startswith("lazycache-writer") and thread.native_id is not None
        ]
        assert found
        assert set(found) == {min(19, before + priority.STEP)}
        assert nice_of(threading.get_native_id()) == before


def test_a_system_that_forbids_it_is_written_to_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where niceness may not be set, values are stored all the same."""

    def refuse(*_: int) -> None:
        raise PermissionError(1, "not permitted")

    monkeypatch.setattr(os, "setpriority", refuse)
    model = nn.Sequential(nn.Linear(2, 3))
    with lc.capture(model, str(tmp_path / "acts"), "0"):
        value = model(torch.ones(4, 2))
    assert torch.equal(lc.open(str(tmp_path / "acts"))["0:out"].load(), value.detach())
