"""The regular-expression API over the same hooks."""
