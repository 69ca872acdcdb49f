"""What a linear function of a site can tell."""
