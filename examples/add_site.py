"""Ask what a capture takes, make it, and add another site to the same rows later.

Run: python examples/add_site.py [FOLDER]     (needs the extra `demo`)
"""

import sys
import tempfile

import lazycache as lc

TEXTS = [
    "The cat sleeps on the sofa.",
    "Paris is in France, and Rome is in Italy.",
    "Tokyo is never quiet.",
]


def main(folder: str) -> None:
    """Store one layer, then find that another one is needed too."""
    model, tokenizer = lc.demo_model()
    print(lc.extract(model, TEXTS, folder, "resid_out_*", tokenizer=tokenizer, dry_run=True))
    lc.extract(model, TEXTS, folder, "resid_out_5", tokenizer=tokenizer)

    # days later: the tokens are stored, so the texts are not even needed
    cache = lc.extract(model, None, sites="mlp_act_3", add_to=folder)
    print(cache["mlp_act_3"])
    cache.sql(
        """SELECT token, unit(mlp_act_3, 697) AS a, unit(resid_out_5, 17) AS b
        FROM tokens ORDER BY a DESC LIMIT 5"""
    ).show()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
