"""A picture that is a matplotlib figure: shown in a notebook, or saved as an image (its owner)."""

from __future__ import annotations

import io
import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lazycache.errors import CaptureError, StorageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 144
"""Dots per inch of a PNG."""


class Picture:
    """A drawing: `picture.figure` (matplotlib), `picture.save("norms.png")`.

    It belongs to no window and no global state of matplotlib: nothing has to be closed, and no
    backend is chosen.
    """

    def __init__(self, figure: Figure, *, title: str) -> None:
        self.figure = figure
        """The matplotlib figure, to be changed further."""
        self.title = title
        """What it is of, as plain text."""

    def save(self, path: str | os.PathLike[str], *, dpi: int = DPI) -> Path:
        """Write it as PNG, SVG or PDF, by the ending of the path; return where.

        Raises:
            StorageError: it cannot be written, or the ending is no kind of image.
        """
        place = Path(path).expanduser()
        try:
            self.figure.savefig(place, dpi=dpi)
        except (OSError, ValueError) as exc:
            raise StorageError(f"Cannot save the picture as {place}: {exc}.") from exc
        return place

    def _repr_png_(self) -> bytes:
        drawn = io.BytesIO()
        self.figure.savefig(drawn, format="png", dpi=DPI)
        return drawn.getvalue()

    def __repr__(self) -> str:
        width, height = self.figure.get_size_inches()
        return f"Picture({self.title!r}, {width:g} x {height:g} inches)"


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of so many inches, laid out so that nothing is cut off.

    Raises:
        CaptureError: matplotlib is not installed; says how to get it.
    """
    figures: Any = _matplotlib("figure")
    made: Figure = figures.Figure(figsize=(width, height), layout="constrained")
    return made


def _matplotlib(module: str) -> Any:
    try:
        return import_module(f"matplotlib.{module}")
    except ImportError as exc:
        raise CaptureError(
            "Pictures are drawn by matplotlib, which is not installed. "
            'Install it with: pip install "lazycache[view]"'
        ) from exc
