"""Values in memory: described, joined, moved, as trees of plain JSON."""
