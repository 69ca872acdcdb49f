"""What a user of torch expects a tensor to answer to, as methods of lazy tensors."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Self, cast

import torch

from lazycache.cache.memory.loading import Loadable, within_budget
from lazycache.errors import SelectionError

if TYPE_CHECKING:
    from lazycache.cache.memory.lazy_base import LazyBase


_Device = int | str | torch.device | None


class Conversions:
    """Other dtypes and devices, by torch's names. As `.to`: lazy, nothing is read."""

    __slots__ = ()

    def cpu(self) -> Self:
        """Return it to be loaded to the memory of this machine; as `.to("cpu")`."""
        return self._as("cpu")

    def cuda(self, device: _Device = None) -> Self:
        """Return it to be loaded to a CUDA device: `.to("cuda")`; see `to`."""
        if device is None or isinstance(device, (str, torch.device)):
            return self._as(device or "cuda")
        return self._as(torch.device("cuda", device))

    def double(self) -> Self:
        """Return it in float64; as `.to(torch.float64)`. So are the others of this kind.

        Example:
            >>> from lazycache.samples import small_cache
            >>> small_cache()["resid_out_0"].half().dtype
            torch.float16
        """
        return self._as(torch.float64)

    def half(self) -> Self:
        """Return it in float16."""
        return self._as(torch.float16)

    def bfloat16(self) -> Self:
        """Return it in bfloat16."""
        return self._as(torch.bfloat16)

    def long(self) -> Self:
        """Return it in int64."""
        return self._as(torch.int64)

    def float(self) -> Self:
        """Return it in float32."""
        return self._as(torch.float32)

    def int(self) -> Self:
        """Return it in int32."""
        return self._as(torch.int32)

    def bool(self) -> Self:
        """Return it as bools."""
        return self._as(torch.bool)

    def _as(self, target: Any) -> Self:
        converted: Self = cast("Any", self).to(target)
        return converted


class TorchNames(Conversions):
    """Sizes, conversions, and torch's other methods, which load within the budget."""

    __slots__ = ()

    def size(self, dim: int | None = None) -> torch.Size | int:
        """Return `shape`, or its entry `dim`. Reads nothing of rows that have one width.

        Raises:
            SelectionError: there is no such dimension.

        Example:
            >>> from lazycache.samples import small_cache
            >>> small_cache()["resid_out_0"].size(-1)
            2
        """
        shape = _loadable(self).shape
        if dim is None:
            return shape
        if not -len(shape) <= dim < len(shape):
            raise SelectionError(f"dimension {dim} is out of range: there are {len(shape)}.")
        return shape[dim]

    def dim(self) -> int:
        """Return `ndim`."""
        return len(_loadable(self).shape)

    def numel(self) -> int:
        """Return how many values are selected, padding not counted."""
        x = _loadable(self)
        return x.nbytes // x.dtype.itemsize

    def element_size(self) -> int:
        """Return the bytes of a value."""
        return _loadable(self).dtype.itemsize

    def is_floating_point(self) -> bool:
        """Whether values are floats."""
        return _loadable(self).dtype.is_floating_point

    @property
    def is_cuda(self) -> bool:
        """Whether a load returns a tensor on a CUDA device."""
        return cast("LazyBase", self).device.type == "cuda"

    @property
    def requires_grad(self) -> bool:
        """False: what is stored was detached. A tensor that was loaded may be told to."""
        return False

    def clone(self) -> Self:
        """Return it: a lazy tensor never changes."""
        return self

    def detach(self) -> Self:
        """Return it: what is stored has no gradient."""
        return self

    def contiguous(self) -> Self:
        """Return it: a load returns a tensor that is laid out as its shape says."""
        return self

    def tolist(self) -> Any:
        """Read the selection as lists of lists of numbers; of ragged examples as long as each is.

        Raises:
            MemoryBudgetError: the values, in their dtype, are larger than the budget.

        Example:
            >>> from lazycache.samples import small_cache
            >>> small_cache()["resid_out_0"][:, :, 0].tolist()
            [[0.0, 2.0], [4.0, 6.0, 8.0], [10.0]]
        """
        x = _within_budget(self, what="a list of it")
        if x.is_ragged:
            return [entry.load().tolist() for entry in cast("Any", x)]
        return x.load().tolist()

    def __dlpack__(self, **options: Any) -> Any:
        # of a load of its own: whoever asks may write to it
        return _within_budget(self, what="a view of it").load().__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[Any, Any]:
        device = cast("LazyBase", self).device
        if device.type == "cpu":
            return (1, 0)  # kDLCPU, as numpy compares it
        kind, number = torch.empty(0, device=device).__dlpack_device__()
        return (kind, number)

    @property
    def T(self) -> torch.Tensor:  # noqa: N802  # torch's name
        """Read the selection, within the budget; its dimensions in reverse order."""
        values = _within_budget(self, what="its transpose").load()
        return values.permute(*reversed(range(values.ndim)))

    @property
    def mT(self) -> torch.Tensor:  # noqa: N802  # torch's name
        """Read the selection, within the budget; its last two dimensions swapped."""
        return _within_budget(self, what="its transpose").load().mT

    if not TYPE_CHECKING:  # a misspelt name is an error to a type checker

        def __getattr__(self, name: str) -> Any:
            """Return torch's method of this name: called, it loads within the budget."""
            method = None if name.startswith("_") else getattr(torch.Tensor, name, None)
            if not callable(method):
                raise AttributeError(  # noqa: TRY004  # as hasattr expects
                    f"a lazy tensor has no {name!r}; x.load() is a torch.Tensor."
                )
            if name.endswith("_"):
                raise AttributeError(
                    f"a lazy tensor never changes and has no {name!r}: x.load().{name}(...) "
                    "changes a tensor of your own."
                )
            return partial(_call, self, method)


def _call(x: Any, method: Any, /, *args: Any, **kwargs: Any) -> Any:
    return type(x).__torch_function__(method, (type(x),), (x, *args), kwargs)


def _loadable(x: object) -> Loadable:
    return cast("Loadable", x)


def _within_budget(x: object, *, what: str) -> Loadable:
    within_budget([_loadable(x)], what=what)
    return _loadable(x)
