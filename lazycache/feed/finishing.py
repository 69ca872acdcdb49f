"""From stored values to what the caller asked for: device, norm, dtype, one tensor of a stack."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from lazycache.errors import SelectionError

if TYPE_CHECKING:
    from lazycache.feed.norms import Norm


@dataclass(frozen=True, slots=True, eq=False)
class Finish:
    """What is done to the values of a group, site by site."""

    norms: Sequence[Norm | Callable[[torch.Tensor], torch.Tensor] | None]
    """One for each site."""
    dtype: torch.dtype | None
    """What is handed out; None: as it comes."""
    device: torch.device | None
    """Where it is handed out; None: where it is."""
    stacked: bool
    """Whether the sites become one tensor, [rows, sites, *row]."""

    def __call__(self, values: Sequence[torch.Tensor]) -> Finished:
        """Return the values as asked for; on a GPU, they may still be on their way."""
        if self.device is None or self.device.type != "cuda":
            return Finished(self._made([self._moved(value) for value in values]), None)
        stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]  # as torch has it
        # values that are on a device already were made on the stream of this thread
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            pinned = [v.pin_memory() if v.device.type == "cpu" else v for v in values]
            made = self._made([self._moved(value) for value in pinned])
            done = stream.record_event()
        # the thread that made them waits, not the one that trains: pinned memory may go then
        done.synchronize()
        return Finished(made, done)

    def dtype_of(self, place: int, dtype: torch.dtype) -> torch.dtype:
        """Return the dtype that values of a site of `dtype` are handed out in."""
        if self.dtype is not None:
            return self.dtype
        # statistics are numbers of float32, and so is what they are applied to
        one = self.norms if self.stacked else (self.norms[place],)
        return dtype if all(norm is None for norm in one) else torch.float32

    def _moved(self, value: torch.Tensor) -> torch.Tensor:
        return value if self.device is None else value.to(self.device, non_blocking=True)

    def _made(self, values: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        made = [self._one(n, value) for n, value in enumerate(values)]
        return [torch.stack(made, dim=1)] if self.stacked else made

    def _one(self, place: int, value: torch.Tensor) -> torch.Tensor:
        norm, dtype = self.norms[place], self.dtype_of(place, value.dtype)
        if norm is None:
            return value.to(dtype)
        from lazycache.feed.norms import Norm

        if isinstance(norm, Norm):
            return norm(value, dtype=dtype)
        found = norm(value)
        if not isinstance(found, torch.Tensor) or found.shape[:1] != value.shape[:1]:
            got = list(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
            raise SelectionError(
                f"the function that norm= names gave {got} for {len(value)} rows: it has to give a "
                f"tensor with a row for each, [{len(value)}, ...]. Rows are chosen by where=."
            )
        return found.to(dtype)


@dataclass(frozen=True, slots=True, eq=False)
class Finished:
    """Values that are made, or are being made on a stream of a GPU."""

    values: list[torch.Tensor]
    """Of each site, or of the stack."""
    done: torch.cuda.Event | None
    """When they are made; None: they are."""

    def get(self) -> list[torch.Tensor]:
        """Return the values for use on the current stream."""
        if self.done is not None:
            current = torch.cuda.current_stream(self.values[0].device)
            current.wait_event(self.done)
            for value in self.values:
                value.record_stream(current)
        return self.values
