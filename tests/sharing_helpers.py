"""What tests of copies and exports share: a dataset with a file of every kind."""

from pathlib import Path

import torch
from dataset_helpers import gpt2, ragged_corpus

import lazycache as lc

SITES = ["resid_out_*", "head_out_1", "pattern_0"]
"""A plain site in two layers, one that is computed (from `z_1`), and a ragged one."""

LABELS = ("a", "b|`", "ü")
"""Of examples in turn."""


def corpus(count):
    """Examples with columns of their own; some have no score."""
    return [
        {"input_ids": ids, "label": LABELS[i % 3], "score": None if i % 4 else i / 2}
        for i, ids in enumerate(ragged_corpus(count))
    ]


def everything(url, *, dtype=None) -> None:
    """Write a dataset of two runs in three commits or more, with values beside the sites.

    It has shards (plain and ragged), statistics, tables, an array, a tensor and a tree. The second
    run lacks all sites but one.
    """
    model = gpt2(n_embd=32)
    options = {"dtype": dtype, "progress": False, "batch_size": 4}
    lc.extract(model, corpus(90), url, SITES, **options)
    lc.extract(model, corpus(5), url, SITES[:1], run="second", **options)
    cache = lc.open(url)
    cache["probe"] = torch.arange(6000.0).reshape(3, 2000)
    cache["notes"] = {"why": "every kind", "layers": [0, 1]}
    cache.persist()


def folder_bytes(folder) -> dict[str, bytes]:
    """Every file of a dataset with its bytes; not its card."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file() and path.name != "README.md"
    }
