"""How heads are cut out of what a projection returns: fused, interleaved or grouped. Pure torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lazycache.errors import CaptureError

CUTS = (
    "heads",
    "kv_heads",
    *(f"{layout}.{part}" for layout in ("concat", "per_head", "grouped") for part in "qkv"),
    "pattern",
)
"""All kinds of `Cut`."""

_DIMS_OF_PATTERN = 4


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
    """One of `CUTS`: `heads`, `kv_heads`, `concat.q|k|v`, `per_head.q|k|v`, `grouped.q|k|v` or
    `pattern`."""
    shape: HeadShape
    """The heads of the model."""

    def __str__(self) -> str:
        """Return it as provenance says it."""
        return f"{self.kind} {self.shape.heads}/{self.shape.kv_heads}x{self.shape.d_head}"

    @property
    def row(self) -> tuple[int, int]:
        """Shape of what it cuts out of one row: [heads, d_head], or [heads, -1] of a pattern."""
        if self.kind == "pattern":
            return self.shape.heads, -1
        queries = self.kind == "heads" or self.kind.endswith(".q")
        heads = self.shape.heads if queries else self.shape.kv_heads
        return heads, self.shape.d_head


def cut_heads(values: torch.Tensor, cut: Cut) -> torch.Tensor:
    """Return the heads in what a module gave: [..., units] to [..., heads, d_head].

    - `heads`, `kv_heads`: units are heads x d_head.
    - `concat.*`: units are all queries, then all keys, then all values.
    - `per_head.*`: units are heads x (query, key, value) x d_head.
    - `grouped.*`: units are kv heads x (their queries, key, value) x d_head.
    - `pattern`: [batch, heads, query, key] stays as it is.

    Cost: a view, but for `grouped.q`: queries of different kv heads do not lie side by side.

    Raises:
        CaptureError: the tensor has other units than the heads of the model make.

    Example:
        >>> shape = HeadShape(heads=2, kv_heads=2, d_head=3)
        >>> cut_heads(torch.zeros(5, 18), Cut("concat.k", shape)).shape
        torch.Size([5, 2, 3])
    """
    if cut.kind == "pattern":
        return _checked_pattern(values, cut)
    heads, kv, size = cut.shape.heads, cut.shape.kv_heads, cut.shape.d_head
    layout, _, part = cut.kind.partition(".")
    _check_units(values, cut)
    lead = values.shape[:-1]
    if layout in ("heads", "kv_heads"):
        return values.reshape(*lead, *cut.row)
    if layout == "concat":
        parts = torch.split(values, [heads * size, kv * size, kv * size], dim=-1)
        return parts["qkv".index(part)].reshape(*lead, *cut.row)
    if layout == "per_head":
        return values.reshape(*lead, heads, 3, size)[..., "qkv".index(part), :]
    assert layout == "grouped", f"no way to cut {cut.kind!r}"
    per = heads // kv
    grouped = values.reshape(*lead, kv, per + 2, size)
    if part == "q":
        return grouped[..., :per, :].reshape(*lead, heads, size)
    return grouped[..., per if part == "k" else per + 1, :]


def _check_units(values: torch.Tensor, cut: Cut) -> None:
    shape = cut.shape
    needed = {
        "heads": shape.heads * shape.d_head,
        "kv_heads": shape.kv_heads * shape.d_head,
        "per_head": 3 * shape.heads * shape.d_head,
    }.get(cut.kind.partition(".")[0], (shape.heads + 2 * shape.kv_heads) * shape.d_head)
    found = values.shape[-1] if values.ndim else 0
    if found != needed:
        raise CaptureError(
            f"A row has {found} units, but {cut} makes {needed}: the heads of the model are not "
            "where its family says. Capture the module by its path."
        )


def _checked_pattern(values: torch.Tensor, cut: Cut) -> torch.Tensor:
    if values.ndim != _DIMS_OF_PATTERN or values.shape[1] != cut.shape.heads:
        raise CaptureError(
            f"An attention pattern is [batch, {cut.shape.heads} heads, queries, keys]; here passes "
            f"{list(values.shape)}. This version of the model returns something else there."
        )
    return values


def usual_shape(config: Any) -> HeadShape | None:
    """Read the heads of a model from the attributes that configurations usually have.

    None if they do not say how many heads there are or how wide one is.

    Example:
        >>> from types import SimpleNamespace
        >>> usual_shape(SimpleNamespace(n_head=4, n_embd=32))
        HeadShape(heads=4, kv_heads=4, d_head=8)
    """
    heads = first_int(config, ("num_attention_heads", "n_head", "n_heads", "num_heads"))
    if not heads:
        return None
    size = first_int(config, ("head_dim", "d_kv"))
    width = model_width(config)
    if size is None and (width is None or width % heads):
        return None
    kv = first_int(config, ("num_key_value_heads", "num_kv_heads", "n_head_kv"))
    d_head = size if size is not None else (width or 0) // heads
    return HeadShape(heads, heads if kv is None else kv, d_head)


def model_width(config: Any) -> int | None:
    """Read the width of the residual stream from a configuration.

    Example:
        >>> from types import SimpleNamespace
        >>> model_width(SimpleNamespace(d_model=16))
        16
    """
    return first_int(config, ("hidden_size", "n_embd", "d_model", "dim"))


def first_int(config: Any, names: Sequence[str]) -> int | None:
    """Return the first of these attributes that is a number."""
    values = (getattr(config, name, None) for name in names)
    return next((v for v in values if isinstance(v, int) and not isinstance(v, bool)), None)
