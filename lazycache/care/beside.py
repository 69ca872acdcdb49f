"""That what is made of a dataset does not lie in it."""

from __future__ import annotations

import os

from lazycache.errors import DatasetExistsError


def check_beside(place: str, dataset: str, *, what: str) -> None:
    """Refuse a place that is a dataset, or lies in one: its files would be foreign there.

    Args:
        place: Address that is written to.
        dataset: Address of the dataset that is read.
        what: What is made, for the message.

    Raises:
        DatasetExistsError: it does.

    Example:
        >>> check_beside("s3://bucket/copy", "s3://bucket/acts", what="copy")
        >>> check_beside("s3://bucket/acts/copy", "s3://bucket/acts", what="copy")
        Traceback (most recent call last):
        lazycache.errors.DatasetExistsError: s3://bucket/acts/copy lies in the dataset \
s3://bucket/acts: choose a place beside it for the copy.
    """
    mine, theirs = _real(place), _real(dataset)
    if mine == theirs:
        raise DatasetExistsError(f"{place} is the dataset itself: choose another address.")
    if mine.startswith(theirs + "/"):
        raise DatasetExistsError(
            f"{place} lies in the dataset {dataset}: choose a place beside it for the {what}."
        )


def _real(address: str) -> str:
    return address.rstrip("/") if "://" in address else os.path.realpath(address)
