"""One forward pass becomes one `RowBatch`: inputs are seen, sites copied, rows handed to a sink.

The recorder knows no writer and no files. It hooks the model itself (what goes in, when it is
done) and, through `HookSet`, the sites. Everything is checked before the sink sees the batch, so a
forward pass is stored whole or not at all.
"""

from __future__ import annotations

import inspect
import warnings
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

from lazycache.capture.annotation import Annotation, make_annotation
from lazycache.capture.columns import Scalar, as_scalar, check_name
from lazycache.capture.convert import cast, check_dtype, to_host
from lazycache.capture.example_ids import ExampleIds
from lazycache.capture.forward_inputs import ForwardInputs, read_inputs
from lazycache.capture.hooks import HookSet, check_hookable
from lazycache.capture.placement import table_of
from lazycache.capture.select import Positions, Rows, check_positions, select_rows, take_rows
from lazycache.capture.sites import HookPoint
from lazycache.capture.table_rows import table_blocks
from lazycache.capture.token_text import TokenText
from lazycache.codec.dtypes import of_tensor
from lazycache.errors import CaptureError, UnsupportedDtypeError
from lazycache.types import TOKENS, RowBatch, Sink, SiteBlock


@dataclass(slots=True)
class _Pass:
    """A forward pass of the whole model while it runs."""

    inputs: ForwardInputs
    rows: Rows | None
    ids: list[int]
    columns: Mapping[str, list[Scalar]]
    sites: dict[str, SiteBlock] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    lost: dict[str, torch.Tensor] = field(default_factory=dict)
    flat: dict[torch.device, torch.Tensor] = field(default_factory=dict)


