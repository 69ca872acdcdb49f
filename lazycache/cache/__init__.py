"""Lazy reads: selections, plans, lazy tensors, reductions, the sites of a dataset."""
