"""Bytes of shards: memory maps, gathers, ranged reads."""
