"""What lazy tensors have in common, ragged or not: a site, a dtype and a device to read it as."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Self

import torch

from lazycache.cache.reading.source import Source, targets
from lazycache.codec.dtypes import by_name
from lazycache.faces.html import card, dtype_name, facts, size


class LazyBase:
    """A selection of a source, and the dtype and device of what a load returns."""

    __slots__ = ("_device", "_dtype", "_source")

    def __init__(
        self, source: Source, dtype: torch.dtype | None, device: torch.device | None
    ) -> None:
        self._source = source
        self._dtype = dtype
        self._device = device

    @property
    def source(self) -> Source:
        """Where it reads. For this package."""
        return self._source

    @property
    def site(self) -> str:
        """Name of the site."""
        return self._source.spec.name

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of what a load returns."""
        return self._dtype or by_name(self._source.spec.dtype).torch

    @property
    def device(self) -> torch.device:
        """Device of what a load returns."""
        return self._device or torch.device("cpu")

    @property
    def budget_bytes(self) -> int:
        """What an implicit load (a torch function, `np.asarray`) may take. For this package."""
        return self._source.budget_bytes

    def to(
        self,
        *args: torch.dtype | torch.device | str,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Self:
        """Return it with another dtype, device, or both; converted when it is loaded.

        As often as was said: `x.bool().float()` is ones and zeros, as in torch.

        Cost: reads nothing.

        Raises:
            SelectionError: an argument is neither; a dtype is `torch.float16`, not `"float16"`.
            UnsupportedDtypeError: a dtype that datasets do not hold.

        Example:
            >>> from lazycache.samples import small_cache
            >>> small_cache()["resid_out_0"].to(torch.float64)[0, 0].load()
            tensor([0., 1.], dtype=torch.float64)
        """
        to_dtype, to_device = targets(args, dtype, device)
        return self._read_as(to_dtype or self._dtype, to_device or self._device)

    @abstractmethod
    def _read_as(self, dtype: torch.dtype | None, device: torch.device | None) -> Self:
        """Return the same selection, read as another dtype and on another device."""

    @abstractmethod
    def _selected(self) -> dict[str, Any]:
        """Return the selection as what `_restored` takes: numbers, no values."""

    @classmethod
    @abstractmethod
    def _restored(cls, source: Source, selected: dict[str, Any]) -> Self:
        """Return the selection of a source that `_selected` described."""

    def __reduce__(self) -> tuple[Any, ...]:
        # pickled by address: no value is written, the dataset is opened where it is unpickled
        return _restored, (type(self), self._source, self._selected(), self._dtype, self._device)

    def __reduce_ex__(self, protocol: object) -> tuple[Any, ...]:
        return self.__reduce__()

    def __copy__(self) -> Self:
        # it never changes: a copy shares what is open
        return self._read_as(self._dtype, self._device)

    def __deepcopy__(self, memo: object) -> Self:
        return self._read_as(self._dtype, self._device)

    @abstractmethod
    def _extent(self) -> tuple[list[str], int | None]:
        """Return the shape as text, and the bytes; None where they would have to be read."""

    def __repr__(self) -> str:
        """Say shape, dtype, size and where; never values. Reads nothing."""
        shape, nbytes = self._extent()
        device = (f"device={self.device}",) if self._device else ()
        counted = () if nbytes is None else (f"{nbytes:,} bytes",)
        dtype = dtype_name(self.dtype)
        said = (f"shape=({', '.join(shape)})", f"dtype={dtype}", *device, *counted)
        where = self._source.url
        return f"{type(self).__name__}({self._title}: {', '.join((*said, where))})"

    def _repr_html_(self) -> str:
        """Say the same in a notebook. All text is escaped. Reads nothing."""
        shape, nbytes = self._extent()
        said = facts(
            [
                ("shape", f"({', '.join(shape)})"),
                ("dtype", dtype_name(self.dtype)),
                ("device", self.device if self._device else None),
                ("bytes", None if nbytes is None else size(nbytes)),
                ("in", self._source.url),
            ]
        )
        return card(self._title, said, kind=type(self).__name__)

    @property
    def _title(self) -> str:
        return str(getattr(self._source.reader, "title", self.site))


def _restored(
    cls: type[LazyBase],
    source: Source,
    selected: dict[str, Any],
    dtype: torch.dtype | None,
    device: torch.device | None,
) -> LazyBase:
    return cls._restored(source, selected)._read_as(dtype, device)  # noqa: SLF001  # own class
