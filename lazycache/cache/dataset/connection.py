"""What a dataset asks of the stage above, which answers SQL."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol


class Connection(Protocol):
    """What answers SQL over a snapshot: `lazycache.query.sql.connection.Connection`."""

    def sql(self, query: str, params: Sequence[Any] | Mapping[str, Any] | None = None) -> Any:
        """Return the result of one query."""
        ...

    def close(self) -> None:
        """Release the index."""
        ...


Connect = Callable[..., Connection]
"""Makes one of snapshot, reader and store, and of `kept`, where not all rows may be asked; given by
the front door, since queries are a stage above this one."""
