"""The training feed: rows of stored sites in batches, shuffled by an index, aligned with columns."""
