"""Attention probabilities: ragged rows without padding."""

import capture_helpers as h
import numpy as np
import pytest
import torch

from lazycache.capture.values.patterns import ragged_rows
from lazycache.errors import CaptureError

IDS = h.ids(3, 5)
MASKS = {
    "none": [[1] * 5] * 3,
    "left": [[0, 0, 1, 1, 1], [1] * 5, [0, 1, 1, 1, 1]],
    "right": [[1, 1, 1, 0, 0], [1] * 5, [1, 0, 0, 0, 0]],
    "holes": [[1, 0, 1, 1, 0], [1] * 5, [0, 1, 0, 1, 1]],
}


@pytest.fixture
def sink():
    return h.ListSink()


def _model(name="llama"):
    model = h.make(name)
    model.set_attn_implementation("eager")
    return model


def _rows(block):
    """The rows of a ragged block, as tensors [heads, width]."""
    heads = block.shape[0]
    parts = block.values.split([heads * int(width) for width in block.widths])
    return [part.view(heads, -1) for part in parts]


def _expected(attention, queries, keys):
    return [
        attention[example][:, query][:, keys[example]]
        for example in range(len(attention))
        for query in np.flatnonzero(queries[example])
    ]


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
@pytest.mark.parametrize("mask", list(MASKS))
def test_rows_are_as_wide_as_their_example(sink, name, mask):
    """Padding is in no row, neither as query nor as key, wherever it stands."""
    model, given = _model(name), torch.tensor(MASKS[mask])
    with h.recorder(model, "pattern_1", sink), torch.no_grad():
        out = model(IDS, attention_mask=given, output_attentions=True)
    block, real = sink.batches[0].sites["pattern_1"], given.numpy() == 1
    expected = _expected(out.attentions[1], real, real)
    assert (block.shape, block.rows) == ((4, -1), real.sum())
    assert block.widths.tolist() == np.repeat(real.sum(1), real.sum(1)).tolist()
    for row, wanted in zip(_rows(block), expected, strict=True):
        assert torch.equal(row, wanted)


@pytest.mark.parametrize("mask", list(MASKS))
@pytest.mark.parametrize("positions", ["last", [0], slice(0, 9, 2)])
def test_positions_choose_queries_only(sink, positions, mask):
    """A kept token's row is over all real tokens of its example."""
    model, given = _model(), torch.tensor(MASKS[mask])
    with h.recorder(model, "pattern_0", sink, positions=positions), torch.no_grad():
        out = model(IDS, attention_mask=given, output_attentions=True)
    real = given.numpy() == 1
    queries = np.zeros_like(real)
    for example in range(3):
        at = np.flatnonzero(real[example])
        queries[example, at[-1:] if positions == "last" else at[positions]] = True
    block = sink.batches[0].sites["pattern_0"]
    for row, wanted in zip(_rows(block), _expected(out.attentions[0], queries, real), strict=True):
        assert torch.equal(row, wanted)


def test_heads_and_dtype(sink):
    """A subset of heads is a narrower first dimension; the cast is the same as of other sites."""
    model = _model()
    options = {"heads": {"pattern_*": [3, 1]}, "dtype": torch.bfloat16}
    record = h.recorder(model, "pattern_0", sink, **options)
    with record, torch.no_grad():
        out = model(IDS, output_attentions=True)
    block = sink.batches[0].sites["pattern_0"]
    expected = out.attentions[0][:, [3, 1]].permute(0, 2, 1, 3).to(torch.bfloat16)
    assert block.shape == (2, -1)
    assert torch.equal(block.values, expected.reshape(-1))


def test_the_gradient_of_a_pattern_is_ragged_too(sink):
    """It has the rows of the pattern, and is what autograd says of the probabilities."""
    model, given = _model("gpt2"), torch.tensor(MASKS["right"])
    with h.recorder(model, ["pattern_0", "pattern_0:grad"], sink):
        out = model(IDS, attention_mask=given, output_attentions=True)
        out.attentions[0].retain_grad()
        out.logits.square().sum().backward()
    block, real = sink.batches[0].sites["pattern_0:grad"], given.numpy() == 1
    assert block.widths.tolist() == sink.batches[0].sites["pattern_0"].widths.tolist()
    expected = _expected(out.attentions[0].grad, real, real)
    for row, wanted in zip(_rows(block), expected, strict=True):
        assert torch.equal(row, wanted)


def test_values_do_not_share_memory_with_the_model(sink):
    """With one head a permutation would be a view of the model's own tensor."""
    values = torch.rand(2, 1, 3, 3)
    everything = np.ones((2, 3), dtype=bool)
    flat, widths = ragged_rows("p", values, queries=everything, keys=everything)
    assert torch.equal(flat, values.flatten())
    assert widths.dtype == np.int32


def test_no_query_gives_no_rows():
    """A selection that takes nothing is a block without rows."""
    none, keys = np.zeros((2, 3), dtype=bool), np.ones((2, 3), dtype=bool)
    flat, widths = ragged_rows("p", torch.rand(2, 2, 3, 3), queries=none, keys=keys)
    assert (flat.numel(), len(widths)) == (0, 0)


@pytest.mark.parametrize(
    ("shape", "keys", "says"),
    [
        ((2, 2, 3, 4), (2, 3), r"p gave \[2, 2, 3, 4\]; attention of 2 examples of 3 tokens to 3"),
        ((2, 3), (2, 3), r"p gave \[2, 3\]"),
    ],
)
def test_other_shapes_are_an_error(shape, keys, says):
    """What is no attention over these tokens is named with both shapes."""
    mask = np.ones((2, 3), dtype=bool)
    with pytest.raises(CaptureError, match=says):
        ragged_rows("p", torch.rand(shape), queries=mask, keys=np.ones(keys, dtype=bool))


def test_a_row_without_any_key_is_an_error():
    """Only of cross attention: an encoder that was given nothing but padding."""
    queries, keys = np.ones((2, 3), dtype=bool), np.array([[1, 1], [0, 0]]) == 1
    with pytest.raises(CaptureError, match="example 1 of the batch has no real key"):
        ragged_rows("p", torch.rand(2, 2, 3, 2), queries=queries, keys=keys)
