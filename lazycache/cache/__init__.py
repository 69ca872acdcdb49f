"""Lazy reads: selections, plans, lazy tensors, reductions, the cache of a dataset."""
