"""Drive a model over the batches of a corpus: one forward pass for each."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from lazycache.capture.corpus.batching import Batch
from lazycache.capture.sites.architectures import locate
from lazycache.capture.sites.names import HookPoint
from lazycache.errors import CaptureError

_ANY = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)

_WRAPPED = ("module", "_orig_mod", "base_model")  # DDP and DataParallel, torch.compile, PEFT

_LOGITS_TO_KEEP = ("logits_to_keep", "num_logits_to_keep")  # the second before transformers 4.50


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is."""

    examples: int
    """Examples done."""
    tokens: int
    """Real tokens done."""
    batches: int
    """Forward passes done."""
    seconds: float
    """Since the run began."""


class Annotate(Protocol):
    """`Recorder.annotate`: says what the examples of the next forward pass are."""

    def __call__(
        self, *, example: Any = None, mask: Any = None, columns: Mapping[str, Any] | None = None
    ) -> None:
        """Take ids, mask and columns."""
        ...


def run_batches(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    points: Iterable[HookPoint],
    annotate: Annotate,
    progress: Callable[[Progress], None],
) -> Progress:
    """Run the model over all batches, in evaluation mode and without gradients.

    `annotate` is called before each forward pass, `progress` after it. The model's training flags
    are put back afterwards. Logits are not computed for every token if no point needs them and the
    model can leave them out (`logits_to_keep`).

    Returns:
        What was done in all.

    Raises:
        CaptureError: padding was needed, but the model takes no attention mask; the corpus has
            inputs that the model does not take.

    Example:
        >>> seen = []
        >>> done = run_batches(nn.Embedding(9, 2), [Batch([7], torch.ones(1, 3).long(),
        ...                    torch.ones(1, 3).long(), {})], points=[],
        ...                    annotate=lambda **kwargs: seen.append(kwargs["example"]),
        ...                    progress=lambda _: None)
        >>> seen, done.tokens
        ([[7]], 3)
    """
    started = time.monotonic()
    done = Progress(0, 0, 0, 0.0)
    call = _caller(model, list(points))
    with _evaluating(model), torch.no_grad():
        for batch in batches:
            annotate(example=batch.examples, mask=batch.attention_mask, columns=batch.columns)
            call(batch)
            done = Progress(
                examples=done.examples + len(batch.examples),
                tokens=done.tokens + batch.tokens,
                batches=done.batches + 1,
                seconds=time.monotonic() - started,
            )
            progress(done)
    return done


def refuse_gradients(points: Mapping[str, HookPoint]) -> None:
    """Refuse sites that only a backward pass gives.

    Raises:
        CaptureError: names one.

    Example:
        >>> refuse_gradients({"0:out": HookPoint("0", "out")})
    """
    found = next((name for name, point in points.items() if point.side.startswith("grad")), None)
    if found is not None:
        raise CaptureError(
            f"{found} is a gradient, and extract runs without them. Run forward and backward in a "
            "loop of your own inside lc.capture(...)."
        )


def _caller(model: nn.Module, points: list[HookPoint]) -> Callable[[Batch], None]:
    """Return how to call this model with a batch, judged once by its signature."""
    takes = _arguments(model)
    device = _input_device(model)
    extra: dict[str, Any] = {"use_cache": False} if "use_cache" in takes else {}
    if not _needs_head(model, points):
        extra |= {name: 1 for name in _LOGITS_TO_KEEP if name in takes}

    def call(batch: Batch) -> None:
        more = _features(model, batch, takes, device)
        if batch.input_ids is None or batch.attention_mask is None:
            model(**more)
            return
        ids = batch.input_ids.to(device)
        if "attention_mask" in takes:
            more["attention_mask"] = batch.attention_mask.to(device)
        elif batch.tokens != ids.numel():
            raise CaptureError(
                f"{type(model).__name__} takes no attention_mask, so padding would be read as "
                "text. Use batch_size=1, or sequences of one length."
            )
        if "input_ids" in takes:
            model(input_ids=ids, **more, **extra)
        else:
            model(ids)

    return call


def _features(
    model: nn.Module, batch: Batch, takes: Collection[str], device: torch.device
) -> dict[str, torch.Tensor]:
    """What a model is called with beside ids; masks only where it takes them."""
    unknown = [n for n in batch.features if n not in takes and not n.endswith("_mask")]
    if unknown:
        raise CaptureError(
            f"The corpus has {unknown[0]}, which {type(model).__name__} does not take. Run it in a "
            "loop of your own inside lc.capture(...)."
        )
    return {name: values.to(device) for name, values in batch.features.items() if name in takes}


def _arguments(model: nn.Module) -> frozenset[str]:
    """Names of the arguments that a model takes; of a wrapper that hands all on, its model's."""
    parameters = inspect.signature(model.forward).parameters
    named = [name for name, p in parameters.items() if p.kind not in _ANY]
    inner = next((i for n in _WRAPPED if isinstance(i := getattr(model, n, None), nn.Module)), None)
    return frozenset(named) if named or inner is None else _arguments(inner)


def _input_device(model: nn.Module) -> torch.device:
    """Where the model wants its token ids: with its first weights."""
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def _needs_head(model: nn.Module, points: list[HookPoint]) -> bool:
    """Say whether a point is outside the transformer proper: there it could see the logits."""
    bases = tuple(stack.base for stack in locate(model))
    return not bases or any(not point.path.startswith(bases) for point in points)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Switch dropout and the like off; put every module's own flag back."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
