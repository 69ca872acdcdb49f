"""What does int8 change? One corpus through a model and its quantised copy, row by row.

Run: python examples/compare_models.py [FOLDER]     (needs the extra `demo`)
"""

import copy
import sys
import tempfile
from pydoc_data.topics import topics
from typing import Any

import torch

import lazycache as lc

SITES = ["resid_out_*", "mlp_act_5"]
SHORTEST = 40
"""Letters of a paragraph."""


def quantised(model: Any) -> Any:
    """Return a copy whose matrices are rounded to 8 bits, a scale for each row."""
    made = copy.deepcopy(model)
    for module in made.modules():
        if isinstance(module, torch.nn.Linear):
            weight = module.weight.data
            scale = weight.abs().amax(dim=1, keepdim=True) / 127
            module.weight.data = (weight / scale).round() * scale
    return made


def main(folder: str) -> None:
    """Capture both, then compare layer by layer and token by token."""
    model, tokenizer = lc.demo_model()
    texts = [part for part in topics["dict"].split("\n\n") if len(part) >= SHORTEST]
    before = lc.extract(model, texts, f"{folder}/float32", SITES, tokenizer=tokenizer)
    after = lc.extract(quantised(model), texts, f"{folder}/int8", SITES, tokenizer=tokenizer)

    print("layer  change of norm  cosine    CKA")
    for layer in range(6):
        site = f"resid_out_{layer}"
        change = before.diff(after, site).summary  # one pass over both
        alike = before.similarity(site, after[site], "cka")
        print(f"{layer:5}  {change.relative_norm:14.2%}  {change.mean_cosine:.5f}  {alike:.5f}")

    change = before.diff(after, "resid_out_5")
    print(change.delta)  # lazy: nothing of it is stored
    print("\nThe tokens that change most, and those that change least:")
    print(change.top_k(5))
    print(change.top_k(5, largest=False))

    # both in one query
    joined = lc.connect({"before": f"{folder}/float32", "after": f"{folder}/int8"})
    query = """SELECT b.token, unit(b.mlp_act_5, 7) AS float32, unit(a.mlp_act_5, 7) AS int8
        FROM before.tokens b JOIN after.tokens a USING (example, position)
        ORDER BY abs(float32 - int8) DESC LIMIT 5"""
    print("\nNeuron 7 of the last layer, where the two differ most:")
    for token, one, other in joined.sql(query).fetchall():
        print(f"  {token:12} {one:8.4f} {other:8.4f}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
