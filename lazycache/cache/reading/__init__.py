"""Row numbers to values: of stored sites, and of those that are computed."""
