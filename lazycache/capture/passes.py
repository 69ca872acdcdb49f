"""What happens in a forward pass of a model that is recorded: begun, filled, ended, handed on.

Several threads may call the model at once: each has its own forward pass and annotation, and what
they share (ids, counters, the sink) changes under one lock, when a forward pass is over. With
gradients it is over when the last of them came, in a thread of autograd.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from lazycache.capture.device.delivery import Delivery
from lazycache.capture.forward_pass import ForwardPass
from lazycache.capture.generation.continuation import returned_cache
from lazycache.capture.generation.generation import per_pass
from lazycache.capture.generation.generations import Generations, Owner
from lazycache.capture.inputs.annotation import Annotation
from lazycache.capture.inputs.ledger import Ledger
from lazycache.capture.inputs.opening import Opener
from lazycache.capture.inputs.token_text import TokenText
from lazycache.capture.table_rows import table_blocks
from lazycache.capture.values.calls import call_tables
from lazycache.capture.values.gradients import check_grad_mode, in_backward
from lazycache.capture.values.site_plan import SitePlan
from lazycache.errors import CaptureError, LazycacheError, nearest
from lazycache.types import TOKENS, RowBatch, Sink, SiteBlock

MAX_WAITING = 32
"""Forward passes that may wait for their gradients at once: each holds its values in memory."""


class _Thread(threading.local):
    """What one thread is at: several may call the model at once."""

    def __init__(self) -> None:
        self.annotation: Annotation | None = None
        """What was said of the next forward pass."""
        self.begun = False
        """Whether a forward pass began that is neither recorded nor dropped."""
        self.current: ForwardPass | None = None
        """The same, once its inputs were understood."""
        self.paused = 0
        """How many `paused` blocks it is in."""


class Passes:
    """The forward passes of one capture: what the hooks of a `Recorder` call.

    Args:
        model: What is recorded.
        sink: Takes each batch.
        plans: What is done with each site.
        opener: Reads the inputs of a pass.
        ledger: Gives ids; locked here.
        text: Gives tokens their text; None stores ids only.
        hooked: Whether hooks hand values over; else gradients are promised at the beginning.
    """

    def __init__(
        self,
        model: nn.Module,
        sink: Sink,
        *,
        plans: Mapping[str, SitePlan],
        opener: Opener,
        ledger: Ledger,
        text: TokenText | None,
        hooked: bool,
    ) -> None:
        self._model = model
        self._sink = sink
        self._plans = plans
        self._opener = opener
        self._ledger = ledger
        self._text = text
        self._hooked = hooked
        self._differentiates = any(plan.is_gradient for plan in plans.values())
        self.generations = Generations(
            plans,
            positions=opener.positions,
            why_not=self._why_not(),
            owner=Owner(self._listens, self._record_generation, self._discard),
        )
        """Which of them belong together."""
        self._placed: dict[str, str] = {}
        self._stored: dict[str, str] = {}
        self._waiting: list[ForwardPass] = []
        self._thread = _Thread()
        # taken again where a backward pass runs in the sink or in a function of the user
        self._lock = threading.RLock()
        self._delivery = Delivery()
        self._begun = 0
        self._closed = False

        self.unused = 0
        """Annotations that no forward pass has used."""
        self.forwards = 0
        """Forward passes that were recorded."""
        self.rows = 0
        """Rows of `tokens` that were recorded."""
        self.examples = 0
        """Examples that were recorded."""
        self.stray = 0
        """Times that a site was met outside a forward pass of the model as a whole, and not
        recorded: modules called on their own, gradient checkpoints that compute again."""
        self.dropped = 0
        """Forward passes that began and were not recorded, refused ones too; whole at the end."""
        self.overflowed: dict[str, int] = {}
        """Site to number of values that `dtype` could not hold."""

    def close(self, error: BaseException | None) -> list[list[str]]:
        """Take nothing more and let everything arrive; an error of the block goes before ours.

        Returns:
            The sites whose gradients each forward pass still waits for.

        Raises:
            LazycacheError: what the last generation, the sink or the device met.
        """
        try:
            late = self._end_generations(error)
        except BaseException as interrupt:  # Ctrl-C in it: what was whole before still arrives
            self._close()
            self._arrive(interrupt)
            raise
        waiting = self._close()
        self._arrive(late or error)
        if late is not None:
            raise late
        return waiting

    def _end_generations(self, error: BaseException | None) -> BaseException | None:
        """Record the loops that are open, if all went well; return what that met."""
        if error is not None:
            return None  # they were broken off
        try:
            self.generations.end_all()
        except LazycacheError as late:
            return late
        return None

    def _close(self) -> list[list[str]]:
        """Take nothing more; return the gradients that each forward pass still waits for."""
        with self._lock:
            # a forward pass of another thread that is still running comes too late
            self._closed = True
            self.dropped = self._begun - self.forwards
            waiting = [current.awaited.close() for current in self._waiting]
            self._waiting.clear()
        return waiting

    def _arrive(self, error: BaseException | None) -> None:
        """Let everything arrive; an error on its way out of the block stays the one raised."""
        try:
            self._delivery.close()
        except LazycacheError as exc:
            if error is None:
                raise
            if exc is not error:
                error.add_note(f"Forward passes are lost: {exc}")

    def annotate(self, annotation: Annotation) -> None:
        """Say what the examples of the next forward pass of this thread are.

        Raises:
            CaptureError: an id that was used before.
        """
        with self._lock:
            self._ledger.refuse_used(annotation.ids or ())
            self.unused += self._thread.annotation is None
        self._thread.annotation = annotation

    def drain(self) -> None:
        """Wait until the sink has every forward pass that was recorded so far."""
        self._delivery.drain()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let the forward passes that this thread runs in the block go by unrecorded."""
        thread = self._thread
        thread.paused += 1
        try:
            yield
        finally:
            thread.paused -= 1

    def take(self, name: str, values: torch.Tensor, source: torch.Tensor | None = None) -> None:
        """Take the value of a site in the forward pass that this thread runs; copied at once.

        What the hooks call; if they are not on the model (`hooked=False`), whoever has the values
        does. Of a gradient that is in the backward pass, and the value belongs to the one forward
        pass that waits for it.

        Args:
            name: Of the site.
            values: As the module made them.
            source: The tensor that the module works on.

        Raises:
            CaptureError: no such site, values that do not fit, gradients of several forward passes
                that could be meant.
        """
        plan = self._plans.get(name)
        if plan is None:
            raise CaptureError(f"No site {name!r} is captured. {nearest(name, self._plans)}")
        if plan.is_gradient:
            self._give(plan, values)
            return
        current = self._running()
        if current is not None:
            generation = self.generations.current()
            if generation is not None:
                plan = per_pass(plan)
            usual = None if generation is None else TOKENS
            current.take(plan, values, source, before=self._placed.get(name, usual))

    def _give(self, plan: SitePlan, gradient: torch.Tensor) -> None:
        with self._lock:
            lacking = [current for current in self._waiting if current.awaited.lacks(plan.name)]
            self.stray += not lacking
        if len(lacking) > 1:
            raise CaptureError(
                f"{plan.name}: {len(lacking)} forward passes wait for this gradient, and there is "
                "no telling whose it is. Run backward() after each."
            )
        for current in lacking:
            current.awaited.give(plan.name, gradient)

    def expect(self, name: str, tensor: torch.Tensor, source: torch.Tensor | None) -> None:
        """Await the gradient of a site, in the forward pass that this thread runs."""
        current = self._running()
        if current is not None:
            current.expect(self._plans[name], tensor, source, before=self._placed.get(name))

    def _running(self) -> ForwardPass | None:
        """Return the forward pass of this thread, or count what is met outside one."""
        thread = self._thread
        if thread.paused:
            return None
        current = self.now()
        if current is None:
            with self._lock:
                self.stray += 1
        return current

    def now(self) -> ForwardPass | None:
        """Return the forward pass that this thread runs."""
        # a checkpoint that computes again meets the sites again
        return None if in_backward() else self._thread.current

    def begin(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Read what the model is called with: a forward pass begins."""
        thread = self._thread
        if thread.paused or in_backward():
            return
        self._forget(thread)  # an interrupt, unlike an error, left the last one open
        thread.begun = True
        said, thread.annotation = thread.annotation, None
        with self._lock:
            self._begun += 1
            self.unused -= said is not None
        if self._differentiates:
            self._check_waiting()
        named = self._opener.named(args, kwargs)
        current = self._opener.open(
            named,
            said,
            generation=self.generations.of(named),
            ledger=self._ledger,
            lock=self._lock,
            deliver=self._deliver,
        )
        if not self._hooked:
            for plan in filter(lambda plan: plan.is_gradient, self._plans.values()):
                current.promise(plan, before=self._placed.get(plan.name))
        thread.current = current

    def _check_waiting(self) -> None:
        check_grad_mode()
        if len(self._waiting) >= MAX_WAITING:
            raise CaptureError(
                f"{len(self._waiting)} forward passes wait for their gradients, and no backward "
                "was run of them. Run loss.backward() after each forward pass, or at least after "
                f"every {MAX_WAITING}; call the model in `paused()` where none is run."
            )

    def end(self, _: nn.Module, _args: object, output: object) -> None:
        """Check what was met, and record it if nothing is missing."""
        current = self.now()
        if current is None:
            return
        current.check_calls(self._plans.values())
        generation = self.generations.current()
        if generation is not None:  # it is recorded as a whole, when it is over
            generation.end_pass(current, returned_cache(output))
            self._thread.begun, self._thread.current = False, None
            return
        with self._lock:
            if self._closed:
                return
            # counted here, when it is sure to be recorded unless a gradient is missing; another
            # thread may have recorded ids since they were given
            current.ids = self._ledger.ids_for(current.annotation, current.batch)
            if self._differentiates:
                self._ledger.claim(current.recorded_ids())
                self._waiting.append(current)
            else:
                self._record(current)
                self._ledger.claim(current.recorded_ids())
        self._thread.begun, self._thread.current = False, None
        if self._differentiates and current.awaited.seal():
            self._deliver(current)

    def _deliver(self, current: ForwardPass) -> None:
        """Record a forward pass whose gradients are there, in whatever thread the last one came."""
        with self._lock:
            if not self._closed:
                self._waiting.remove(current)
                self._record(current)

    def _record_generation(self, current: ForwardPass, passes: int) -> None:
        with self._lock:
            if not self._closed:
                current.ids = self._ledger.ids_for(current.annotation, current.batch)
                self._record(current)
                self._ledger.claim(current.recorded_ids())
                self.forwards += passes - 1

    def _discard(self, passes: int) -> None:
        """Count passes of a generation that was broken off; what was said of it is used up."""
        said, self._thread.annotation = self._thread.annotation, None
        with self._lock:
            self.unused -= said is not None
            self.dropped += 0 if self._closed else passes

    def _why_not(self) -> str | None:
        """Say why generations cannot be followed; None: they can."""
        if self._differentiates:
            return "gradients are captured"
        if getattr(getattr(self._model, "config", None), "is_encoder_decoder", False):
            return "the model has an encoder and a decoder"
        return None

    def _listens(self) -> bool:
        return not (self._closed or self._thread.paused or in_backward())

    def _record(self, current: ForwardPass) -> None:
        """Hand a forward pass on to the sink, which gets it when all of it is on the host."""
        current.check_tables(self._placed)
        sites = current.blocks(self._plans, self._stored)
        self._delivery.put(lambda: self._write(current, sites), after=current.staged())
        self._placed |= current.placed
        self._stored |= {name: block.table for name, block in sites.items()}
        self._count(current)

    def _write(self, current: ForwardPass, sites: Mapping[str, SiteBlock]) -> None:
        """Make the rows of a forward pass that is on the host, and give them to the sink.

        Takes no lock: it may run in the thread of the delivery while a forward pass that waits for
        room holds it. Only here are `overflowed` and the sink touched, one pass at a time.
        """
        tables = table_blocks(
            current.stacks.all(),
            ids=current.ids,
            kept=current.stacks.kept,
            columns=current.columns,
            text=self._text,
        )
        if not current.is_empty:
            self._sink.write(RowBatch({**tables, **call_tables(tables, sites)}, sites))
        for name, lost in current.lost().items():
            self.overflowed[name] = self.overflowed.get(name, 0) + lost

    def drop(self, _: nn.Module, _args: object, _output: object) -> None:
        """Forget the forward pass, also when it raised: nothing of it may reach the next one."""
        if not in_backward():
            self._forget(self._thread)

    def _forget(self, thread: _Thread) -> None:
        if thread.begun:
            self.generations.drop()
            with self._lock:
                self.dropped += not self._closed  # counted at the end, if that came first
        if thread.current is not None:
            thread.current.awaited.close()
        thread.begun, thread.current = False, None

    def _count(self, current: ForwardPass) -> None:
        self.forwards += 1
        rows = current.stacks.main.rows
        self.rows += 0 if rows is None else len(rows.flat)
        self.examples += len(current.recorded_ids())
