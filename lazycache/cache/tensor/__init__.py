"""Lazy tensors, ragged or not, and their methods."""
