"""What a name of another system means here: a kind of site, or none and what to read instead."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Meaning:
    """One of our kinds of site, or why there is none."""

    kind: str = ""
    """`resid_out`, `embed`; empty if nothing here is that."""
    instead: str = ""
    """What to read where nothing here is that; `{L}` and `{H}` stand for layer and head."""
    gradient: bool = False
    """Whether it is the gradient with respect to that site."""
