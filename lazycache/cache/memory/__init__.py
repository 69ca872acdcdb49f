"""A selection into memory."""
