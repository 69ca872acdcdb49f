"""The one copy to the host: at once from the CPU; from a GPU on a stream of its own, unwaited for.

A model on a GPU runs ahead of the host. Whoever reads a value there makes the host wait until the
GPU has caught up, and the GPU then waits for the host. So nothing here waits: values, token ids and
counters are copied to pinned memory beside the model's own work, each copy ends with an event, and
`Staged.wait` is for another thread, later. What a model does to a tensor after the hook stays its
own: what is copied late is first copied on the GPU, where that costs next to nothing.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from lazycache.capture.device.host_memory import HostMemory
from lazycache.capture.values.convert import new_memory, shares_memory

CPU = torch.device("cpu")

ON_DEVICE_BYTES = 512 << 20
"""Bytes that may wait on one device for their copy: tens of milliseconds of a PCIe link."""


class Event(Protocol):
    """The end of a copy, as `torch.cuda.Event` has it."""

    def query(self) -> bool:
        """Whether it is over."""
        ...

    def synchronize(self) -> None:
        """Wait for it."""
        ...


class Link(Protocol):
    """The way from one device to the host and back that nobody waits for."""

    def fetch(self, values: torch.Tensor) -> tuple[torch.Tensor, Event]:
        """Begin to copy contiguous values, which nobody changes any more, to the host.

        Returns:
            The tensor on the host, and when its contents are right.
        """
        ...

    def send(self, values: torch.Tensor) -> torch.Tensor:
        """Return values of the host on the device, for whatever its current stream does next."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Staged:
    """A tensor on its way to the host."""

    tensor: torch.Tensor
    """On the CPU, contiguous, owned by nobody else. Its shape and dtype are right from the start,
    its contents after `wait`."""
    event: Event | None = None
    """The end of its copy; None if it is there."""

    def wait(self) -> torch.Tensor:
        """Return the tensor when its contents are right."""
        if self.event is not None:
            self.event.synchronize()
        return self.tensor


class Staging:
    """Copies tensors to the host. May be used from several threads.

    Args:
        link_of: The way to and from a device; None where it has none and copies are waited for.
        limit: Bytes that may wait on one device. The next copy then waits for the oldest one: the
            link is what limits the run, and the device's memory must not fill.

    Example:
        >>> x = torch.ones(2)
        >>> staged = Staging().copy(x, source=x)
        >>> _ = x.zero_()
        >>> staged.wait()
        tensor([1., 1.])
    """

    def __init__(
        self,
        link_of: Callable[[torch.device], Link | None] | None = None,
        *,
        limit: int = ON_DEVICE_BYTES,
    ) -> None:
        self._link_of = cuda_link if link_of is None else link_of
        self._limit = limit
        self._lanes: dict[torch.device, _Lane | None] = {}
        self._memory = HostMemory()
        self._lock = threading.Lock()

    def copy(self, values: torch.Tensor, *, source: torch.Tensor | None) -> Staged:
        """Copy values, now: what happens to `source` later does not reach the copy.

        Cost: on the CPU one copy, none if `values` own their memory already. On a GPU a copy there,
        again unless they own it, and one to the host that is not waited for.

        Args:
            values: What to copy.
            source: The tensor that others may change, if `values` are it or may be a view of it;
                None: nobody has them but the caller, who lets go of them.
        """
        lane = self._lane(values.device)
        if lane is None:
            return Staged(self._host(values, source))
        own = values.resolve_neg().contiguous()
        if source is not None and shares_memory(own, source):
            own = own.clone(memory_format=torch.contiguous_format)
        return lane.fetch(own)

    def _host(self, values: torch.Tensor, source: torch.Tensor | None) -> torch.Tensor:
        own = source is None or not shares_memory(values, source)
        if own and values.device == CPU and values.is_contiguous():
            return values
        return self.empty(values.shape, values.dtype, CPU).copy_(values)

    def empty(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """Return memory to gather values into before they are copied.

        On the CPU it is what the sink gets in the end, and is used again when that lets go of it.

        Example:
            >>> Staging().empty([2, 3], torch.float32, CPU).shape
            torch.Size([2, 3])
        """
        if device == CPU:
            return self._memory.empty(shape, dtype)
        return new_memory(shape, dtype, device)

    def send(self, values: torch.Tensor, device: torch.device) -> torch.Tensor:
        """Return a tensor of the host (indices, masks) on a device, without waiting.

        Example:
            >>> Staging().send(torch.tensor([1]), torch.device("cpu"))
            tensor([1])
        """
        lane = self._lane(device)
        return values.to(device) if lane is None else lane.link.send(values)

    def _lane(self, device: torch.device) -> _Lane | None:
        with self._lock:
            if device not in self._lanes:
                link = self._link_of(device)
                self._lanes[device] = None if link is None else _Lane(link, self._limit)
            return self._lanes[device]


class _Lane:
    """What is on its way from one device: copies end in the order in which they begin."""

    def __init__(self, link: Link, limit: int) -> None:
        self.link = link
        self._limit = limit
        self._flying: deque[tuple[Event, int]] = deque()
        self._nbytes = 0
        self._lock = threading.Lock()

    def fetch(self, values: torch.Tensor) -> Staged:
        with self._lock:
            self._settle(room=values.nbytes)
            host, event = self.link.fetch(values)
            self._flying.append((event, values.nbytes))
            self._nbytes += values.nbytes
        return Staged(host, event)

    def _settle(self, *, room: int) -> None:
        """Forget what has landed; wait for the oldest until there is room."""
        while self._flying:
            event, nbytes = self._flying[0]
            if self._nbytes + room > self._limit:
                event.synchronize()
            elif not event.query():
                return
            self._flying.popleft()
            self._nbytes -= nbytes


class CudaLink:
    """Copies on a stream of their own, to and from pinned memory.

    Pinned memory is torch's: its allocator takes a block back when the last view of the tensor is
    gone and every copy into it has ended, and hands it out again.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def fetch(self, values: torch.Tensor) -> tuple[torch.Tensor, Event]:
        """Begin a copy after what the current stream has done so far."""
        host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        self._side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._side):
            host.copy_(values, non_blocking=True)
        values.record_stream(self._side)  # its memory is not reused before the copy has ended
        # who waits for it sleeps: the model needs the core
        event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        event.record(self._side)
        return host, event

    def send(self, values: torch.Tensor) -> torch.Tensor:
        """Copy on the current stream, through pinned memory: other memory would be waited for."""
        return values.pin_memory().to(self._device, non_blocking=True)


def cuda_link(device: torch.device) -> Link | None:
    """Return the way from a CUDA (or ROCm) device; None for every other.

    Example:
        >>> cuda_link(torch.device("cpu")) is None
        True
    """
    return CudaLink(device) if device.type == "cuda" else None
