"""Attention patterns of a generation: each row is over the keys that were there."""

import numpy as np
import pytest
import torch
from capture_helpers import ids
from generation_helpers import check, forward, generate, left_padded, read_tokens, strong

HEADS = 4


def rows_of(batch):
    """The rows of `pattern_1`, [heads, width] each, and their positions by example."""
    block, columns = batch.sites["pattern_1"], batch.tables["tokens"].columns
    parts = block.values.split((block.widths * HEADS).tolist())
    rows = [part.reshape(HEADS, -1) for part in parts]
    examples = np.unique(columns["example"]).tolist()
    return {e: [rows[n] for n in np.flatnonzero(columns["example"] == e)] for e in examples}


def whole(model, tokens):
    """[query, heads, key] of one forward pass over finished sequences."""
    values = forward(model, "pattern_1", tokens)["pattern_1"]
    return values.reshape(len(tokens), HEADS, len(tokens))


@pytest.mark.parametrize("given", [{}, {"use_cache": False}, {"cache_implementation": "static"}])
def test_patterns_are_over_the_keys_that_were_there(given):
    """The rows of a step are as wide as the tokens so far; padding is in none of them."""
    model = strong("llama")
    prompts, mask = left_padded(4, 2)
    batch, out = generate(model, ["pattern_1", "resid_out_1"], prompts, mask, **given)
    assert model.config._attn_implementation == "sdpa"
    widths = batch.sites["pattern_1"].widths.tolist()
    assert widths == [4, 4, 4, 4, 5, 6, 7, 8, 9, 2, 2, 3, 4, 5, 6, 7]
    for row, found in rows_of(batch).items():
        tokens = read_tokens(prompts[row], mask[row], out[row])
        check(model, batch, row, tokens, [4, 2][row], sites=["resid_out_1"])
        wanted = whole(model, tokens)
        for at, values in enumerate(found):
            assert torch.allclose(values, wanted[at, :, : values.shape[1]], atol=1e-4)
            assert torch.allclose(values.sum(1), torch.ones(HEADS))


def test_a_prompt_in_chunks_has_rows_over_what_was_read_so_far():
    """A chunk attends to itself and the chunks before it."""
    model = strong("llama")
    prompts, mask = left_padded(5, 3)
    options = {"heads": {"pattern_1": [2, 0]}}
    batch, out = generate(
        model, "pattern_1", prompts, mask, options=options, prefill_chunk_size=2, max_new_tokens=2
    )
    block = batch.sites["pattern_1"]
    # padded on the left: of the second example the first chunk is padding
    assert block.widths.tolist() == [2, 2, 4, 4, 5, 6, 2, 2, 3, 4]
    assert block.shape == (2, -1)
    wanted = whole(model, out[0, :-1].tolist())
    first = block.values[: 2 * 2 * 2].reshape(2, 2, 2)
    assert torch.allclose(first, wanted[:2, [2, 0], :2], atol=1e-4)


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_patterns_of_a_sliding_window_have_zeros_where_it_has_passed(cache):
    """A cache that has forgotten keys gives rows as wide as all tokens so far."""
    model = strong("mistral")
    model.config.sliding_window = 3
    prompts = ids(2, 5)
    batch, out = generate(model, "pattern_1", prompts, cache_implementation=cache)
    assert batch.sites["pattern_1"].widths.tolist() == [5, 5, 5, 5, 5, 6, 7, 8, 9, 10] * 2
    for row, found in rows_of(batch).items():
        wanted = whole(model, out[row, :-1].tolist())
        assert (wanted[9, :, :7] == 0).all()
        for at, values in enumerate(found):
            assert torch.allclose(values, wanted[at, :, : values.shape[1]], atol=1e-4)
