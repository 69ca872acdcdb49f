"""Looking after datasets: verify, collect, compact, remove, copy, export, describe."""
