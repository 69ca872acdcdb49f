"""What a lazy tensor refers to: one site of one snapshot, a dtype and a device to read it as."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lazycache.cache.reading.reader import Reader
from lazycache.cache.reading.row_reader import RowReader
from lazycache.cache.selecting.examples import ExampleMap
from lazycache.cache.selecting.selection import Dense, Grid, Lead
from lazycache.codec.dtypes import of_torch
from lazycache.errors import LazycacheError, SelectionError, StorageError
from lazycache.types import EXAMPLES, SiteSpec

if TYPE_CHECKING:
    from lazycache.cache.tables.row_origins import Origin


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """Where a lazy tensor reads: one site of one snapshot."""

    reader: RowReader
    """Reads its rows."""
    spec: SiteSpec
    """What a row is."""
    url: str
    """Where the dataset is, for people."""
    examples: Callable[[], ExampleMap]
    """Gives its examples; built when first asked for."""
    budget_bytes: int
    """What an implicit load (a torch function, `np.asarray`) may take."""
    called: Callable[[], ExampleMap] | None = None
    """Of a table of calls: gives the examples of the table whose rows were called; else None."""
    origins: Callable[[np.ndarray], Sequence[Origin]] | None = None
    """Tells of rows (int64[n]) which rows of which tables they are; None: of no table."""
    reopen: Callable[[], Any] | None = None
    """Opens the same snapshot in another process, for `.tensor(site)`: a function that can be
    pickled, with an address and a version, and no values. None: of what is not a dataset's."""

    def __reduce__(self) -> tuple[Any, ...]:
        if self.reopen is not None:
            return reopened, (self.reopen, self.spec.name, _fingerprint(self.examples()))
        remade = getattr(self.reader, "remade", None)
        if remade is not None:
            parts: tuple[Any, ...] = remade()
            return parts
        if isinstance(self.reader, Reader):
            raise not_pickled(f"site {self.spec.name!r}", f"lc.open({self.url!r})")
        known = (self.reader, self.spec, self.url, Fixed(self.examples()), self.budget_bytes)
        return Source, (*known, None, self.origins)

    def everything(self) -> Lead:
        """Return all rows: examples by positions, or one row per example."""
        examples = self.examples()
        if self.spec.table == EXAMPLES:
            return Dense(examples.absolute(range(examples.total)))
        return Grid(examples, range(len(examples)))


@dataclass(frozen=True, slots=True, eq=False)
class Fixed:
    """Gives examples that are there already."""

    examples: ExampleMap
    """What it gives."""

    def __call__(self) -> ExampleMap:
        """Return the examples."""
        return self.examples


def reopened(reopen: Callable[[], Any], site: str, fingerprint: int) -> Source:
    """Return the source of a site of a dataset that is opened here. For unpickling.

    Raises:
        StorageError: its examples are not those of the site that was pickled.
    """
    sites = reopen()
    source: Source = sites.tensor(site).source
    if _fingerprint(source.examples()) != fingerprint:
        raise StorageError(
            f"{site!r} of {source.url} has other examples here than where it was pickled: the "
            "dataset was replaced. Open it again and select anew."
        )
    return source


def _fingerprint(examples: ExampleMap) -> int:
    crc = 0
    for numbers in (examples.lengths, examples.logical, examples.stored):
        crc = zlib.crc32(numbers.tobytes(), crc)
    return crc


def target(arg: object) -> torch.dtype | torch.device:
    """Return what an argument of `LazyTensor.to` names.

    Raises:
        SelectionError: neither a dtype nor a device.
        UnsupportedDtypeError: a dtype that is not in the table.
    """
    if isinstance(arg, torch.dtype):
        return of_torch(arg).torch
    if isinstance(arg, str) and isinstance(getattr(torch, arg, None), torch.dtype):
        raise SelectionError(f"{arg!r} names no device; a dtype is given as torch.{arg}.")
    try:
        return torch.device(arg)  # type: ignore[call-overload, no-any-return]  # torch decides
    except (RuntimeError, TypeError) as exc:
        raise SelectionError(f"{arg!r} is neither a dtype nor a device.") from exc


def targets(
    args: tuple[object, ...], dtype: torch.dtype | None, device: torch.device | str | None
) -> tuple[torch.dtype | None, torch.device | None]:
    """Return the dtype and the device that the arguments of `.to` name; None for what they do not.

    Raises:
        SelectionError: an argument is neither, or there are several of one kind.
        UnsupportedDtypeError: a dtype that is not in the table.
    """
    chosen = [target(arg) for arg in (*args, dtype, device) if arg is not None]
    dtypes = [one for one in chosen if isinstance(one, torch.dtype)]
    devices = [one for one in chosen if isinstance(one, torch.device)]
    if any(arg is None for arg in args) or len(dtypes) > 1 or len(devices) > 1:
        raise SelectionError("x.to() takes one dtype, one device, or both.")
    return (*dtypes, None)[0], (*devices, None)[0]


def holds(dtype: torch.dtype, other: torch.dtype) -> bool:
    """Whether values of another dtype are what they were once they are converted to this one.

    Example:
        >>> holds(torch.float32, torch.bfloat16), holds(torch.float16, torch.bfloat16)
        (True, False)
    """
    if other in (dtype, torch.bool):
        return True
    if dtype == torch.bool or (other.is_floating_point and not dtype.is_floating_point):
        return False
    if other.is_floating_point:
        mine, theirs = torch.finfo(dtype), torch.finfo(other)
        return mine.eps <= theirs.eps and mine.max >= theirs.max
    whole = torch.iinfo(other)
    if dtype.is_floating_point:
        return max(-whole.min, whole.max) <= 2 / torch.finfo(dtype).eps
    return torch.iinfo(dtype).min <= whole.min and whole.max <= torch.iinfo(dtype).max


def not_pickled(what: object, opening: str) -> LazycacheError:
    """Return the error for pickling or copying what only refers to a dataset."""
    return LazycacheError(
        f"{what!r} reads from a dataset that is open here, and is neither pickled nor copied. Open "
        f"it where it is needed, {opening} (a worker that was forked may use it as it is), "
        "or pickle what .load() returns."
    )
