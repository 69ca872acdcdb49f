"""Capture inside a loop of your own, with a label per example, and compare the labels in SQL.

Run: python examples/own_loop.py [FOLDER]     (needs the extra `demo`)
"""

import sys
import tempfile

import torch

import lazycache as lc

SENTENCES = {
    "animals": ["The cat sleeps on the sofa.", "A dog barks at night.", "Birds sing at dawn."],
    "cities": ["Paris is in France.", "Rome has seven hills.", "Tokyo is never quiet."],
}


def main(folder: str) -> None:
    """Store one row per token, then ask which units tell the labels apart."""
    model, tokenizer = lc.demo_model()
    with torch.no_grad(), lc.capture(model, folder, "resid_out_*", tokenizer=tokenizer) as run:
        for label, texts in SENTENCES.items():
            batch = tokenizer(texts, return_tensors="pt", padding=True)
            run.annotate(label=[label] * len(texts), text=texts)
            model(**batch)

    cache = lc.open(folder)
    x = cache["resid_out_5"]
    print(x)
    labels = cache.sql("SELECT label FROM examples ORDER BY example").fetchall()
    animals = torch.tensor([label == "animals" for (label,) in labels])
    gap = x[animals].mean("rows") - x[~animals].mean("rows")
    unit = int(gap.abs().argmax())
    print(f"unit {unit} differs most between the labels: {gap[unit]:+.3f}")
    cache.sql(
        f"""SELECT label, avg(unit(resid_out_5, {unit})) AS mean, count(*) AS tokens
        FROM tokens JOIN examples USING (example) GROUP BY label ORDER BY label"""  # noqa: S608
    ).show()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
