"""The dataset that the pages are about, as they ask it."""

from __future__ import annotations

from dataclasses import dataclass

from lazycache.mapping.activation_cache import ActivationCache
from lazycache.serve.limits import Limits


@dataclass(frozen=True, slots=True)
class Explorer:
    """One opened dataset, and how much a page may ask of it. Threads may share it."""

    cache: ActivationCache
    """The dataset."""
    url: str
    """Where it is, as it was given, without credentials."""
    limits: Limits
    """How much a question may take."""
