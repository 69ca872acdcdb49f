"""The dataset that the pages are about, as they ask it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

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
    sql_turn: threading.Lock = field(default_factory=threading.Lock)
    """Held by the one query of a person's own that runs: DuckDB gives each all the cores."""
