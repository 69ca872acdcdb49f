"""What a site is: names, families, and where in a model each is."""