class Recorder:
    """Records every forward pass of a model inside its `with` block.

    `tokens` gets a row per kept token (example, position, token_id, and token if there is a
    tokenizer), `examples` a row per example (example, length, user columns); sites are columns of
    one of the two. Values are detached and copied when the hook fires: one gather of the kept
    rows on the device, one copy to the host.

    Args:
        model: Called inside the block as a whole: `model(...)`.
        points: Site name to hook point, from `resolve`.
        sink: Takes each batch. Its errors surface in the call of the model.
        tokenizer: Gives tokens their text; None stores ids only.
        positions: Which tokens of each example become rows; see `check_positions`.
        dtype: Cast of floating-point values on the device; None keeps every bit. Finite values that
            it cannot hold are counted in `overflowed` and reported in a warning at the end.
        columns: Columns that every example gets with the same value.
        next_example: The first id that is counted.
        taken: Ids that the run has committed before; none of them may be given again.

    Raises:
        CaptureError: bad arguments; in the block, a forward pass that does not fit (it is then not
            recorded); at the end, if the model itself was never called but its modules were.

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
    ) -> None:
        self._model = model
        self._points = dict(points)
        self._sink = sink
        self._positions = check_positions(positions)
        self._dtype = check_dtype(dtype)
        self._text = None if tokenizer is None else TokenText(tokenizer)
        self._shared = {name: as_scalar(name, value) for name, value in (columns or {}).items()}
        for name in self._shared:
            check_name(name, sites=self._points)
        self._signature = inspect.signature(model.forward)
        self._next = next_example
        self._ids = ExampleIds()
        self._taken = ExampleIds() if taken is None else taken
        self._tables: dict[str, str] = {}
        self._annotation = Annotation()
        self._pass: _Pass | None = None
        self._hooks = ExitStack()
        self._entered = False

        self.forwards = 0
        """Forward passes that were recorded."""
        self.rows = 0
        """Rows of `tokens` that were recorded."""
        self.stray = 0
        """Times that a site was met outside a forward pass of the model as a whole, and not
        recorded: modules called on their own, gradient checkpoints that compute again."""
        self.overflowed: dict[str, int] = {}
        """Site to number of finite values that `dtype` could not hold."""

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
        self._pass = None
        report = self.overflow_report()
        if report is not None:
            warnings.warn(report, RuntimeWarning, stacklevel=2)
        if error is None and self.stray and not self.forwards:
            raise CaptureError(
                f"Nothing was recorded: sites were met {self.stray} times, but the "
                f"{type(self._model).__name__} that is captured was never called as a whole. Call "
                "model(...), not model.forward(...) or a module inside it; or capture that module."
            )

    def annotate(self, *, example: Any = None, mask: Any = None, **columns: Any) -> None:
        """Say what the examples of the next forward pass are.

        Holds for one forward pass, recorded or not; a second call before it replaces the first.

        Args:
            example: An id (int) for each, unique within the run; None counts on.
            mask: [batch, length], nonzero for real tokens; before `attention_mask`.
            **columns: One value (str, int, float, bool, None) per example.

        Raises:
            CaptureError: an id that was used before, a column that cannot be stored, lengths that
                differ. That the batch has as many examples is checked when the model is called.
        """
        annotation = make_annotation(
            example=example, mask=mask, columns=columns, sites=self._points
        )
        given = annotation.ids or ()
        used = next((i for i in given if i in self._ids or i in self._taken), None)
        if used is not None:
            raise CaptureError(
                f"Example {used} was recorded already in this run; ids are unique within a run."
            )
        self._annotation = annotation

    def overflow_report(self) -> str | None:
        """Say in one sentence what the cast to `dtype` lost; None if nothing."""
        if not self.overflowed:
            return None
        sites = ", ".join(f"{name} ({count:,})" for name, count in self.overflowed.items())
        return (
            f"dtype={self._dtype}: finite values that it cannot hold were stored as its limit, "
            f"infinity or NaN: {sites}. dtype=None or torch.bfloat16 keeps their range."
        )

    def _begin(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._pass = None
        annotation, self._annotation = self._annotation, Annotation()
        inputs = read_inputs(self._signature, args, kwargs, mask=annotation.mask)
        ids = annotation.ids_for(inputs.batch, counted_from=self._next)
        columns = annotation.columns_for(inputs.batch, shared=self._shared)
        rows = None
        if inputs.mask is not None:
            rows = select_rows(inputs.mask, positions=self._positions, input_ids=inputs.input_ids)
        self._pass = _Pass(inputs, rows, ids, columns)

    def _take(self, name: str, values: torch.Tensor) -> None:
        """Copy the kept rows of a site, now: what the model does to the tensor later is its own."""
        current = self._pass
        if current is None:
            self.stray += 1
            return
        current.calls[name] += 1
        if current.calls[name] > 1:
            return  # reported by name, with all others, when the forward pass is over
        with torch.no_grad():
            self._copy(current, name, values.detach())

    def _copy(self, current: _Pass, name: str, values: torch.Tensor) -> None:
        _check_storable(name, values)
        table = table_of(name, values, current.inputs, before=self._tables.get(name))
        kept = values
        if table == TOKENS:
            assert current.rows is not None, "a site is placed in tokens only if there are some"
            flat = current.flat.get(values.device)
            if flat is None:
                flat = torch.from_numpy(current.rows.flat).to(values.device)
                current.flat[values.device] = flat
            kept = take_rows(values, current.rows, flat=flat)
        kept, lost = cast(kept, self._dtype)
        if lost is not None:
            current.lost[name] = lost
        current.sites[name] = SiteBlock(table, to_host(kept, source=values))

    def _end(self, _: nn.Module, _args: object, _output: object) -> None:
        current = self._pass
        if current is None:
            return
        _check_calls(self._points, current.calls)
        tables = table_blocks(
            current.inputs, current.rows, ids=current.ids, columns=current.columns, text=self._text
        )
        self._sink.write(RowBatch(tables, current.sites))
        self._count(current)

    def _drop(self, _: nn.Module, _args: object, _output: object) -> None:
        """Forget the forward pass, also when it raised: nothing of it may reach the next one."""
        self._pass = None

    def _count(self, current: _Pass) -> None:
        self.forwards += 1
        self.rows += 0 if current.rows is None else len(current.rows.flat)
        self._ids.update(current.ids)
        self._next = max(self._next, self._ids.after)
        self._tables.update({name: block.table for name, block in current.sites.items()})
        for name, lost in current.lost.items():
            count = int(lost)
            if count:
                self.overflowed[name] = self.overflowed.get(name, 0) + count


def _check_calls(points: Mapping[str, HookPoint], calls: Counter[str]) -> None:
    silent = [name for name in points if not calls[name]]
    if silent:
        raise CaptureError(
            f"The forward pass never called {_listed(silent)}: the module is not used for this "
            "input, or is called in a way that hooks do not see. Leave it out."
        )
    repeated = [name for name in points if calls[name] > 1]
    if repeated:
        raise CaptureError(
            f"The forward pass called {_listed(repeated)} {calls[repeated[0]]} times; a site "
            "has one value per row. Capture a module around it that is called once."
        )


def _check_storable(name: str, values: torch.Tensor) -> None:
    try:
        of_tensor(values)
    except UnsupportedDtypeError as exc:
        raise UnsupportedDtypeError(f"{name}: {exc}") from exc


def _listed(names: list[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" * (len(names) > limit))
