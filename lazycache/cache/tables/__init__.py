"""Rows by what the tables say of them: conditions, groups, columns."""
