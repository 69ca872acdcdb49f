"""Several threads call one model while it is captured."""

import threading
from concurrent.futures import ThreadPoolExecutor

import capture_helpers as h
import numpy as np
import pytest
import torch
from torch import nn

from lazycache.errors import CaptureError

THREADS, CALLS = 3, 30


class Echo(nn.Module):
    """Two identity modules on the ids; between them every thread waits for the others."""

    def __init__(self, meet=lambda: None):
        super().__init__()
        self.first, self.second, self.meet = nn.Identity(), nn.Identity(), meet

    def forward(self, input_ids, fail=False):
        x = self.first(input_ids[..., None].float())
        self.meet()
        if fail:
            raise ValueError("broken")
        return self.second(x)


def _run(work):
    with ThreadPoolExecutor(THREADS) as pool:
        for done in [pool.submit(work, n) for n in range(THREADS)]:
            done.result(timeout=60)


def test_forward_passes_of_several_threads_stay_whole():
    """Every batch holds the rows, the tokens and the columns of one call of one thread."""
    sink = h.ListSink()
    model = Echo(threading.Barrier(THREADS).wait)  # each pass is cut in two by the others
    record = h.recorder(model, ["first", "second"], sink)

    def work(thread):
        for call in range(CALLS):
            ids = torch.tensor([[thread, call, call], [thread, call, call + 1]])[
                :, : 2 + thread % 2
            ]
            record.annotate(columns={"thread": [thread] * 2, "turn": [call] * 2})
            model(ids)

    with record:
        _run(work)
    assert (record.passes.forwards, record.passes.dropped, record.passes.stray) == (
        THREADS * CALLS,
        0,
        0,
    )
    assert sink.column("examples", "example") == list(range(2 * THREADS * CALLS))
    seen = set()
    for batch in sink.batches:
        tokens, examples = batch.tables["tokens"].columns, batch.tables["examples"].columns
        values = batch.sites["first:out"].values
        assert torch.equal(values, batch.sites["second:out"].values)
        assert values[:, 0].tolist() == tokens["token_id"].tolist()
        first = np.flatnonzero(tokens["position"] == 0)
        assert tokens["token_id"][first].tolist() == examples["thread"]
        assert tokens["token_id"][first + 1].tolist() == examples["turn"]
        seen.add((examples["thread"][0], examples["turn"][0]))
    assert len(seen) == THREADS * CALLS


def test_an_annotation_belongs_to_its_thread():
    """Another thread's forward pass does not take it."""
    model, sink = Echo(), h.ListSink()
    with h.recorder(model, "first", sink) as record:
        record.annotate(example=[7])
        other = threading.Thread(target=model, args=(torch.tensor([[1]]),))
        other.start()
        other.join()
        model(torch.tensor([[2]]))
    assert sink.column("examples", "example") == [0, 7]
    assert sink.column("tokens", "token_id") == [1, 2]


def test_an_annotation_that_no_forward_pass_takes_is_reported():
    """Said in one thread and called in another, ids and columns would be lost in silence."""
    model, sink = Echo(), h.ListSink()
    record = h.recorder(model, "first", sink)
    with pytest.warns(RuntimeWarning, match="annotate.* was called, but the thread"), record:  # noqa: PT031
        record.annotate(label=["x"])
        other = threading.Thread(target=model, args=(torch.tensor([[1]]),))
        other.start()
        other.join()
    assert "label" not in sink.batches[0].tables["examples"].columns


def test_one_id_is_recorded_by_one_thread():
    """Two threads that give the same id before either was recorded: the second is refused."""
    model, sink = Echo(threading.Barrier(THREADS).wait), h.ListSink()
    record, refused = h.recorder(model, "first", sink), []

    def work(_):
        record.annotate(example=[5])
        try:
            model(torch.tensor([[1, 2]]))
        except CaptureError as exc:
            refused.append(str(exc))

    with pytest.warns(RuntimeWarning, match="began and were not recorded: 2"), record:
        _run(work)
    assert sink.column("examples", "example") == [5]
    assert len(refused) == THREADS - 1
    assert all("Example 5 was recorded already" in message for message in refused)


def test_a_forward_pass_that_outlives_the_block_is_dropped():
    """A thread that is still running at the end hands nothing to a sink that is closed."""
    began, ended = threading.Event(), threading.Event()

    def meet():
        began.set()
        assert ended.wait(60)

    model, sink = Echo(), h.ListSink()
    late = threading.Thread(target=model, args=(torch.tensor([[1]]),))
    record = h.recorder(model, "first", sink)
    with pytest.warns(RuntimeWarning, match="began and were not recorded: 1"), record:  # noqa: PT031
        model(torch.tensor([[2]]))
        model.meet = meet
        late.start()
        assert began.wait(60)
    ended.set()
    late.join()
    assert (len(sink.batches), record.passes.forwards, record.passes.dropped) == (1, 1, 1)
