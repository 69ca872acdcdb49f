"""Batches of a corpus and the run over them."""

from itertools import pairwise

import capture_helpers as h
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lazycache.capture.corpus import Item, encode_items
from lazycache.capture.extract import CHECKSUM, pending, plan_batches, run_batches
from lazycache.capture.resolve import resolve
from lazycache.errors import CaptureError


def _item(example, length, **columns):
    return Item(example, np.arange(3, 3 + length, dtype=np.int64), columns)


def _run(model, items, record, *, batch_size=2, patterns="embed", progress=lambda _: None):
    return run_batches(
        model,
        plan_batches(items, batch_size=batch_size, window=8),
        points=list(resolve(model, patterns).values()),
        annotate=record,
        progress=progress,
    )


@given(st.lists(st.integers(1, 9), max_size=30), st.integers(1, 5), st.integers(1, 12))
def test_batches_hold_each_item_once_unchanged(lengths, batch_size, window):
    """Every item is in one batch, whole, with its padding masked; windows keep corpus order."""
    items = [_item(n, length) for n, length in enumerate(lengths)]
    batches = list(plan_batches(items, batch_size=batch_size, window=window))
    found = {}
    for batch in batches:
        assert len(batch.examples) <= batch_size
        assert batch.input_ids.shape[1] == max(lengths[n] for n in batch.examples)
        for row, example in enumerate(batch.examples):
            found[example] = batch.input_ids[row][batch.attention_mask[row] == 1].tolist()
            assert batch.attention_mask[row, 0] == 1
    assert found == {item.example: item.input_ids.tolist() for item in items}
    assert [n // window for batch in batches for n in batch.examples] == [
        n // window for n in range(len(items))
    ]
    assert sum(batch.tokens for batch in batches) == sum(lengths)


def test_the_longest_of_a_window_come_first():
    """Like lengths go together, the longest first, and equal ones in corpus order."""
    items = [_item(0, 2), _item(1, 5), _item(2, 2), _item(3, 5)]
    batches = list(plan_batches(items, batch_size=2, window=4))
    assert [batch.examples for batch in batches] == [[1, 3], [0, 2]]


def test_missing_columns_are_none():
    """An item without a column that its neighbour has gets None there."""
    (batch,) = plan_batches([_item(0, 1, a=1), _item(1, 1, b="x")], batch_size=2, window=2)
    assert batch.columns.pop(CHECKSUM)
    assert batch.columns == {"a": [1, None], "b": [None, "x"]}


@pytest.mark.parametrize("sizes", [(0, 1), (1, 0)])
def test_sizes_below_one_are_refused(sizes):
    """A batch or window of nothing would run for ever or not at all."""
    with pytest.raises(CaptureError, match="at least 1"):
        plan_batches([], batch_size=sizes[0], window=sizes[1])


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert", "bert-base"])
def test_a_run_records_what_single_forward_passes_give(name):
    """Batched and padded, each example's rows are those of a run on its own."""
    model, sink = h.make(name), h.ListSink()
    lengths = [3, 9, 1, 4, 4]
    items = [_item(n, length) for n, length in enumerate(lengths)]
    with h.recorder(model, "resid_out_1", sink) as record:
        done = _run(model, items, record.annotate, patterns="resid_out_1")
    assert (done.examples, done.tokens, done.batches) == (5, 21, 3)
    examples = np.array(sink.column("tokens", "example"))
    values = sink.values("resid_out_1")
    for item in items:
        alone = h.ListSink()
        with h.recorder(model, "resid_out_1", alone), torch.no_grad():
            model(torch.from_numpy(item.input_ids)[None])
        own = values[torch.from_numpy(examples == item.example)]
        torch.testing.assert_close(own, alone.values("resid_out_1"), rtol=1e-4, atol=1e-5)


def test_progress_is_told_after_every_batch():
    """The callback sees the sums grow."""
    model, seen = h.make("gpt2"), []
    items = [_item(n, 3) for n in range(5)]
    _run(model, items, lambda **_: None, progress=seen.append)
    assert [(p.examples, p.tokens, p.batches) for p in seen] == [(2, 6, 1), (4, 12, 2), (5, 15, 3)]
    assert all(a.seconds <= b.seconds for a, b in pairwise(seen))


