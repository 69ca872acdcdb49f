"""Units and what the tables say of their rows."""
