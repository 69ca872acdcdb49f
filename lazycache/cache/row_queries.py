"""Rows of a lazy tensor chosen or grouped by what the tables say of them, as its methods."""

from __future__ import annotations


class RowQueries:
    """Methods that ask the tables of the dataset which rows are meant."""

    __slots__ = ()
