"""Rows become committed shards: a budgeted queue, chunks, shard files, commits."""
