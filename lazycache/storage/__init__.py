"""Bytes at rest: the store protocol, the local and fsspec stores, paths and ranges."""
