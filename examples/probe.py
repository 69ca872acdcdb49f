"""Learn to tell code from prose by one token's activations, from batches that a loader gives.

Run: python examples/probe.py [FOLDER]     (needs the extra `demo`; half a minute)
"""

import ast
import sys
import tempfile
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

import lazycache as lc
from lazycache.feed import Norm

MODULES = ("calendar", "datetime", "fractions", "heapq", "inspect", "tarfile", "textwrap")
HELD_OUT = "shutil"
SITES = ["embed", "resid_out_[135]"]
WORDS = "regexp_full_match(token, '[a-z]{2,}')"  # a bracket would tell too much
CODE = "kind = 'code'"


def corpus(modules: Iterable[str]) -> Iterator[dict[str, str]]:
    """Give each function of the standard library as two examples: its docstring, its code."""
    for name in modules:
        source = Path(str(getattr(find_spec(name), "origin", None))).read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(source)):
            doc = ast.get_docstring(node) if isinstance(node, ast.FunctionDef) else None
            if isinstance(node, ast.FunctionDef) and doc and len(node.body) > 1:
                del node.body[0]
                yield {"text": doc, "kind": "prose", "module": name}
                yield {"text": ast.unparse(node), "kind": "code", "module": name}


def train(words: lc.LazyTensor, site: str, epochs: int) -> tuple[torch.nn.Linear, Norm]:
    """Fit a logistic regression by gradient descent, batch after batch."""
    probe = torch.nn.Linear(words.shape[-1], 1)
    adam = torch.optim.Adam(probe.parameters(), lr=3e-3, weight_decay=1e-3)
    with words.loader(512, columns={"code": CODE}, norm="standard") as loader:
        for _ in range(epochs):
            for batch in loader:
                said = probe(batch[site]).squeeze(-1)
                loss = binary_cross_entropy_with_logits(said, batch["code"].float())
                adam.zero_grad()
                loss.backward()
                adam.step()
    return probe, loader.norm


def main(folder: str, modules: tuple[str, ...] = MODULES, epochs: int = 8) -> dict[str, float]:
    """Return for each site the share of words of a module never seen that are told right."""
    torch.manual_seed(0)
    model, tokenizer = lc.demo_model()
    right, texts = {}, list(corpus((*modules, HELD_OUT)))
    cache = lc.extract(model, texts, folder, SITES, tokenizer=tokenizer, max_length=128)
    print(f"{HELD_OUT:12}  trained here  cache.probe")
    for site in cache:
        words = cache[site].where(WORDS).rows
        seen, unseen = (words.where(f"module {sign} '{HELD_OUT}'") for sign in ("<>", "="))
        rows, truth = unseen.load(), torch.as_tensor(unseen.column(CODE))
        probe, norm = train(seen, site, epochs)
        right[site] = share(probe(norm.apply(rows)).squeeze(-1) > 0, truth)
        solved = cache.probe(seen, CODE, test=0).predict(rows)
        print(f"{site:12}  {right[site]:12.3f}  {share(torch.as_tensor(solved), truth):11.3f}")
    print(f"of {len(truth):,} words, {share(truth, torch.ones_like(truth)):.0%} of them code")
    print(words)
    return right


def share(said: torch.Tensor, truth: torch.Tensor) -> float:
    """Return how many of the answers are right."""
    return float((said == truth).float().mean())


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