def test_training_flags_are_put_back():
    """The run is in evaluation mode; afterwards each module is as it was, also after an error."""
    model = h.make("gpt2").train()
    model.lm_head.eval()
    modes = []
    _run(model, [_item(0, 2)], lambda **_: modes.append((model.training, torch.is_grad_enabled())))
    assert modes == [(False, False)]

    def fail(**_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _run(model, [_item(0, 2)], fail)
    assert model.training
    assert model.transformer.drop.training
    assert not model.lm_head.training


def test_logits_are_computed_only_where_they_are_wanted():
    """The head runs on one position unless a site is outside the transformer."""
    model, shapes = h.make("llama"), []
    model.lm_head.register_forward_hook(lambda _module, _args, out: shapes.append(out.shape[1]))
    for patterns in ("resid_out_1", "logits", ":out", "lm_head:in"):
        _run(model, [_item(0, 4)], lambda **_: None, patterns=patterns)
    assert shapes == [1, 4, 4, 4]


class Plain(nn.Module):
    """A model that knows no attention mask."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(h.VOCAB, 4)

    def forward(self, tokens):
        return self.embed(tokens)


def test_models_without_a_mask_run_unpadded_only():
    """Padding is not shown to a model that cannot be told of it."""
    model, sink = Plain(), h.ListSink()
    with h.recorder(model, "embed", sink) as record:
        _run(model, [_item(0, 3), _item(1, 2)], record.annotate, batch_size=1)
    record = h.recorder(model, "embed", sink)
    with pytest.raises(CaptureError, match="takes no attention_mask"), record:
        _run(model, [_item(2, 3), _item(3, 2)], record.annotate)
    assert sink.column("examples", "length") == [3, 2]


def test_an_empty_corpus_is_an_error_of_the_run():
    """Nothing to run on is said, not silently done."""
    items = encode_items([], tokenizer=None, max_length=None, keep=None)
    with pytest.raises(CaptureError, match="The corpus is empty"):
        _run(h.make("gpt2"), items, lambda **_: None)


def test_real_texts(minilm):
    """With the real tokenizer and model, rows, token text and the text column belong together."""
    model, tokenizer = minilm
    texts = ["Paris is in France.", "Cats", "The quick brown fox jumps over the dog"]
    sink = h.ListSink()
    items = encode_items(texts, tokenizer=tokenizer, max_length=8, keep=None)
    with h.recorder(model, "resid_out_5", sink, tokenizer=tokenizer) as record:
        done = _run(model, items, record.annotate, patterns="resid_out_5")
    assert done.tokens == len(sink.values("resid_out_5")) == 7 + 3 + 8
    assert sink.column("examples", "example") == [2, 0, 1]
    assert sink.column("examples", "text") == [texts[2], texts[0], texts[1]]
    assert sink.column("tokens", "token")[8:] == [
        *("[CLS]", "paris", "is", "in", "france", ".", "[SEP]"),
        *("[CLS]", "cats", "[SEP]"),
    ]


def test_what_is_done_is_left_out_and_the_rest_keeps_its_company():
    """Whole batches that are done vanish, others run with what is left of them."""
    items = [_item(n, 4) for n in range(6)]
    batches = list(plan_batches(items, batch_size=2, window=6))
    checksums = {n: items[n].checksum for n in (0, 1, 2)}
    left = list(pending(batches, done=checksums))
    assert [batch.examples for batch in left] == [[3], [4, 5]]
    assert left[0].input_ids.shape == batches[1].input_ids[1:].shape
    assert left[0].columns[CHECKSUM] == [items[3].checksum]


def test_an_example_that_changed_is_noticed():
    """A done example with other tokens is an error; one without a checksum is believed."""
    batches = list(plan_batches([_item(0, 4)], batch_size=1, window=1))
    with pytest.raises(CaptureError, match="Example 0"):
        list(pending(batches, done={0: 1}))
    assert list(pending(batches, done={0: None})) == []
