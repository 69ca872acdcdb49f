"""Numbers of many rows that pass in blocks, or whose blocks have statistics."""
