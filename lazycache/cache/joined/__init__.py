"""Tensors one behind the other, without a copy."""
