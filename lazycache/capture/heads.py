"""How heads are cut out of what a projection returns: fused, interleaved or grouped. Pure torch."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class HeadShape:
    """The heads of one attention block."""

    heads: int
    """Query heads."""
    kv_heads: int
    """Heads of keys and values; each is read by `heads // kv_heads` query heads."""
    d_head: int
    """Units of one head."""


@dataclass(frozen=True, slots=True)
class Cut:
    """One way to see heads in a tensor, for one model."""

    kind: str
    """`heads`, `kv_heads`, `concat.q|k|v`, `per_head.q|k|v`, `grouped.q|k|v` or `pattern`."""
    shape: HeadShape
    """The heads of the model."""

    def __str__(self) -> str:
        """Return it as provenance says it."""
        return f"{self.kind} {self.shape.heads}/{self.shape.kv_heads}x{self.shape.d_head}"


def cut_heads(values: torch.Tensor, cut: Cut) -> torch.Tensor:
    """Return the heads in what a module gave: [..., units] to [..., heads, d_head]; a view.

    - `heads`, `kv_heads`: units are heads x d_head.
    - `concat.*`: units are all queries, then all keys, then all values.
    - `per_head.*`: units are heads x (query, key, value) x d_head.
    - `grouped.*`: units are kv heads x (their queries, key, value) x d_head.
    - `pattern`: [batch, heads, query, key] stays as it is.

    Example:
        >>> shape = HeadShape(heads=2, kv_heads=2, d_head=3)
        >>> cut_heads(torch.zeros(5, 18), Cut("concat.k", shape)).shape
        torch.Size([5, 2, 3])
    """
    heads, kv, size = cut.shape.heads, cut.shape.kv_heads, cut.shape.d_head
    lead = values.shape[:-1]
    kind, _, part = cut.kind.partition(".")
    if kind == "pattern":
        return values
    if kind in ("heads", "kv_heads"):
        return values.reshape(*lead, heads if kind == "heads" else kv, size)
    if kind == "concat":
        sizes = {"q": heads, "k": kv, "v": kv}
        parts = values.split([n * size for n in sizes.values()], dim=-1)
        return parts["qkv".index(part)].reshape(*lead, sizes[part], size)
    if kind == "per_head":
        return values.reshape(*lead, heads, 3, size)[..., "qkv".index(part), :]
    assert kind == "grouped", f"no way to cut {cut.kind!r}"
    per = heads // kv
    grouped = values.reshape(*lead, kv, per + 2, size)
    if part == "q":
        return grouped[..., :per, :].reshape(*lead, heads, size)
    return grouped[..., per if part == "k" else per + 1, :]
