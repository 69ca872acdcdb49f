"""Several sites as one tensor: [layers, examples, positions, *row]."""
