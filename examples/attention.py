"""Where do heads look? Patterns of every head, asked and drawn.

Run: python examples/attention.py [FOLDER]     (needs the extras `demo` and `view`)
"""

import sys
import tempfile

import lazycache as lc
from lazycache import pictures

TEXTS = [
    "When Mary and John went to the store, John gave a drink to Mary.",
    "The keys to the cabinet are on the table, and the cabinet is open.",
    "Paris is the capital of France. Rome is the capital of Italy.",
]


def main(folder: str) -> None:
    """Store all patterns, find heads that look at one thing, and draw them."""
    model, tokenizer = lc.demo_model()
    cache = lc.extract(model, TEXTS, f"{folder}/acts", ["pattern_*"], tokenizer=tokenizer)
    print(cache["pattern_3"])

    print("Which heads give most of their attention to the separator, and which to names?")
    for what, condition in {
        "[SEP]": "token = '[SEP]'",
        "names": "token IN ('mary', 'john', 'paris', 'france', 'rome', 'italy')",
    }.items():
        shares = cache.mean_attention("pattern_*", condition)  # [layers, heads]
        layer, head = divmod(int(shares.argmax()), shares.shape[1])
        print(f"  {what}: layer {layer}, head {head} ({shares[layer, head]:.0%} of it)")

    seen = cache.attention(0, layer=layer, head=head)
    print(seen)  # for each token the one that it looks at most

    # a token and the one before it: the diagonal below the main one
    before = {}
    for at in range(6):
        maps = cache[f"pattern_{at}"][0].load().float()  # [heads, query, key]
        for h, share in enumerate(maps.diagonal(-1, 1, 2).mean(-1)):
            before[at, h] = float(share)
    at, h = max(before, key=before.__getitem__)
    print(f"The token before: layer {at}, head {h} ({before[at, h]:.0%} of it)")

    print(pictures.attention(cache, 0, at, h).save(f"{folder}/attention.png"))
    print(pictures.heads(cache, 0, at).save(f"{folder}/heads.png"))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
