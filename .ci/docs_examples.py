# ruff: noqa: INP001  # griffe loads it by its path
"""An extension of griffe: our heading is `Example:`, which it would show as text, not as code."""

from typing import Any

import griffe


class Examples(griffe.Extension):
    """Names the section as griffe does, so that doctests are shown as code."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename the heading of one docstring."""
        if obj.docstring is not None:
            text = obj.docstring.value
            obj.docstring.value = text.replace("\nExample:\n", "\nExamples:\n")
