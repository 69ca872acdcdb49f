"""Ask what researchers ask: what fires a neuron, what is alike, what a direction is made of.

Run: python examples/questions.py [FOLDER]     (needs the extra `demo`)
"""

import sys
import tempfile

import torch

import lazycache as lc

TEXTS = {
    "city": [
        "Paris is the capital of France.",
        "Rome is in Italy, by the river Tiber.",
        "Tokyo is the largest city of Japan.",
        "The train from Madrid to Berlin is late.",
    ],
    "animal": [
        "The cat sleeps on the sofa.",
        "A dog barks at the moon.",
        "Two birds sing in the old tree.",
        "The horse drinks from the stream.",
    ],
}
SITES = ["embed", "resid_out_*", "mlp_act_3", "pattern_5"]


def main(folder: str) -> None:
    """Capture a few sentences, then ask about them."""
    model, tokenizer = lc.demo_model()
    with torch.no_grad(), lc.capture(model, folder, SITES, tokenizer=tokenizer) as run:
        for label, texts in TEXTS.items():
            batch = tokenizer(texts, return_tensors="pt", padding=True)
            run.annotate(label=[label] * len(texts))
            model(**batch)

    cache = lc.open(folder)
    x = cache["resid_out_5"]
    print(x)

    print("\nWhich tokens fire neuron 697 most?")
    print(cache.top_k("mlp_act_3", 697, k=5, context=3))

    paris = cache.sql("SELECT row FROM tokens WHERE token = 'paris'").fetchone()[0]
    print("\nWhich tokens are like this `paris`?")
    print(cache.similar("resid_out_5", x.rows[paris], k=5, context=3))

    means = cache.group_mean("resid_out_5", "label")
    direction = means["city"] - means["animal"]
    print("\nWhich tokens point from the mean of animals to that of cities?")
    print(cache.top_k("resid_out_5", direction=direction, k=5, per_example=True, context=3))

    print("\nHow far does each layer move the tokens, and how alike are the layers?")
    for layer in range(1, 6):
        before, after = f"resid_out_{layer - 1}", f"resid_out_{layer}"
        moved = (cache[after] - cache[before]).norm(dim=-1).mean("rows")
        alike = cache.similarity(before, after)
        print(f"  {before} -> {after}: {float(moved):.2f}, CKA {alike:.3f}")

    print("\nHow much do the heads of the last layer look at full stops?")
    print("  " + " ".join(f"{share:.2f}" for share in cache.mean_attention(5, "token = '.'")))

    print("\nWhat would a question cost?")
    print(cache.cost("similar", "resid_out_5", x.rows[paris]))
    print(cache.cost("SELECT avg(unit(mlp_act_3, 697)) FROM tokens WHERE position = 1"))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
