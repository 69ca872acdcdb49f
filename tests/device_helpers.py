"""A device whose copies to the host arrive late, without a device."""

import threading

import torch

WRONG = 0xAB
"""Every byte of a tensor on the host that has not arrived."""


class LateEvent:
    """Passes when its link says so; remembers who waited for it."""

    def __init__(self, link):
        self.link, self.passed = link, threading.Event()

    def query(self) -> bool:
        return self.passed.is_set()

    def synchronize(self) -> None:
        self.link.waited.append(threading.current_thread())
        if self.link.on_demand:
            self.link.land(self)
        assert self.passed.wait(60), "nothing lands"


class LateLink:
    """Values are read, and appear on the host, only when they land: in order, as on a stream.

    With `on_demand` they land when somebody waits for them, else when the test says `land()`.
    """

    def __init__(self, *, on_demand: bool = True):
        self.on_demand = on_demand
        self.flying, self.waited, self.sent = [], [], 0
        self.most = 0
        """Most bytes that were on the device at once, waiting for their copy."""
        self._lock = threading.Lock()

    def fetch(self, values):
        assert values.is_contiguous()
        host = torch.empty_like(values)
        host.view(-1).view(torch.uint8).fill_(WRONG)
        event = LateEvent(self)
        with self._lock:
            self.flying.append((event, values, host))
            self.most = max(self.most, sum(v.nbytes for _, v, _ in self.flying))
        return host, event

    def send(self, values):
        self.sent += 1
        return values.clone()

    def land(self, until=None) -> None:
        """Let everything land, or everything up to an event."""
        with self._lock:
            while self.flying and not (until is not None and until.query()):
                event, values, host = self.flying.pop(0)
                host.copy_(values)
                event.passed.set()
