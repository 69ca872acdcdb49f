"""A picture that is a matplotlib figure: shown in a notebook, or saved as an image (its owner)."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lazycache.errors import CaptureError, StorageError

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

DPI = 144
"""Dots per inch of a PNG."""

BLUE, ORANGE = "#2a6fc9", "#c25e00"
"""Those of `faces.colours`, opaque: lines and letters of them are read on white and on black."""

SHOWN_DPI = 96
"""Dots per inch of a page: a notebook shows the picture at the size that it says."""


class Picture:
    """A drawing: `picture.figure` (matplotlib), `picture.save("norms.png")`.

    It belongs to no window and no global state of matplotlib: nothing has to be closed, and no
    backend is chosen. A notebook shows it as it is.

    Example:
        >>> import tempfile
        >>> from lazycache.samples import pattern_cache
        >>> from lazycache.pictures import attention
        >>> picture = attention(pattern_cache(), example=1, layer=0, head=0)
        >>> picture.save(f"{tempfile.mkdtemp()}/attention.png").suffix
        '.png'
        >>> picture.values["attention"].tolist()[1]
        [0.5, 0.5, 0.0]
    """

    def __init__(
        self, figure: Figure, *, title: str, values: Mapping[str, np.ndarray] | None = None
    ) -> None:
        self.figure = figure
        """The matplotlib figure, to be changed further."""
        self.title = title
        """What it is of, as plain text."""
        self.values = dict(values or {})
        """The numbers that are drawn, as numpy arrays; each function says which."""

    def save(self, path: str | os.PathLike[str], *, dpi: int = DPI) -> Path:
        """Write it as PNG, SVG or PDF, by the ending of the path (PNG if it has none); say where.

        For an example see `Picture`.

        Raises:
            StorageError: it cannot be written, or the ending is no kind of image.
        """
        place = Path(path).expanduser()
        # matplotlib would add the ending, and leave us with a path where nothing is
        place = place if place.suffix else place.with_suffix(".png")
        try:
            self.figure.savefig(place, dpi=dpi)
        except (OSError, ValueError) as exc:
            why = (isinstance(exc, OSError) and exc.strerror) or exc
            raise StorageError(f"Cannot save the picture as {place}: {why}.") from exc
        return place

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        drawn = io.BytesIO()
        self.figure.savefig(drawn, format="png", dpi=DPI)
        width, height = (round(side * SHOWN_DPI) for side in self.figure.get_size_inches())
        return drawn.getvalue(), {"width": width, "height": height}

    def __repr__(self) -> str:
        width, height = self.figure.get_size_inches()
        return f"Picture({self.title!r}, {width:.3g} x {height:.3g} inches)"


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of so many inches, laid out so that nothing is cut off.

    Raises:
        CaptureError: matplotlib is not installed; says how to get it.
    """
    figures: Any = part_of_matplotlib("figure")
    made: Figure = figures.Figure(figsize=(width, height), layout="constrained")
    return made


def part_of_matplotlib(module: str) -> Any:
    """Return a module of matplotlib, loaded when the first picture is drawn.

    Raises:
        CaptureError: it is not installed; says how to get it.
    """
    try:
        return import_module(f"matplotlib.{module}")
    except ImportError as exc:
        raise CaptureError(
            "Pictures are drawn by matplotlib, which is not installed. "
            'Install it with: pip install "lazycache[view]"'
        ) from exc
