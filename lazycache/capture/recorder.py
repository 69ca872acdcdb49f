"""One forward pass becomes one `RowBatch`: inputs are seen, sites copied, rows handed to a sink.

The recorder knows no writer and no files. It hooks the model itself (what goes in, when it is
done) and, through `HookSet`, the sites. Everything is checked before the sink sees the batch, so a
forward pass is stored whole or not at all.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

from lazycache.capture.generation.generate_call import sees_logits, watched_generate
from lazycache.capture.inputs.annotation import make_annotation, merge_columns
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
from lazycache.capture.passes import Passes
from lazycache.capture.sites.names import HookPoint
from lazycache.capture.values.attention import eager_attention
from lazycache.capture.values.convert import check_dtype
from lazycache.capture.values.hooks import HookSet, check_hookable, refuse_script, untraced
from lazycache.capture.values.reduce import Transform, make_reductions
from lazycache.capture.values.select import Positions
from lazycache.capture.values.site_plan import make_plans
from lazycache.errors import CaptureError
from lazycache.types import Sink


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
        step: How far apart ids are counted, by several processes side by side.
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
        step: int = 1,
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
        self._dtype = check_dtype(dtype)
        text = None if tokenizer is None else TokenText(tokenizer)
        self._points = dict(points)
        reductions = make_reductions(
            self._points, pool=pool, transform=transform, heads=heads, units=units
        )
        self._plans = make_plans(model, self._points, reductions, self._dtype)
        self._opener = Opener(
            model, self._points, positions=positions, columns=columns, where=where
        )
        self._ledger = Ledger(next_example=next_example, step=step, taken=taken)
        self.passes = Passes(
            model,
            sink,
            plans=self._plans,
            opener=self._opener,
            ledger=self._ledger,
            text=text,
            hooked=hooked,
        )
        """The forward passes: how many were recorded, dropped, met outside; see `Passes`."""
        self._hooked = hooked
        self._allow_empty = allow_empty
        self._hooks = ExitStack()
        self._entered = False

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
        with ExitStack() as hooks:
            self._prepare(hooks)
            self._hook(hooks)
            self._hooks = hooks.pop_all()
        return self

    def _prepare(self, hooks: ExitStack) -> None:
        """Switch the attention and wrap `generate`, where the sites need it."""
        plans = self._plans.values()
        patterns = [plan.point.path for plan in plans if plan.is_ragged]
        hooks.enter_context(eager_attention(self._model, patterns))
        logits = sees_logits(self._model, [plan.point.path for plan in plans])
        generations = self.passes.generations
        hooks.enter_context(watched_generate(self._model, generations, all_logits=logits))

    def _hook(self, hooks: ExitStack) -> None:
        passes, model = self.passes, self._model
        begin = model.register_forward_pre_hook(
            untraced(passes.begin), with_kwargs=True, prepend=True
        )
        hooks.callback(begin.remove)
        if self._hooked:
            hooks.enter_context(HookSet(model, self._points, passes.take, passes.expect))
        decoder = self._opener.watch_decoder(passes.now)
        if decoder is not None:
            hooks.callback(decoder.remove)
        # after the sites, so that a site on the model's own output is met before the end
        end = model.register_forward_hook(untraced(passes.end))
        hooks.callback(end.remove)
        drop = model.register_forward_hook(untraced(passes.drop), always_call=True)
        hooks.callback(drop.remove)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove the hooks, then report what must not stay silent."""
        self._hooks.close()
        passes = self.passes
        waiting = passes.close(error)
        report = overflow_report(self._dtype, passes.overflowed)
        if report is not None:
            warnings.warn(report, RuntimeWarning, stacklevel=callers_level())
        if error is not None:
            return  # it says what went wrong, and what is lost with it
        missing = list(dict.fromkeys(name for names in waiting for name in names))
        counts = Counts(passes.forwards, passes.dropped, passes.stray, len(waiting), missing)
        check_recorded(self._model, counts, allow_empty=self._allow_empty)
        if passes.dropped:
            warnings.warn(lost_report(counts), RuntimeWarning, stacklevel=callers_level())
        if passes.unused:
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
        columns = merge_columns(columns, named)
        self.passes.annotate(
            make_annotation(example=example, mask=mask, columns=columns, sites=self._points)
        )

    def drain(self) -> None:
        """Wait until the sink has every forward pass that was recorded so far.

        Raises:
            LazycacheError: what was met on the way: the sink's error, or one of the device.
        """
        self.passes.drain()

    def end_generation(self) -> None:
        """Record the loop over a cache that this thread is in, if it is in one, as it stands.

        Raises:
            CaptureError: a selection of positions that it does not have.
        """
        self.passes.generations.end()

    def paused(self) -> AbstractContextManager[None]:
        """Let the forward passes that this thread runs in the block go by unrecorded."""
        return self.passes.paused()

    def take(self, name: str, values: torch.Tensor, source: torch.Tensor | None = None) -> None:
        """Take the value of a site from whoever has it, if it is not hooked; see `Passes.take`.

        Raises:
            CaptureError: no such site, values that do not fit, gradients of several forward passes
                that could be meant.
        """
        self.passes.take(name, values, source)
