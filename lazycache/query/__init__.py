"""Questions over activations: SQL, and those that researchers ask; also methods of a cache."""
