"""What attends to what, and what writes a direction."""
