"""One forward pass becomes one `RowBatch`: inputs are seen, sites copied, rows handed to a sink.

The recorder knows no writer and no files. It hooks the model itself (what goes in, when it is
done) and, through `HookSet`, the sites. Everything is checked before the sink sees the batch, so a
forward pass is stored whole or not at all.

Several threads may call the model at once: each has its own forward pass and annotation, and what
they share (ids, counters, the sink) changes under one lock, when a forward pass is over.
"""

from __future__ import annotations

import inspect
import threading
import warnings
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

from lazycache.capture.annotation import Annotation, make_annotation, merge_columns
from lazycache.capture.columns import Scalar, as_mapping, as_scalar, check_name
from lazycache.capture.convert import check_dtype
from lazycache.capture.decoders import refuse_decoder
from lazycache.capture.example_ids import ExampleIds
from lazycache.capture.forward_inputs import read_inputs
from lazycache.capture.forward_pass import ForwardPass
from lazycache.capture.hooks import HookSet, check_hookable
from lazycache.capture.outcome import (
    Counts,
    callers_level,
    check_recorded,
    lost_report,
    unused_report,
)
from lazycache.capture.placement import unit_widths
from lazycache.capture.select import Positions, check_positions, select_rows
from lazycache.capture.sites import HookPoint
from lazycache.capture.table_rows import table_blocks
from lazycache.capture.token_text import TokenText
from lazycache.errors import CaptureError
from lazycache.types import RowBatch, Sink


class _Thread(threading.local):
    """What one thread is at: several may call the model at once."""

    def __init__(self) -> None:
        self.annotation: Annotation | None = None
        """What was said of the next forward pass."""
        self.begun = False
        """Whether a forward pass began that is neither recorded nor dropped."""
        self.current: ForwardPass | None = None
        """The same, once its inputs were understood."""


