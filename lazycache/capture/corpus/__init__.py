"""Driving a model over a corpus: batches, estimates, resuming, provenance."""
