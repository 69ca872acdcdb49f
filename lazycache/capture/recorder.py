"""One forward pass becomes one `RowBatch`: inputs are seen, sites copied, rows handed to a sink.

The recorder knows no writer and no files. It hooks the model itself (what goes in, when it is
done) and, through `HookSet`, the sites. Everything is checked before the sink sees the batch, so a
forward pass is stored whole or not at all.

Several threads may call the model at once: each has its own forward pass and annotation, and what
they share (ids, counters, the sink) changes under one lock, when a forward pass is over. With
gradients it is over when the last of them came, in a thread of autograd.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

from lazycache.capture.device.delivery import Delivery
from lazycache.capture.forward_pass import ForwardPass
from lazycache.capture.generation.continuation import returned_cache
from lazycache.capture.generation.generate_call import sees_logits, watched_generate
from lazycache.capture.generation.generation import per_pass
from lazycache.capture.generation.generations import Generations, Owner
from lazycache.capture.inputs.annotation import Annotation, make_annotation, merge_columns
from lazycache.capture.inputs.columns import Scalar
from lazycache.capture.inputs.example_ids import ExampleIds
from lazycache.capture.inputs.ledger import Ledger
from lazycache.capture.inputs.opening import Opener
from lazycache.capture.inputs.token_text import TokenText
from lazycache.capture.inputs.where import Where
from lazycache.capture.outcome import (
    Counts,
    callers_level,
    check_recorded,
    lost_report,
    overflow_report,
    unused_report,
)
from lazycache.capture.sites.names import HookPoint
from lazycache.capture.table_rows import table_blocks
from lazycache.capture.values.attention import eager_attention
from lazycache.capture.values.calls import call_tables
from lazycache.capture.values.convert import check_dtype
from lazycache.capture.values.gradients import check_grad_mode, in_backward
from lazycache.capture.values.hooks import HookSet, check_hookable, refuse_script, untraced
from lazycache.capture.values.reduce import Transform, make_reductions
from lazycache.capture.values.select import Positions
from lazycache.capture.values.site_plan import SitePlan, make_plans
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


class Recorder:
    """Records every forward pass of a model inside its `with` block.

    `tokens` gets a row per kept token (example, position, token_id, and token if there is a
    tokenizer), `decoder_tokens` likewise for the decoder of an encoder-decoder model, `examples` a
    row per example (example, length, user columns); sites are columns of one of them. A module that
    is called several times has a row per call in a table of its own (`calls`). Values are detached
    and copied when the hook fires: one gather of the kept rows on the device, one copy to the host.

    A pass of which gradients are captured is recorded when the last of them came: run `backward`
    inside the block; several forward passes may come before it (gradient accumulation).

    A call of `model.generate` (of transformers), or a loop over a key-value cache that begins with
    `use_cache=True` or an empty cache, is one batch: each example has a row for each token that the
    model read, in order, whatever the pass it was read in, and `tokens` an int32 column `step` (0
    for the prompt, k for the k-th generated token). It is held on the host until it is over, as one
    forward pass over the finished sequences would be; a loop is over with the next forward pass
    that does not continue it, with `end_generation`, or at the end of the block. `positions` and
    `pool` see the finished sequences; a transform is called for each pass, with its rows.

    Where attention patterns are captured, the model runs with eager attention inside the block:
    all sites are those of it, equal to other kernels to rounding.

    Args:
        model: Called inside the block as a whole: `model(...)`. Several threads may.
        points: Site name to hook point, from `resolve`.
        sink: Takes each batch. Its errors surface in the call of the model (or of `backward`).
        tokenizer: Gives tokens their text; None stores ids only.
        positions: Which tokens of each example become rows; see `check_positions`.
        dtype: Cast of floating-point values on the device; None keeps every bit. Values that it
            cannot hold are counted in `overflowed` and reported in a warning at the end.
        columns: Columns that every example gets with the same value.
        next_example: The first id that is counted.
        taken: Ids that the run has committed before; none of them may be given again.
        allow_empty: Whether a block in which the model was not called, since nothing was left to
            do, is right.
        pool: `mean`, `sum` or `max` over the kept rows of each example, which becomes its row in
            `examples`; see `reduce.pooled`.
        transform: Site pattern to a function of its kept rows, [rows, ...], on the device.
        where: Function of the batch that says which examples are recorded; see `Where`. The others
            have an id, but no row.
        heads: Site pattern to the heads that are kept, counted as the site has them.
        units: Site pattern to the units of its rows that are kept.
        hooked: Whether the sites are hooked; else whoever has their values calls `take`.

    Raises:
        CaptureError: bad arguments; in the block, a forward pass that does not fit (it is then not
            recorded); at the end, if nothing was recorded: the model was never called as a whole,
            another object was, or no forward pass was finished. Forward passes that are missing
            beside others are counted in `dropped` and reported in a warning (RuntimeWarning).

    Example:
        >>> from lazycache.capture.sites.resolve import resolve
        >>> class Sink(list):
        ...     write = list.append
        >>> model, sink = nn.Sequential(nn.Embedding(10, 4)), Sink()
        >>> points = resolve(model, "0")
        >>> with Recorder(model, points, sink, tokenizer=None, positions="all", dtype=None,
        ...               columns=None, next_example=0):
        ...     _ = model(torch.tensor([[1, 2, 3]]))
        >>> sink[0].sites["0:out"].values.shape, sink[0].tables["tokens"].columns["position"]
        (torch.Size([3, 4]), array([0, 1, 2], dtype=int32))
    """

    def __init__(
        self,
        model: nn.Module,
        points: Mapping[str, HookPoint],
        sink: Sink,
        *,
        tokenizer: Any,
        positions: Positions,
        dtype: torch.dtype | None,
        columns: Mapping[str, Scalar] | None,
        next_example: int,
        taken: ExampleIds | None = None,
        allow_empty: bool = False,
        pool: str | None = None,
        transform: Mapping[str, Transform] | None = None,
        where: Where | None = None,
        heads: Mapping[str, Iterable[int]] | None = None,
        units: Mapping[str, Iterable[int]] | None = None,
        hooked: bool = True,
    ) -> None:
        refuse_script(model, "the model")
        self._model = model
        self._sink = sink
        self._dtype = check_dtype(dtype)
        self._text = None if tokenizer is None else TokenText(tokenizer)
        self._points = dict(points)
        reductions = make_reductions(
            self._points, pool=pool, transform=transform, heads=heads, units=units
        )
        self._plans = make_plans(model, self._points, reductions, self._dtype)
        self._opener = Opener(
            model, self._points, positions=positions, columns=columns, where=where
        )
        self._hooked = hooked
        self._differentiates = any(plan.is_gradient for plan in self._plans.values())
        self._generations = Generations(
            self._plans,
            positions=self._opener.positions,
            why_not=self._why_not(),
            owner=Owner(self._listens, self._record_generation, self._discard),
        )
        self._ledger = Ledger(next_example=next_example, taken=taken)
        self._placed: dict[str, str] = {}
        self._stored: dict[str, str] = {}
        self._waiting: list[ForwardPass] = []
        self._allow_empty = allow_empty
        self._thread = _Thread()
        # taken again where a backward pass runs in the sink or in a function of the user
        self._lock = threading.RLock()
        self._delivery = Delivery()
        self._begun = 0
        self._unused = 0
        self._hooks = ExitStack()
        self._entered = False
        self._closed = False

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

    @property
    def next_example(self) -> int:
        """The id that the next example gets if it is counted."""
        return self._ledger.next_example

    @property
    def subset(self) -> dict[str, dict[str, Any]]:
        """Of sites of which some heads or units are kept: `{site: {"axis": ..., "index": [...]}}`.

        Known before anything runs; the provenance of a run has it under this name.
        """
        subsets = {name: plan.reduction.subset for name, plan in self._plans.items()}
        return {
            name: {"axis": subset.axis, "index": list(subset.index)}
            for name, subset in subsets.items()
            if subset is not None
        }

    def __enter__(self) -> Self:
        """Put the hooks on the model."""
        if self._entered:
            raise CaptureError("A recorder is entered once; make another for another capture.")
        self._entered = True
        check_hookable(self._model, [HookPoint("", "out")])
        plans = self._plans.values()
        with ExitStack() as hooks:
            patterns = [plan.point.path for plan in plans if plan.is_ragged]
            hooks.enter_context(eager_attention(self._model, patterns))
            logits = sees_logits(self._model, [plan.point.path for plan in plans])
            hooks.enter_context(watched_generate(self._model, self._generations, all_logits=logits))
            begin = self._model.register_forward_pre_hook(
                untraced(self._begin), with_kwargs=True, prepend=True
            )
            hooks.callback(begin.remove)
            if self._hooked:
                sites = HookSet(self._model, self._points, self.take, self._expect)
                hooks.enter_context(sites)
            decoder = self._opener.watch_decoder(self._now)
            if decoder is not None:
                hooks.callback(decoder.remove)
            # after the sites, so that a site on the model's own output is met before the end
            end = self._model.register_forward_hook(untraced(self._end))
            hooks.callback(end.remove)
            drop = self._model.register_forward_hook(untraced(self._drop), always_call=True)
            hooks.callback(drop.remove)
            self._hooks = hooks.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove the hooks, then report what must not stay silent."""
        self._hooks.close()
        late = self._end_generations(error)
        waiting = self._close()
        self._arrive(late or error)
        if late is not None:
            raise late
        report = overflow_report(self._dtype, self.overflowed)
        if report is not None:
            warnings.warn(report, RuntimeWarning, stacklevel=callers_level())
        if error is not None:
            return  # it says what went wrong, and what is lost with it
        missing = list(dict.fromkeys(name for names in waiting for name in names))
        counts = Counts(self.forwards, self.dropped, self.stray, len(waiting), missing)
        check_recorded(self._model, counts, allow_empty=self._allow_empty)
        if self.dropped:
            warnings.warn(lost_report(counts), RuntimeWarning, stacklevel=callers_level())
        if self._unused:
            warnings.warn(unused_report(), RuntimeWarning, stacklevel=callers_level())

    def _end_generations(self, error: BaseException | None) -> BaseException | None:
        """Record the loops that are open, if all went well; return what that met."""
        if error is not None:
            return None  # they were broken off
        try:
            self._generations.end_all()
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

    def annotate(
        self,
        /,
        *,
        example: Any = None,
        mask: Any = None,
        columns: Mapping[str, Any] | None = None,
        **named: Any,
    ) -> None:
        """Say what the examples of the next forward pass are.

        Holds for one forward pass of the thread that says it, recorded or not, or for the whole
        generation that begins with it; a second call before it replaces the first. Columns of
        `num_return_sequences` repeat for each sequence of a prompt; ids must be of the sequences.

        Args:
            example: An id (int) for each, unique within the run; None counts on.
            mask: [batch, length], nonzero for real tokens; before `attention_mask`.
            columns: Name to one value (str, int, float, bool, None) per example.
            **named: The same, for names that are Python names and none of the above.

        Raises:
            CaptureError: an id that was used before, a column that cannot be stored, lengths that
                differ. That the batch has as many examples is checked when the model is called.
        """
        annotation = make_annotation(
            example=example,
            mask=mask,
            columns=merge_columns(columns, named),
            sites=self._points,
        )
        with self._lock:
            self._ledger.refuse_used(annotation.ids or ())
            self._unused += self._thread.annotation is None
        self._thread.annotation = annotation

    def drain(self) -> None:
        """Wait until the sink has every forward pass that was recorded so far.

        Raises:
            LazycacheError: what was met on the way: the sink's error, or one of the device.
        """
        self._delivery.drain()

    def _arrive(self, error: BaseException | None) -> None:
        """Let everything arrive; an error on its way out of the block stays the one raised."""
        try:
            self._delivery.close()
        except LazycacheError as exc:
            if error is None:
                raise
            if exc is not error:
                error.add_note(f"Forward passes are lost: {exc}")

    def end_generation(self) -> None:
        """Record the loop over a cache that this thread is in, if it is in one, as it stands.

        Raises:
            CaptureError: a selection of positions that it does not have.
        """
        self._generations.end()

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
            generation = self._generations.current()
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

    def _expect(self, name: str, tensor: torch.Tensor, source: torch.Tensor | None) -> None:
        current = self._running()
        if current is not None:
            current.expect(self._plans[name], tensor, source, before=self._placed.get(name))

    def _running(self) -> ForwardPass | None:
        """Return the forward pass of this thread, or count what is met outside one."""
        thread = self._thread
        if thread.paused:
            return None
        current = self._now()
        if current is None:
            with self._lock:
                self.stray += 1
        return current

    def _now(self) -> ForwardPass | None:
        # a checkpoint that computes again meets the sites again
        return None if in_backward() else self._thread.current

    def _begin(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        thread = self._thread
        if thread.paused or in_backward():
            return
        self._forget(thread)  # an interrupt, unlike an error, left the last one open
        thread.begun = True
        said, thread.annotation = thread.annotation, None
        with self._lock:
            self._begun += 1
            self._unused -= said is not None
        if self._differentiates:
            self._check_waiting()
        named = self._opener.named(args, kwargs)
        current = self._opener.open(
            named,
            said,
            generation=self._generations.of(named),
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

    def _end(self, _: nn.Module, _args: object, output: object) -> None:
        current = self._now()
        if current is None:
            return
        current.check_calls(self._plans.values())
        generation = self._generations.current()
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
            self._unused -= said is not None
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

    def _drop(self, _: nn.Module, _args: object, _output: object) -> None:
        """Forget the forward pass, also when it raised: nothing of it may reach the next one."""
        if not in_backward():
            self._forget(self._thread)

    def _forget(self, thread: _Thread) -> None:
        if thread.begun:
            self._generations.drop()
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