class Recorder:
    """Records every forward pass of a model inside its `with` block.

    `tokens` gets a row per kept token (example, position, token_id, and token if there is a
    tokenizer), `examples` a row per example (example, length, user columns); sites are columns of
    one of the two. Values are detached and copied when the hook fires: one gather of the kept
    rows on the device, one copy to the host.

    Each call of the model adds new examples, whatever calls it: `model.generate` is refused at its
    second step if it uses a key-value cache, but with `use_cache=False` it calls the model with
    every prefix of the answer, and each is stored as an example of its own. Run the model once over
    prompt and answer instead.

    Args:
        model: Called inside the block as a whole: `model(...)`. Several threads may.
        points: Site name to hook point, from `resolve`.
        sink: Takes each batch. Its errors surface in the call of the model.
        tokenizer: Gives tokens their text; None stores ids only.
        positions: Which tokens of each example become rows; see `check_positions`.
        dtype: Cast of floating-point values on the device; None keeps every bit. Values that it
            cannot hold are counted in `overflowed` and reported in a warning at the end.
        columns: Columns that every example gets with the same value.
        next_example: The first id that is counted.
        taken: Ids that the run has committed before; none of them may be given again.
        allow_empty: Whether a block in which the model was not called, since nothing was left to
            do, is right.

    Raises:
        CaptureError: bad arguments; in the block, a forward pass that does not fit (it is then not
            recorded); at the end, if nothing was recorded: the model was never called as a whole,
            another object was, or no forward pass was finished. Forward passes that are missing
            beside others are counted in `dropped` and reported in a warning (RuntimeWarning).

    Example:
        >>> from lazycache.capture.resolve import resolve
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
    ) -> None:
        self._model = model
        self._points = dict(points)
        self._sink = sink
        self._positions = check_positions(positions)
        self._dtype = check_dtype(dtype)
        self._text = None if tokenizer is None else TokenText(tokenizer)
        shared = as_mapping(columns)
        for name in shared:
            check_name(name, sites=self._points)
        self._shared = {name: as_scalar(name, value) for name, value in shared.items()}
        self._widths = {name: unit_widths(model, point) for name, point in self._points.items()}
        self._signature = inspect.signature(model.forward)
        self._next = next_example
        self._ids = ExampleIds()
        self._taken = ExampleIds() if taken is None else taken
        self._tables: dict[str, str] = {}
        self._allow_empty = allow_empty
        self._thread = _Thread()
        self._lock = threading.Lock()
        self._begun = 0
        self._unused = 0
        self._hooks = ExitStack()
        self._entered = False
        self._closed = False

        self.forwards = 0
        """Forward passes that were recorded."""
        self.rows = 0
        """Rows of `tokens` that were recorded."""
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
        return self._next

    @property
    def examples(self) -> int:
        """Examples that were recorded."""
        return len(self._ids)

    def __enter__(self) -> Self:
        """Put the hooks on the model."""
        if self._entered:
            raise CaptureError("A recorder is entered once; make another for another capture.")
        self._entered = True
        check_hookable(self._model, [HookPoint("", "out")])
        with ExitStack() as hooks:
            begin = self._model.register_forward_pre_hook(
                self._begin, with_kwargs=True, prepend=True
            )
            hooks.callback(begin.remove)
            hooks.enter_context(HookSet(self._model, self._points, self._take))
            # after the sites, so that a site on the model's own output is met before the end
            end = self._model.register_forward_hook(self._end)
            hooks.callback(end.remove)
            drop = self._model.register_forward_hook(self._drop, always_call=True)
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
        with self._lock:
            # a forward pass of another thread that is still running comes too late
            self._closed = True
            self.dropped = self._begun - self.forwards
        report = self.overflow_report()
        if report is not None:
            warnings.warn(report, RuntimeWarning, stacklevel=callers_level())
        if error is not None:
            return  # it says what went wrong, and what is lost with it
        counts = Counts(self.forwards, self.dropped, self.stray)
        check_recorded(self._model, counts, allow_empty=self._allow_empty)
        if self.dropped:
            warnings.warn(lost_report(self.dropped), RuntimeWarning, stacklevel=callers_level())
        if self._unused:
            warnings.warn(unused_report(), RuntimeWarning, stacklevel=callers_level())

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

        Holds for one forward pass of the thread that says it, recorded or not; a second call before
        it replaces the first.

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
            self._refuse_used(annotation.ids or ())
            self._unused += self._thread.annotation is None
        self._thread.annotation = annotation

    def overflow_report(self) -> str | None:
        """Say in one sentence what the cast to `dtype` lost; None if nothing."""
        if not self.overflowed:
            return None
        sites = ", ".join(f"{name} ({count:,})" for name, count in self.overflowed.items())
        return (
            f"dtype={self._dtype}: values that it cannot hold were stored as its limit, infinity "
            f"or NaN: {sites}. dtype=None or torch.bfloat16 keeps their range."
        )

    def _begin(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        thread = self._thread
        self._forget(thread)  # an interrupt, unlike an error, left the last one open
        thread.begun = True
        said, thread.annotation = thread.annotation, None
        with self._lock:
            self._begun += 1
            self._unused -= said is not None
            counted_from = self._next
        annotation = Annotation() if said is None else said
        inputs = read_inputs(self._signature, args, kwargs, mask=annotation.mask)
        refuse_decoder(self._model, self._points, inputs)
        annotation.ids_for(inputs.batch, counted_from=counted_from)  # do they fit?
        columns = annotation.columns_for(inputs.batch, shared=self._shared)
        rows = None
        if inputs.mask is not None:
            rows = select_rows(inputs.mask, positions=self._positions, input_ids=inputs.input_ids)
        thread.current = ForwardPass(inputs, rows, annotation, columns)

    def _take(self, name: str, values: torch.Tensor) -> None:
        current = self._thread.current
        if current is None:
            with self._lock:
                self.stray += 1
            return
        current.take(
            name,
            values,
            before=self._tables.get(name),
            widths=self._widths[name],
            dtype=self._dtype,
        )

    def _end(self, _: nn.Module, _args: object, _output: object) -> None:
        current = self._thread.current
        if current is None:
            return
        current.check_calls(self._points)
        with self._lock:
            if self._closed:
                return
            self._record(current)
        self._thread.begun = False

    def _record(self, current: ForwardPass) -> None:
        """Hand a forward pass to the sink. Ids are counted here, when it is sure to be recorded."""
        ids = current.annotation.ids_for(current.inputs.batch, counted_from=self._next)
        self._refuse_used(ids)  # another thread may have recorded them since they were given
        current.check_tables(self._tables)
        tables = table_blocks(
            current.inputs, current.rows, ids=ids, columns=current.columns, text=self._text
        )
        self._sink.write(RowBatch(tables, current.sites))
        self._count(current, ids)

    def _drop(self, _: nn.Module, _args: object, _output: object) -> None:
        """Forget the forward pass, also when it raised: nothing of it may reach the next one."""
        self._forget(self._thread)

    def _forget(self, thread: _Thread) -> None:
        if thread.begun:
            with self._lock:
                self.dropped += not self._closed  # counted at the end, if that came first
        thread.begun, thread.current = False, None

    def _refuse_used(self, ids: Iterable[int]) -> None:
        used = next((i for i in ids if i in self._ids or i in self._taken), None)
        if used is not None:
            raise CaptureError(
                f"Example {used} was recorded already in this run; ids are unique within a run."
            )

    def _count(self, current: ForwardPass, ids: list[int]) -> None:
        self.forwards += 1
        self.rows += 0 if current.rows is None else len(current.rows.flat)
        self._ids.update(ids)
        self._next = max(self._next, self._ids.after)
        self._tables.update({name: block.table for name, block in current.sites.items()})
        for name, lost in current.lost.items():
            count = int(lost)
            if count:
                self.overflowed[name] = self.overflowed.get(name, 0) + count
