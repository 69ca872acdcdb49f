"""Benchmarks: `python -m benchmarks.bench_…` prints a table; nothing here gates a test."""
