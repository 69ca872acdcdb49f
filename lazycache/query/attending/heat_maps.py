"""Matrices of numbers from 0 to 1 as pictures: SVG with a small PNG in it, and no scripts. Pure."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from html import escape

import numpy as np

LABELLED = 64
"""Most tokens of a side that are written beside it."""

CELL, LETTER = 14, 7
"""Pixels of a labelled cell, and of a letter of its label."""

LETTERS = 12
"""Letters of a label that are shown."""

SIDE = 240
"""Pixels of a map without labels."""


def heat_map(values: np.ndarray, *, queries: Sequence[str], keys: Sequence[str], title: str) -> str:
    """Return [queries, keys] as SVG: the larger the darker; NaN as 0. All text is escaped.

    Example:
        >>> heat_map(np.eye(2), queries=["a", "<b>"], keys=["a", "<b>"], title="head 0")[:4]
        '<svg'
    """
    rows, columns = values.shape
    labelled = max(rows, columns) <= LABELLED
    left = LETTER * max(map(len, map(_label, queries)), default=0) + 6 if labelled else 2
    top = LETTER * max(map(len, map(_label, keys)), default=0) + 22 if labelled else 20
    scale = CELL if labelled else max(1, SIDE // max(rows, columns, 1))
    width, height = columns * scale, rows * scale
    texts = _labels(queries, keys, left, top) if labelled else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 4}" '
        f'height="{top + height + 4}" font-family="monospace" font-size="11" fill="currentColor">'
        f'<text x="2" y="12">{escape(title)}</text>{texts}'
        f'<image x="{left}" y="{top}" width="{width}" height="{height}" '
        'preserveAspectRatio="none" style="image-rendering:pixelated" '
        f'href="data:image/png;base64,{base64.b64encode(png(values)).decode()}"/></svg>'
    )


def png(values: np.ndarray) -> bytes:
    """Return [rows, columns] of numbers from 0 (white) to 1 (blue) as a PNG file.

    Example:
        >>> png(np.zeros((2, 3)))[1:4]
        b'PNG'
    """
    rows, columns = values.shape
    depth = 1 - np.clip(np.nan_to_num(values.astype(np.float64)), 0, 1)
    pixels = np.stack([depth * 232 + 23, depth * 180 + 75, depth * 100 + 155], -1).astype(np.uint8)
    # each line begins with its filter: none
    lines = np.zeros((rows, 1 + 3 * columns), dtype=np.uint8)
    lines[:, 1:] = pixels.reshape(rows, 3 * columns)
    header = struct.pack(">IIBBBBB", max(columns, 1), max(rows, 1), 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes())), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_part(kind, data) for kind, data in parts)


def _part(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _label(token: str) -> str:
    shown = repr(token)[1:-1]  # what is no letter as Python writes it
    return shown if len(shown) <= LETTERS else f"{shown[: LETTERS - 1]}…"


def _labels(queries: Sequence[str], keys: Sequence[str], left: int, top: int) -> str:
    down = (
        f'<text x="{left - 4}" y="{top + i * CELL + 11}" text-anchor="end">'
        f"{escape(_label(token))}</text>"
        for i, token in enumerate(queries)
    )
    across = (
        f'<text transform="translate({left + i * CELL + 11},{top - 4}) rotate(-90)">'
        f"{escape(_label(token))}</text>"
        for i, token in enumerate(keys)
    )
    return "".join((*down, *across))
