"""Capture a model over a corpus, read a slice, and ask which tokens fire a neuron.

Run: python examples/capture_and_query.py [FOLDER]     (needs the extra `demo`)
"""

import sys
import tempfile
from pydoc_data.topics import topics

import lazycache as lc

SITES = ["embed", "resid_out_*", "mlp_act_1"]
SHORTEST, STILL = 40, 0.01
"""Letters of a paragraph, and a deviation that is hardly one."""


def main(folder: str) -> None:
    """Store a few pages of the Python documentation, then look at them."""
    model, tokenizer = lc.demo_model()
    pages = {name: topics[name] for name in ("for", "while", "dict", "lambda", "import")}
    data = [
        {"text": paragraph, "topic": name}
        for name, text in pages.items()
        for paragraph in text.split("\n\n")
        if len(paragraph) >= SHORTEST
    ]
    cache = lc.extract(model, data, folder, SITES, tokenizer=tokenizer, max_length=256)

    x = cache["resid_out_5"]  # nothing is read yet
    print(x)
    print("first three tokens of paragraph 2:", tuple(x[2, :3].load().shape))
    print("bytes read so far:", cache.io.bytes)

    # statistics were written with the rows: no row is read for this
    deviations = cache["mlp_act_1"].std("rows")
    print("neurons that hardly move:", int((deviations < STILL).sum()), "of", len(deviations))

    # one pass over all neurons
    ((unit, r),) = cache.correlate("mlp_act_1", "token IN ('for', 'while', 'import')", top=1)
    print(f"neuron {unit} follows these keywords best: r = {r:.2f}")

    print(cache.top_k("mlp_act_1", unit, k=8, context=4))
    cache.sql(
        """SELECT topic, count(*) AS tokens, round(avg(unit(mlp_act_1, $unit)), 3) AS mean
        FROM tokens JOIN examples USING (example) GROUP BY topic ORDER BY mean DESC""",
        {"unit": unit},
    ).show()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
