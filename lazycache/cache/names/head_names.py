"""Names of one head, `z_L1H3`, and of a layer, `values_L1`, as the stored sites they mean. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

HEADED = ("queries", "keys", "values", "pattern", "z", "head_out", "cross_pattern")
"""Kinds of site whose rows have a head for each entry of their first dimension."""

GROUPED = ("keys", "values")
"""Kinds that have a head for each group of query heads."""

_NUMBER = "0|[1-9][0-9]{0,8}"  # Python itself refuses to read a number of thousands of digits
_NAME = re.compile(
    r"(?P<prefix>encoder\.|decoder\.|)(?P<kind>[a-z]+(?:_[a-z]+)*)"
    rf"_L(?P<layer>{_NUMBER})(?:H(?P<head>{_NUMBER}))?(?P<grad>:grad)?"
)


@dataclass(frozen=True, slots=True)
class HeadName:
    """Such a name, taken apart."""

    prefix: str
    """`encoder.`, `decoder.` or nothing."""
    kind: str
    """`z`, `values`, ..."""
    layer: int
    """0-based."""
    head: int | None
    """0-based query head; None names the whole site."""
    grad: bool = False
    """Whether it is the gradient of it."""

    @property
    def site(self) -> str:
        """The stored site: `z_1`."""
        return self.of(self.kind) + (":grad" if self.grad else "")

    def of(self, kind: str) -> str:
        """Return the site of another kind of the same layer."""
        return f"{self.prefix}{kind}_{self.layer}"


def parse(name: str) -> HeadName | None:
    """Take a name apart; None if it is not one of these.

    Example:
        >>> parse("encoder.z_L1H3").site, parse("values_L1").site, parse("values_1")
        ('encoder.z_1', 'values_1', None)
    """
    match = _NAME.fullmatch(name)
    if match is None or (match["head"] is not None and match["kind"] not in HEADED):
        return None
    head = None if match["head"] is None else int(match["head"])
    return HeadName(match["prefix"], match["kind"], int(match["layer"]), head, bool(match["grad"]))
