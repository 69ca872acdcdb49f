"""What exists: the commit log, its replay into a snapshot, and the DuckDB index."""
