"""What tests of whole datasets share: a small model, a corpus, and what a dataset holds."""

import hashlib

import torch
from transformers import GPT2Config, GPT2LMHeadModel


def gpt2(**changes) -> GPT2LMHeadModel:
    """A small GPT-2 with random weights, the same ones each time."""
    torch.manual_seed(0)
    sizes = {
        "n_layer": 2,
        "n_head": 2,
        "n_embd": 16,
        "vocab_size": 50,
        "n_positions": 32,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    return GPT2LMHeadModel(GPT2Config(**{**sizes, **changes})).eval()


def ragged_corpus(count: int) -> list[list[int]]:
    """Token ids of examples of 1 to 7 tokens."""
    return [[1 + (i * 7 + j * 3) % 48 for j in range(1 + i % 7)] for i in range(count)]


def hooks(model) -> int:
    """How many hooks are on a model: transformers leaves some of its own."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def files(folder) -> list[str]:
    """Every file below a folder."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def content(cache) -> dict[str, str]:
    """SHA-256 of each table and site over its rows in the order of example and position."""
    found = {}
    for table, key in (("tokens", "example, position"), ("examples", "example")):
        query = f"SELECT * EXCLUDE (row, run) FROM {table}"
        names = [name for name in cache.sql(query).columns if name not in cache]
        listed = ", ".join(f'"{name}"' for name in names)
        rows = cache.sql(f"SELECT row, {listed} FROM {table} ORDER BY {key}").fetchall()
        found[table] = hashlib.sha256(repr([row[1:] for row in rows]).encode()).hexdigest()
        order = torch.tensor([row[0] for row in rows], dtype=torch.int64)
        for name, site in cache.sites.items():
            if site.table == table and site.layout == "row":
                values = cache[name].rows.load()[order].contiguous()
                raw = values.view(torch.uint8).numpy().tobytes()
                found[name] = hashlib.sha256(raw).hexdigest()
    return found
