"""Names in the order that a person expects: `resid_out_2` before `resid_out_10`. Pure."""

from __future__ import annotations

import re

_NUMBER = re.compile(r"([0-9]+)")


def natural_key(name: str) -> tuple[tuple[str | int, ...], str]:
    """Return the key to sort a name by: its text parts as text, its numbers as numbers.

    Example:
        >>> sorted(["mlp_10", "mlp_2", "embed"], key=natural_key)
        ['embed', 'mlp_2', 'mlp_10']
    """
    # text and digits alternate, so that like is always compared with like
    parts = _NUMBER.split(name)
    return tuple(int(part) if i % 2 else part for i, part in enumerate(parts)), name
