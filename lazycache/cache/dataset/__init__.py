"""One dataset at one version: its sites by name, and the values beside them."""
