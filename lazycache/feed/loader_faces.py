"""What a loader gives, in words and as HTML. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lazycache.faces.html import Html, card, facts, size
from lazycache.feed.order import BLOCKS, ROWS

if TYPE_CHECKING:
    from lazycache.feed.loader import Loader
    from lazycache.feed.order import Order


def in_words(order: Order) -> str:
    """Return in which order rows come."""
    if order.kind == ROWS:
        return "every row shuffled"
    if order.kind != BLOCKS:
        return "in storage order"
    return f"blocks of {order.block_rows:,} rows, shuffled in windows of {order.window_rows:,}"


def as_html(loader: Loader, order: Order, nbytes: int) -> Html:
    """Return what a loader gives, for a notebook.

    Args:
        loader: The loader.
        order: Of its rows.
        nbytes: Bytes of an epoch.
    """
    ranks = f"{loader.rank} of {loader.world_size}" if loader.world_size > 1 else None
    said = [
        ("rows", loader.rows),
        ("batches", f"{len(loader):,} of {loader.batch_size:,}"),
        ("bytes", size(nbytes)),
        ("rank", ranks),
        ("order", in_words(order)),
    ]
    return card(", ".join((*loader.sites, *loader.columns)), facts(said), kind="Loader")
