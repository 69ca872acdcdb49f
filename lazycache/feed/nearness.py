"""Whether scattered rows of a tensor are cheap to read: it is in memory, or mapped files."""

from __future__ import annotations

from lazycache.cache.computing.derived_reader import DerivedReader
from lazycache.cache.computing.operands import RowsOf
from lazycache.cache.computing.program import leaves, steps
from lazycache.cache.joined.joined_reader import JoinedReader
from lazycache.cache.reading.reader import Reader
from lazycache.cache.tensor.lazy_tensor import LazyTensor


def is_near(x: LazyTensor) -> bool:
    """Return whether reading a row of a tensor asks no server. Reads nothing."""
    reader = x.source.reader
    if isinstance(reader, Reader):
        return reader.is_near(x.site)
    if isinstance(reader, JoinedReader):
        return all(map(is_near, reader.parts))
    if isinstance(reader, DerivedReader):
        parts = leaves(steps(reader.root))
        return all(is_near(part.x) for part in parts if isinstance(part, RowsOf))
    return True
