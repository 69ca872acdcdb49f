"""Matrices of numbers from 0 to 1 as pictures: SVG with a small PNG in it, and no scripts. Pure."""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Sequence
from functools import reduce

import numpy as np

from lazycache.faces.colours import NEGATIVE
from lazycache.faces.html import Html, number, text
from lazycache.faces.tokens import label

LABELLED = 64
"""Most tokens of a side that are written beside it."""

HOVERED = 48
"""Most tokens of a side of a map whose cells say their numbers on hover."""

CELL, LETTER = 14, 7
"""Pixels of a labelled cell, and of a letter of its label."""

LETTERS = 12
"""Letters of a label that are shown."""

SIDE = 240
"""Pixels of a map without labels."""


def heat_map(
    values: np.ndarray,
    *,
    queries: Sequence[str | None],
    keys: Sequence[str | None],
    title: str,
    labels: bool = True,
    hover: bool = False,
    side: int = SIDE,
) -> Html:
    """Return [queries, keys] as SVG: the larger the bluer, 0 is the page; NaN as 0.

    Small numbers can be told from 0: how opaque the blue is goes with the square root.

    It has attributes only, no styles and no scripts: pages with a strict policy that lets pictures
    be `data:` can hold it. All text is escaped.

    Args:
        values: [queries, keys], from 0 to 1.
        queries: Tokens from top to bottom, as they are stored.
        keys: Tokens from left to right.
        title: What it is, above.
        labels: Write the tokens beside it, where they are few enough (`LABELLED`).
        hover: Let each cell say its tokens and its number, where there are few (`HOVERED`).
        side: Pixels of a map without labels; of several numbers in one pixel it has the largest.

    Example:
        >>> heat_map(np.eye(2), queries=["a", "<b>"], keys=["a", "<b>"], title="head 0")[:4]
        '<svg'
    """
    rows, columns = values.shape
    longest = max(rows, columns, 1)
    labelled = labels and longest <= LABELLED
    down, across = ([label(t, letters=LETTERS) for t in side_] for side_ in (queries, keys))
    left = LETTER * max(map(len, down), default=0) + 6 if labelled else 2
    top = LETTER * max(map(len, across), default=0) + 22 if labelled else 20
    scale = CELL if labelled else side / longest
    width, height = columns * scale, rows * scale
    drawn = values if labelled else _pooled(values, math.ceil(longest / side))
    texts = _labels(down, across, left, top) if labelled else ""
    cells = _hovers(values, down, across, (left, top, scale)) if hover else ""
    return Html(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 4:.6g}" '
        f'height="{top + height + 4:.6g}" role="img" aria-label="{text(title)}" '
        'font-family="monospace" font-size="11" fill="currentColor">'
        f'<text x="2" y="12">{text(title)}</text>{texts}'
        f'<image x="{left}" y="{top}" width="{width:.6g}" height="{height:.6g}" '
        'preserveAspectRatio="none" image-rendering="pixelated" '
        f'href="data:image/png;base64,{base64.b64encode(png(drawn)).decode()}"/>'
        f'<rect x="{left}" y="{top}" width="{width:.6g}" height="{height:.6g}" fill="none" '
        f'stroke="currentColor" stroke-opacity="0.3"/>{cells}</svg>'
    )


def png(values: np.ndarray) -> bytes:
    """Return [rows, columns] of numbers from 0 (transparent) to 1 (blue) as a PNG file.

    Between them the opacity is the square root.

    Example:
        >>> png(np.zeros((2, 3)))[1:4]
        b'PNG'
    """
    rows, columns = values.shape
    # steps of one colour, which is the more opaque the larger the number is
    shares = np.sqrt(np.clip(np.nan_to_num(values.astype(np.float64)), 0, 1))
    # each line begins with its filter: none
    lines = np.zeros((rows, 1 + columns), dtype=np.uint8)
    lines[:, 1:] = np.rint(shares * 255)
    header = struct.pack(">IIBBBBB", max(columns, 1), max(rows, 1), 8, 3, 0, 0, 0)
    parts = (
        (b"IHDR", header),
        (b"PLTE", bytes(NEGATIVE) * 256),
        (b"tRNS", bytes(range(256))),
        (b"IDAT", zlib.compress(lines.tobytes())),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(_part(kind, data) for kind, data in parts)


def _pooled(values: np.ndarray, few: int) -> np.ndarray:
    """Return the largest number of each square of few times few; NaN counts as 0."""
    if few <= 1 or not values.size:
        return values
    whole = np.pad(np.nan_to_num(values), [(0, -size % few) for size in values.shape])
    # whole lines first: that is several times faster than `reduceat`
    lines = reduce(np.maximum, (whole[i::few] for i in range(few)))
    pooled: np.ndarray = reduce(np.maximum, (lines[:, i::few] for i in range(few)))
    return pooled


def _part(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _labels(down: Sequence[str], across: Sequence[str], left: int, top: int) -> str:
    rows = (
        f'<text x="{left - 4}" y="{top + i * CELL + 11}" text-anchor="end">{text(token)}</text>'
        for i, token in enumerate(down)
    )
    columns = (
        f'<text transform="translate({left + i * CELL + 11},{top - 4}) rotate(-90)">'
        f"{text(token)}</text>"
        for i, token in enumerate(across)
    )
    return "".join((*rows, *columns))


def _hovers(
    values: np.ndarray,
    down: Sequence[str],
    across: Sequence[str],
    place: tuple[float, float, float],
) -> str:
    """Return an invisible cell with a title for each number that is not 0."""
    if max(values.shape, default=0) > HOVERED:
        return ""
    left, top, scale = place
    return "".join(
        f'<rect x="{left + j * scale:.6g}" y="{top + i * scale:.6g}" width="{scale:.6g}" '
        f'height="{scale:.6g}" fill-opacity="0">'
        f"<title>{text(down[i])} → {text(across[j])}: {number(float(values[i, j]))}</title></rect>"
        for i, j in zip(*np.nonzero(values), strict=True)
    )
