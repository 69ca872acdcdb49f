"""Which generation each thread is in: where one begins, what continues it, and when it is over."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lazycache.capture.forward_pass import ForwardPass
from lazycache.capture.generation.continuation import asks_for_cache, refuse_continuation
from lazycache.capture.generation.generate_call import GenerateCall
from lazycache.capture.generation.generation import Generation
from lazycache.capture.generation.step_mask import feeds_tokens
from lazycache.capture.values.select import Chosen
from lazycache.capture.values.site_plan import SitePlan
from lazycache.errors import CaptureError


@dataclass(frozen=True, slots=True)
class Owner:
    """What generations ask of the recorder that they belong to."""

    listens: Callable[[], bool]
    """Whether what this thread runs is recorded."""
    record: Callable[[ForwardPass, int], None]
    """Takes a finished generation, and of how many passes it was made."""
    discard: Callable[[int], None]
    """Hears of passes that are lost, and that what was said of the next one is used up."""


class _Thread(threading.local):
    def __init__(self) -> None:
        self.call: GenerateCall | None = None
        """The call of `generate` that it is in."""
        self.current: Generation | None = None
        """What its passes belong to."""


class Generations:
    """Follows the calls of `generate` and the loops over a cache of all threads.

    A loop is over with the next forward pass of its thread that does not continue it, when it is
    ended, or at the end of the capture. What is broken off is not recorded.

    Args:
        plans: The sites.
        positions: Which tokens become rows.
        why_not: What keeps generations from being followed at all; None: nothing.
        owner: The recorder.
    """

    def __init__(
        self,
        plans: Mapping[str, SitePlan],
        *,
        positions: Chosen,
        why_not: str | None,
        owner: Owner,
    ) -> None:
        self._plans = plans
        self._positions = positions
        self._why_not = why_not
        self._owner = owner
        self._thread = _Thread()
        self._loops: list[Generation] = []
        self._lock = threading.Lock()

    def current(self) -> Generation | None:
        """Return the generation that the pass of this thread belongs to, if to one."""
        return self._thread.current

    def of(self, named: Mapping[str, Any]) -> Generation | None:
        """Return the generation that a forward pass belongs to, by its arguments; None: to none.

        Raises:
            CaptureError: it continues what was not seen; what it does not continue is over, and
                does not fit.
        """
        thread = self._thread
        if thread.current is not None:
            if thread.call is not None or thread.current.is_continued_by(named):
                return thread.current
            self.end()
        begins_loop = self._why_not is None and asks_for_cache(named) and feeds_tokens(named)
        if thread.call is None and not begins_loop:
            refuse_continuation(named)
            return None
        thread.current = Generation(thread.call, positions=self._positions)
        if thread.call is None:
            with self._lock:
                self._loops.append(thread.current)
        return thread.current

    def end(self) -> None:
        """Record the loop of this thread, if there is one; a call of `generate` goes on."""
        if self._thread.call is None:
            self._finish(self._taken())

    def end_all(self) -> None:
        """Record the loops of all threads that are not in the middle of a forward pass."""
        with self._lock:
            loops = list(self._loops)
            self._loops.clear()
        for generation in loops:
            self._finish(generation)

    def drop(self) -> None:
        """Forget what this thread has generated: a forward pass of it failed."""
        generation = self._taken()
        if generation is not None:
            self._owner.discard(generation.passes)

    def _taken(self) -> Generation | None:
        """Return the generation of this thread, which it is no longer in."""
        generation, self._thread.current = self._thread.current, None
        with self._lock:
            self._loops = [loop for loop in self._loops if loop is not generation]
        return generation

    def _finish(self, generation: Generation | None) -> None:
        if generation is not None and generation.is_whole:
            self._owner.record(generation.finish(self._plans), generation.passes)

    def listens(self) -> bool:
        """Say whether what this thread runs is recorded."""
        return self._owner.listens()

    def generating(self) -> GenerateCall | None:
        """Return the call of `generate` that this thread is in."""
        return self._thread.call

    def generate_begins(self, call: GenerateCall) -> None:
        """Follow a call of `generate`.

        Raises:
            CaptureError: it is called by another one, or cannot be followed here.
        """
        if self._thread.call is not None:
            raise CaptureError(
                "generate was called inside generate, so there is no telling which tokens are rows "
                "of which. Pause the capture of the inner one, or generate outside of it."
            )
        if self._why_not is not None:
            raise CaptureError(
                f"generate cannot be captured here, for {self._why_not}. Generate outside the "
                "capture, then run the model once over the sequences that came out."
            )
        self.end()
        self._thread.call = call

    def generate_ends(self) -> None:
        """Record what was generated."""
        self._thread.call = None
        self._finish(self._taken())

    def generate_failed(self) -> None:
        """Forget what was generated."""
        self._thread.call = None
        generation = self._taken()
        self._owner.discard(0 if generation is None else generation.passes)
