"""The error tree: every error that lazycache raises on purpose.

::

    LazycacheError
    ├── DatasetNotFoundError (FileNotFoundError)   no dataset at this address
    ├── DatasetExistsError   (FileExistsError)     the target already holds a dataset or other files
    ├── SiteNotFoundError    (KeyError)            a name that matches no site; lists the nearest
    ├── SelectionError       (IndexError)          an index, slice or mask that cannot be applied
    ├── MemoryBudgetError    (MemoryError)         a read larger than the budget; says the size
    ├── UnsupportedDtypeError (TypeError)          a dtype that cannot be stored exactly
    ├── NoDatasetError       (AttributeError)      asked of a cache that is not over one dataset
    ├── CaptureError         (RuntimeError)        the model, the hooks or the batch do not fit
    ├── StorageError         (OSError)             the store failed: disk full, no permission, ...
    │   ├── CorruptShardError                      bytes differ from what the log recorded
    │   └── CommitConflictError                    another writer changed what this commit needs
    ├── FormatVersionError   (ValueError)          written by a newer lazycache
    ├── ReadOnlyError        (PermissionError)     a write through something that only reads
    └── QueryError           (ValueError)          SQL or a query that cannot be answered

Each also is the builtin that callers already catch. A message says what was asked, what is there
(the nearest names, the sizes) and what to do.
"""

from collections.abc import Iterable
from difflib import get_close_matches

from lazycache.plain_text import in_lines


class LazycacheError(Exception):
    """Base of every error raised on purpose by lazycache."""

    def __str__(self) -> str:
        """Return the message; what a terminal would obey in it, of a dataset, is spelled out."""
        return in_lines(super().__str__())


class DatasetNotFoundError(LazycacheError, FileNotFoundError):
    """There is no dataset at the address that was given."""


class DatasetExistsError(LazycacheError, FileExistsError):
    """The target already holds a dataset, or files that are not one."""


class SiteNotFoundError(LazycacheError, KeyError):
    """A name or pattern matches no site."""

    def __str__(self) -> str:
        """Return the message itself: `KeyError` would show it quoted and escaped."""
        return in_lines(str(self.args[0])) if self.args else ""


class SelectionError(LazycacheError, IndexError):
    """An index, slice or mask cannot be applied to this lazy tensor."""


class MemoryBudgetError(LazycacheError, MemoryError):
    """A read would need more memory than the budget allows."""


class UnsupportedDtypeError(LazycacheError, TypeError):
    """A dtype that cannot be stored bit for bit, or that the target cannot hold."""


class NoDatasetError(LazycacheError, AttributeError):
    """What one dataset has was asked of a cache in memory, or of one that joins several."""


class CaptureError(LazycacheError, RuntimeError):
    """The model, its hooks or a batch do not fit the capture that was asked for."""


class StorageError(LazycacheError, OSError):
    """The store failed: disk full, no permission, server error, deadline passed."""


class CorruptShardError(StorageError):
    """Bytes of a shard or log record differ from what was recorded when they were written."""


class CommitConflictError(StorageError):
    """Another writer committed something that this commit cannot live beside."""


class FormatVersionError(LazycacheError, ValueError):
    """The dataset was written in a newer format than this version reads."""


class ReadOnlyError(LazycacheError, PermissionError):
    """A write through something that only reads."""


class QueryError(LazycacheError, ValueError):
    """A query that cannot be answered as it stands."""


def nearest(name: str, names: Iterable[str], *, limit: int = 5) -> str:
    """Return the end of an error message that offers the nearest of `names`.

    Example:
        >>> nearest("resid_ot_3", ["resid_out_3", "embed"])
        'Nearest: resid_out_3.'
        >>> nearest("x", [])
        'There are none.'
    """
    known = list(dict.fromkeys(names))
    if not known:
        return "There are none."
    close = get_close_matches(name, known, n=limit, cutoff=0.5)
    if close:
        return f"Nearest: {', '.join(close)}."
    shown = ", ".join(known[:limit])
    return f"There are: {shown}{', ...' if len(known) > limit else ''}."
