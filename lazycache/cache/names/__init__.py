"""What a person calls a site: keys, heads, patterns, names of other tools. Pure."""
