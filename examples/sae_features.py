"""Store what the features of a sparse autoencoder say of each token, and ask in SQL what they mean.

Run: python examples/sae_features.py FOLDER     (the folder of examples/train_sae.py)
"""

import sys

from sae_model import SITE, TEXT, encoder

import lazycache as lc

RARE = 0.02
"""Share of tokens below which a feature says something of them."""

TOKENS = """
    WITH fired AS (
        SELECT token, unit(features, $unit) AS a FROM tokens
        WHERE token NOT IN ('[CLS]', '[SEP]'))
    SELECT token, count(*) AS times, avg(a) AS mean FROM fired WHERE a > 0
    GROUP BY token ORDER BY sum(a) DESC LIMIT 4"""
"""What a feature fires on: the tokens of which it fires most in all."""

CLEAREST = "SELECT unit FROM statistics WHERE site = 'features' ORDER BY max DESC"


def main(folder: str, *, shown: int = 8, rare: float = RARE) -> lc.ActivationCache:
    """Store the features beside the site that they are of; print what some of them fire on."""
    cache = lc.open(folder)
    if "features" not in cache:
        cache["features"] = cache[SITE].map(encoder(cache))
        cache.persist("features")  # a site like any other: a column of SQL, with statistics
        cache = lc.open(folder)
    print(cache["features"])

    rates = cache.firing_rates("features", where=TEXT)
    print(f"{int((rates == 0).sum()):,} of {len(rates):,} features never fire.\n")
    units = [unit for (unit,) in cache.sql(CLEAREST).fetchall() if 0 < rates[unit] < rare]
    for unit in units[:shown]:
        found = cache.sql(TOKENS, {"unit": unit}).fetchall()
        tokens = ", ".join(f"{token} {times}x {mean:.1f}" for token, times, mean in found)
        print(f"feature {unit:4}, {rates[unit]:6.2%} of tokens: {tokens}")

    print(f"\nFeature {units[0]} in its sentences:")
    print(cache.top_k("features", units[0], k=6, per_example=True, context=5))
    return cache


if __name__ == "__main__":
    main(sys.argv[1])
