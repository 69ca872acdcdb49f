"""SmolLM2-135M generates under capture: what is stored is what one pass over the answers gives."""

import copy

import pytest
import torch
from torch import nn

import lazycache as lc

PROMPTS = [
    "The capital of France is",
    "In Python, a list is",
    "Water boils at a temperature of one hundred degrees, and it freezes at",
]
SITES = ["resid_out_{0,14,29}", "mlp_act_7", "z_20", "pattern_3"]
NEW = 24

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def generated(smollm2, tmp_path_factory):
    """A dataset of one generation in float32, the model, and each finished sequence."""
    # transformers refuses to widen a model that was read from a quantised file
    model, tokenizer = nn.Module.float(copy.deepcopy(smollm2[0])), smollm2[1]
    tokenizer.pad_token = tokenizer.eos_token
    batch = tokenizer(PROMPTS, return_tensors="pt", padding=True, padding_side="left")
    url = tmp_path_factory.mktemp("generation") / "acts"
    with torch.no_grad(), lc.capture(model, url, SITES, tokenizer=tokenizer) as run:
        run.annotate(prompt=PROMPTS)
        out = model.generate(**batch, max_new_tokens=NEW, do_sample=False)
    real = batch["attention_mask"].bool()
    width, end = real.shape[1], tokenizer.eos_token_id
    read = []
    for ids, keep, row in zip(batch["input_ids"], real, out, strict=True):
        answer = row[width:-1].tolist()  # the last token of all was never read
        until = answer.index(end) + 1 if end in answer else len(answer)
        read.append(torch.tensor([*ids[keep].tolist(), *answer[:until]]))
    return model, tokenizer, url, read


def test_the_tokens_are_those_of_prompt_and_answer(generated):
    """Each token that was read once, in order, with its step and its text."""
    _, tokenizer, url, read = generated
    prompts = [len(tokenizer(prompt)["input_ids"]) for prompt in PROMPTS]
    answers = [len(ids) - prompt for ids, prompt in zip(read, prompts, strict=True)]
    assert min(answers) < max(answers) == NEW - 1, "one of the answers ends early"
    cache = lc.open(url)
    for example, ids in enumerate(read):
        rows = cache.sql(
            "SELECT token_id, position, step, token FROM tokens WHERE example = ? ORDER BY row",
            [example],
        ).fetchall()
        assert [row[0] for row in rows] == ids.tolist()
        assert [row[1] for row in rows] == list(range(len(ids)))
        steps = [0] * prompts[example] + list(range(1, answers[example] + 1))
        assert [row[2] for row in rows] == steps
        assert "".join(row[3] for row in rows).startswith(PROMPTS[example])
    assert cache.sql("SELECT prompt FROM examples ORDER BY example").fetchall() == [
        (prompt,) for prompt in PROMPTS
    ]


def test_values_are_those_of_one_pass_to_rounding(generated, tmp_path):
    """Every site and row equals a forward pass over the finished sequence, in float32."""
    model, _, url, read = generated
    cache = lc.open(url)
    for example, ids in enumerate(read):
        with torch.no_grad(), lc.capture(model, tmp_path / str(example), SITES):
            model(ids[None], use_cache=False)
        whole = lc.open(tmp_path / str(example))
        assert list(whole) == list(cache)
        for name in cache:
            stored, wanted = cache[name][example].load(), whole[name][0].load()
            if name == "pattern_3":  # [heads, query, key]
                stored = stored[:, : len(ids), : len(ids)]
            scale = float(wanted.abs().max())
            assert torch.allclose(stored, wanted, rtol=1e-4, atol=2e-5 * scale), name
