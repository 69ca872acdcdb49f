"""Rows that are found: by a unit, a direction, a score, a vector that they are like."""
