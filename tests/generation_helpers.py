"""What tests of generation share: models whose steps differ, and the pass that they must equal."""

import numpy as np
import torch
from capture_helpers import ListSink, hook_count, ids, make, recorder
from transformers import DynamicCache, StoppingCriteria

EPS = 1e-5
"""Rounding of float32 between one forward pass over a sequence and one for each of its tokens."""


def strong(name):
    """Make a small model of large weights: its tokens depend on each other by far more than EPS."""
    model = make(name)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(12)
    return model


def left_padded(*lengths, seed=1):
    """Prompts of these lengths, and their mask."""
    width = max(lengths)
    mask = torch.zeros(len(lengths), width, dtype=torch.int64)
    for row, length in enumerate(lengths):
        mask[row, width - length :] = 1
    return ids(len(lengths), width, seed=seed) * mask, mask


def generate(model, sites, prompts, mask=None, *, annotated=None, options=None, **given):
    """Capture one generation: the batch that was stored, and what generate returned."""
    sink, hooks = ListSink(), hook_count(model)
    with torch.no_grad(), recorder(model, sites, sink, **(options or {})) as rec:
        if annotated is not None:
            rec.annotate(**annotated)
        out = model.generate(
            prompts, **{"attention_mask": mask, "max_new_tokens": 6, "pad_token_id": 0} | given
        )
    assert rec.passes.dropped == 0
    assert hook_count(model) == hooks
    assert not {"generate", "_get_stopping_criteria"} & set(vars(model))
    [batch] = sink.batches
    return batch, getattr(out, "sequences", out)


def read_tokens(prompt, mask, row, *, ends=()):
    """The tokens of one sequence that a model has read: all but padding and the last one."""
    width = len(mask)
    answer = row[width:-1].tolist()  # the last one is never fed
    stop = next((at + 1 for at, token in enumerate(answer) if token in ends), len(answer))
    return [*prompt[mask.bool()].tolist(), *answer[:stop]]


def check(model, batch, example, tokens, prompt, *, sites=None):
    """Compare the rows of one example with a forward pass over its finished sequence."""
    columns = batch.tables["tokens"].columns
    rows = np.flatnonzero(columns["example"] == example)
    assert rows.tolist() == list(range(rows[0], rows[0] + len(tokens)))
    assert columns["token_id"][rows].tolist() == tokens
    assert columns["position"][rows].tolist() == list(range(len(tokens)))
    steps = [max(0, at - prompt + 1) for at in range(len(tokens))]
    assert columns["step"][rows].tolist() == steps
    for name, values in forward(model, sites or list(batch.sites), tokens).items():
        stored = batch.sites[name].values[rows]
        assert torch.allclose(stored, values, rtol=EPS, atol=EPS * float(values.abs().max())), name
        apart = (values[1:] - values[:-1]).abs().amax(1) > 100 * EPS * values.abs().max()
        assert len(tokens) < 2 or apart.float().mean() > 0.4, "a test that could not fail"


def forward(model, sites, tokens):
    """The values of one plain forward pass, by site."""
    sink = ListSink()
    with torch.no_grad(), recorder(model, sites, sink):
        model(torch.tensor([tokens]), use_cache=False)
    return {name: block.values for name, block in sink.batches[0].sites.items()}


class Stop(StoppingCriteria):
    """Ends each example at a length of its own."""

    def __init__(self, *lengths) -> None:
        self.lengths = torch.tensor(lengths)

    def __call__(self, input_ids, *_, **__):
        return self.lengths <= input_ids.shape[1]


def by_hand(model, prompts, mask, steps, **given):
    """Generate greedily with a loop over a cache; return all that was fed."""
    cache = DynamicCache()
    fed, new = prompts, prompts
    for _ in range(steps):
        if mask is not None:
            given["position_ids"] = (mask.cumsum(1) - 1).clamp(0)[:, -new.shape[1] :]
        out = model(new, attention_mask=mask, past_key_values=cache, **given)
        new = out.logits[:, -1:].argmax(-1)
        if mask is not None:
            mask = torch.cat([mask, torch.ones_like(new)], 1)
        fed = torch.cat([fed, new], 1)
    return fed[:, :-1]
