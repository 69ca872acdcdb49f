"""Many forward passes that are one batch: `generate` and loops over a cache."""
