"""Which example each row of a table belongs to, as runs of consecutive rows. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Extents:
    """Which example each row belongs to, as runs of consecutive rows. int64[n] each."""

    run: NDArray[np.int64]
    """Index of the run in `Snapshot.runs`."""
    example: NDArray[np.int64]
    """Id of the example, unique within its run."""
    start: NDArray[np.int64]
    """First row; each extent begins where the one before it ends."""
    rows: NDArray[np.int64]
    """How many rows; at least 1."""


def merged_extents(
    *,
    runs: Sequence[int],
    examples: Sequence[NDArray[np.int64]],
    lengths: Sequence[NDArray[np.int64]],
) -> Extents:
    """Join the run-length forms of files that follow each other; `runs[i]` is the run of file i.

    Neighbours that belong to the same example of the same run become one extent.

    Example:
        >>> ids, rows = np.array([4, 9]), np.array([2, 3])
        >>> merged_extents(runs=[0, 0], examples=[ids, ids[1:]], lengths=[rows, rows[1:]]).rows
        array([2, 6])
    """
    run = _joined(
        [np.full(len(ids), i, dtype=np.int64) for i, ids in zip(runs, examples, strict=True)]
    )
    example, rows = _joined(examples), _joined(lengths)
    stop = np.cumsum(rows)
    first = np.ones(len(rows), dtype=bool)
    first[1:] = (run[1:] != run[:-1]) | (example[1:] != example[:-1])
    start = (stop - rows)[first]
    return Extents(
        run=run[first],
        example=example[first],
        start=start,
        rows=np.diff(np.concatenate([start, stop[-1:]])),
    )


def _joined(parts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate([np.empty(0, dtype=np.int64), *parts])
