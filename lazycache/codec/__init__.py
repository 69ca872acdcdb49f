"""Tensors and columns to bytes and back: dtypes, the Parquet shard, the Parquet tables."""
