"""A call of the model becomes a `ForwardPass`: its inputs read, its examples and rows chosen."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from threading import RLock
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from lazycache.capture.device.staging import Staging
from lazycache.capture.forward_pass import ForwardPass
from lazycache.capture.generation.generation import Generation
from lazycache.capture.inputs.annotation import Annotation
from lazycache.capture.inputs.arguments import named_arguments
from lazycache.capture.inputs.columns import Scalar, as_mapping, as_scalar, check_name
from lazycache.capture.inputs.decoders import decoder_of
from lazycache.capture.inputs.forward_inputs import read_inputs
from lazycache.capture.inputs.ledger import Ledger
from lazycache.capture.inputs.patches import are_of_images, images_of, patches_of
from lazycache.capture.inputs.where import Where, asked_examples, check_where
from lazycache.capture.sites.names import HookPoint
from lazycache.capture.stack import make_stack
from lazycache.capture.stacks import Stacks
from lazycache.capture.values.gradients import Awaited
from lazycache.capture.values.hooks import check_hookable, untraced
from lazycache.capture.values.select import Chosen, Positions, check_positions
from lazycache.types import TOKENS


class Opener:
    """Opens the forward passes of one model, as a capture has been asked to.

    Raises:
        CaptureError: bad arguments, or a decoder that cannot be told.
    """

    def __init__(
        self,
        model: nn.Module,
        points: Mapping[str, HookPoint],
        *,
        positions: Positions,
        columns: Mapping[str, Scalar] | None,
        where: Where | None,
    ) -> None:
        self._model = model
        self.positions: Chosen = check_positions(positions)
        """Which tokens become rows."""
        self._shared = _shared_columns(columns, points)
        check_where(where)
        self._where = where
        self._decoder = decoder_of(model, points.values())
        self._patches = patches_of(model)
        self._images = are_of_images(model, points.values())
        self._signature = inspect.signature(model.forward)
        self._staging = Staging()

    def named(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of a call by name."""
        return named_arguments(self._signature, args, kwargs)

    def open(
        self,
        named: Mapping[str, Any],
        said: Annotation | None,
        *,
        generation: Generation | None,
        ledger: Ledger,
        lock: RLock,
        deliver: Callable[[ForwardPass], None],
    ) -> ForwardPass:
        """Make a forward pass of the arguments of a call.

        Args:
            named: The arguments by name.
            said: What the user said of it; None: nothing.
            generation: What it belongs to; None: it is one by itself.
            ledger: Says which ids are free.
            lock: Guards the ledger.
            deliver: Takes the forward pass when its last gradient came.

        Raises:
            CaptureError: arguments or an annotation that do not fit.
        """
        annotation = Annotation() if said is None else said
        mask = annotation.mask if generation is None else generation.mask_of(named, said)
        seen = images_of(named) if self._images else named
        inputs = read_inputs(seen, mask=mask, patches=self._patches)
        if generation is not None:
            if generation.passes:
                return generation.next_pass(inputs)
            annotation = generation.expanded(annotation, inputs.batch)
        columns = annotation.columns_for(inputs.batch, shared=self._shared)
        with lock:
            ids = ledger.ids_for(annotation, inputs.batch)  # do they fit?
            if self._where is not None and annotation.ids is None:
                # they are told before it is sure which are recorded: nobody else may get them
                ledger.skip(inputs.batch)
                annotation = replace(annotation, ids=ids)
        kept = asked_examples(self._where, named, ids=ids, columns=columns)
        if generation is None:
            main = make_stack(
                TOKENS, inputs, positions=self.positions, kept=kept, staging=self._staging
            )
        else:
            main = generation.stack(inputs, kept=kept, staging=self._staging)
        stacks = Stacks(main, named, decodes=self._decoder is not None, kept=kept)
        current = ForwardPass(stacks, annotation, columns, Awaited(lambda: _deliver(own, deliver)))
        # weak: in a cycle its values would stay until the garbage collector finds them
        own = weakref.ref(current)
        return current

    def watch_decoder(self, running: Callable[[], ForwardPass | None]) -> RemovableHandle | None:
        """Put a hook on the decoder that tells it to the forward pass which runs; None: no decoder.

        Raises:
            CaptureError: hooks on the decoder would never run.
        """
        if self._decoder is None:
            return None
        check_hookable(self._model, [HookPoint(self._decoder, "in")])
        decoder = self._model.get_submodule(self._decoder)
        signature = inspect.signature(decoder.forward)

        def begin(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            current = running()
            if current is not None:
                named = named_arguments(signature, args, kwargs)
                current.stacks.begin_decoder(named, positions=self.positions)

        # before the sites, so that one on its input finds it begun
        return decoder.register_forward_pre_hook(untraced(begin), with_kwargs=True, prepend=True)


def _deliver(own: weakref.ref[ForwardPass], deliver: Callable[[ForwardPass], None]) -> None:
    current = own()
    if current is not None:  # who waits for gradients holds it
        deliver(current)


def _shared_columns(
    columns: Mapping[str, Scalar] | None, sites: Iterable[str]
) -> dict[str, Scalar]:
    given = as_mapping(columns)
    for name in given:
        check_name(name, sites=sites)
    return {name: as_scalar(name, value) for name, value in given.items()}
