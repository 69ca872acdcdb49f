"""What an index selects, and where it lies: composed, never read. Pure."""
