"""Batches of a corpus and the run over them."""

from itertools import pairwise

import capture_helpers as h
import numpy as np
import pytest
import torch
from torch import nn

from lazycache.capture.corpus.batching import Limits, plan_batches
from lazycache.capture.corpus.corpus import encode_items
from lazycache.capture.corpus.extract import run_batches
from lazycache.capture.corpus.items import Item
from lazycache.capture.sites.resolve import resolve
from lazycache.errors import CaptureError


def _item(example, length, **columns):
    return Item(example, np.arange(3, 3 + length, dtype=np.int64), columns)


def _run(model, items, record, *, batch_size=2, patterns="embed", progress=lambda _: None):
    return run_batches(
        model,
        plan_batches(items, Limits(batch_size, None, 8)),
        points=list(resolve(model, patterns).values()),
        annotate=record,
        progress=progress,
    )


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


def test_images_and_inputs_of_decoders_reach_the_model():
    """Pixels are stacked; ids of a decoder are padded and masked as the model takes them."""
    seen = []

    class Sees(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 2)

        def forward(self, pixel_values):
            seen.append(pixel_values)
            return self.linear(pixel_values.flatten(1))

    images = [{"pixel_values": torch.full((1, 2, 2), float(i)), "label": i} for i in range(3)]
    sink, model = h.ListSink(), Sees()
    items = encode_items(images, tokenizer=None, max_length=None, keep=None)
    with h.recorder(model, "linear", sink) as record:
        done = _run(model, items, record.annotate, patterns="linear")
    assert [tuple(values.shape) for values in seen] == [(2, 1, 2, 2), (1, 1, 2, 2)]
    assert sink.column("examples", "label") == [0, 1, 2]
    assert (done.examples, done.tokens) == (3, 3)

    given = {}

    class Translates(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(9, 2)

        def forward(self, input_ids, attention_mask, decoder_input_ids):
            given.update(ids=decoder_input_ids, mask=attention_mask)
            return self.embed(input_ids)

    pairs = [
        {"input_ids": [1, 2], "decoder_input_ids": [3]},
        {"input_ids": [4], "decoder_input_ids": [5, 6, 7]},
    ]
    items = encode_items(pairs, tokenizer=None, max_length=None, keep=None)
    _run(Translates(), items, lambda **_: None, patterns="embed")
    assert given["ids"].tolist() == [[5, 6, 7], [3, 0, 0]]
    assert given["mask"].tolist() == [[1, 0], [1, 1]]


def test_inputs_that_a_model_does_not_take_are_named():
    """Images for a model of tokens are an error, not an argument that its forward refuses."""
    items = encode_items(
        [{"pixel_values": torch.ones(1, 2, 2)}], tokenizer=None, max_length=None, keep=None
    )
    with pytest.raises(CaptureError, match="pixel_values, which GPT2LMHeadModel does not take"):
        _run(h.make("gpt2"), items, lambda **_: None)


def test_a_wrapper_that_hands_everything_on_is_called_as_its_model_is():
    """The mask reaches a model inside DataParallel and its like."""

    class Wrapper(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, *args, **kwargs):
            return self.module(*args, **kwargs)

    model, sink = Wrapper(h.make("gpt2")), h.ListSink()
    with h.recorder(model, "resid_out_1", sink) as record:
        _run(model, [_item(0, 3), _item(1, 2)], record.annotate, patterns="resid_out_1")
    assert sink.column("examples", "length") == [3, 2]
