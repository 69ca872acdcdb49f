"""`model.generate` of transformers, watched: what cannot be followed is refused before it runs.

For the length of a capture two methods of the instance (never of the class) are replaced:
`generate` itself, and the method that makes its stopping criteria. What these answer is the only
place where it is known which examples are finished and get padding from then on.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

from lazycache.capture.inputs.masks import MASK_NDIM, real_tokens
from lazycache.errors import CaptureError

_CRITERIA = "_get_stopping_criteria"
_LOGITS_TO_KEEP = ("logits_to_keep", "num_logits_to_keep")  # the second before transformers 4.50
_ABSENT = object()


@dataclass(slots=True, eq=False)
class GenerateCall:
    """One call of `model.generate` while it runs."""

    copies: int
    """Sequences for each prompt (`num_return_sequences`); copies of a prompt lie side by side."""
    mask: torch.Tensor | None
    """bool[prompts, length]: real tokens of the prompts as the call said it; None if it did not."""
    padding: int | None
    """The token that pads, where the call gave no mask: transformers then makes one of it."""
    prompt: int | None = None
    """Positions of the prompt, padding included; None until the first token was chosen."""
    seen: int = 0
    """Positions that the model was fed so far."""
    padded: bool = False
    """Whether examples that are finished are fed padding."""
    _finished: torch.Tensor | None = field(default=None, repr=False)
    _chosen: torch.Tensor | None = field(default=None, repr=False)

    def chosen(self, done: torch.Tensor, *, padded: bool) -> None:
        """Take note that a token was chosen for each example, and which examples are done with it.

        Cost: none of it waits for the device.
        """
        if self._finished is None or self._chosen is None:
            self.prompt, self.padded = self.seen, padded
            self._finished = torch.zeros_like(done)
            self._chosen = torch.zeros_like(done, dtype=torch.int64)
        # without padding every example goes on until the last one is done
        open_ = ~self._finished if padded else ~self._finished.all().expand_as(done)
        self._chosen += open_
        self._finished |= done

    def tokens(self) -> list[int] | None:
        """Return how many tokens each example was given; None if it is not known."""
        return None if self._chosen is None else self._chosen.tolist()


class Listener(Protocol):
    """What is told of calls of `generate`, in the thread that makes them."""

    def listens(self) -> bool:
        """Say whether this thread's calls are to be told at all."""
        ...

    def generate_begins(self, call: GenerateCall) -> None:
        """Hear that one begins; may refuse it."""
        ...

    def generate_ends(self) -> None:
        """Hear that it came to its end."""
        ...

    def generate_failed(self) -> None:
        """Hear that it was broken off."""
        ...

    def generating(self) -> GenerateCall | None:
        """Return the call that this thread is in, if it is in one."""
        ...


@contextmanager
def watched_generate(model: nn.Module, listener: Listener, *, all_logits: bool) -> Iterator[None]:
    """Tell `listener` of each call of `model.generate` inside the block.

    Both methods are put back as they were found, an attribute of the instance too. Models without
    transformers' `generate` are left alone.

    Args:
        model: What is captured.
        listener: Is told.
        all_logits: Make the pass over the prompt give the logits of each of its tokens, which
            transformers leaves out.

    Example:
        >>> with watched_generate(nn.Linear(1, 1), None, all_logits=False):
        ...     pass
    """
    if not hasattr(model, "generate") or not hasattr(model, _CRITERIA):
        yield
        return
    watch = _Watch(model, listener, all_logits=all_logits)
    with _replaced(model, "generate", watch.generate), _replaced(model, _CRITERIA, watch.criteria):
        try:
            yield
        finally:
            watch.over = True  # somebody may have kept the method


def sees_logits(model: nn.Module, paths: Iterable[str]) -> bool:
    """Say whether one of these modules is outside the transformer proper, where logits are made.

    Example:
        >>> sees_logits(nn.Sequential(nn.Linear(1, 1)), ["0"])
        True
    """
    base = getattr(model, "base_model", None)
    inside = set(base.modules()) if isinstance(base, nn.Module) and base is not model else set()
    return any(model.get_submodule(path) not in inside for path in paths)


@contextmanager
def _replaced(
    model: nn.Module, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Iterator[None]:
    own = vars(model).get(name, _ABSENT)
    original = getattr(model, name)
    ours = functools.wraps(original)(make(original))
    vars(model)[name] = ours
    try:
        yield
    finally:
        if vars(model).get(name) is ours:  # else somebody replaced it in turn, and puts it back
            if own is _ABSENT:
                del vars(model)[name]
            else:
                vars(model)[name] = own


class _Watch:
    """Makes the methods that stand in for those of the model."""

    def __init__(self, model: nn.Module, listener: Listener, *, all_logits: bool) -> None:
        self._model = model
        self._listener = listener
        self._all_logits = all_logits
        self.over = False

    def generate(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def generate(*args: Any, **kwargs: Any) -> Any:
            if self.over or not self._listener.listens():
                return original(*args, **kwargs)
            given = _arguments(original, args, kwargs)
            self._listener.generate_begins(_call(self._model, given))
            try:
                _refuse(self._model, given)
                result = original(*args, **(kwargs | self._changes(given)))
            except BaseException:  # an interrupt too: nothing of it may be stored
                self._listener.generate_failed()
                raise
            self._listener.generate_ends()
            return result

        return generate

    def criteria(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def criteria(*args: Any, **kwargs: Any) -> Any:
            made = original(*args, **kwargs)
            call = (
                None if self.over or not self._listener.listens() else self._listener.generating()
            )
            return made if call is None else _reporting(made, call)

        return criteria

    def _changes(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments that are other than the caller's, so that hooks see everything."""
        changes: dict[str, Any] = {}
        takes = inspect.signature(self._model.forward).parameters
        if self._all_logits:
            changes |= {name: 0 for name in _LOGITS_TO_KEEP if name in takes}
        if _may_compile(self._model, given):
            changes["disable_compile"] = True
        return changes


def _may_compile(model: nn.Module, given: Mapping[str, Any]) -> bool:
    """Say whether generate may compile the model, past the hooks: static caches, not on a CPU."""
    if not hasattr(getattr(model, "generation_config", None), "disable_compile"):
        return False
    weight = next(model.parameters(), None)
    on_cpu = weight is None or weight.device.type == "cpu"
    return not on_cpu or _option(model, given, "compile_config") is not None


def _reporting(criteria: Any, call: GenerateCall) -> Any:
    """Return the same list of criteria, which tells the call what it answers."""
    padded = any(hasattr(one, "eos_token_id") for one in criteria)

    class Reporting(type(criteria)):  # type: ignore[misc]  # of transformers, known at run time
        def __call__(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            done: torch.Tensor = super().__call__(*args, **kwargs)
            call.chosen(done, padded=padded)
            return done

    return Reporting(criteria)


def _arguments(
    original: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments of a call by name."""
    signature = inspect.signature(original)
    try:
        bound = dict(signature.bind_partial(*args, **kwargs).arguments)
    except TypeError:  # generate itself says better what is wrong
        return dict(kwargs)
    for name, parameter in signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            bound |= bound.pop(name, {})
    return bound


def _option(model: nn.Module, given: Mapping[str, Any], name: str) -> Any:
    """Return what a call goes by: its argument, else its configuration, else the model's."""
    if name in given:
        return given[name]
    for config in (given.get("generation_config"), getattr(model, "generation_config", None)):
        value = getattr(config, name, None)
        if value is not None:
            return value
    return None


def _above(limit: float) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int | float) and value > limit


def _is_set(value: Any) -> bool:
    return value is not None and value is not False


_REFUSED: tuple[tuple[str, str, Callable[[Any], bool]], ...] = (
    ("num_beams", "beam search (num_beams)", _above(1)),
    ("num_beam_groups", "beam search (num_beam_groups)", _above(1)),
    ("constraints", "constrained beam search (constraints)", _is_set),
    ("force_words_ids", "constrained beam search (force_words_ids)", _is_set),
    ("assistant_model", "assisted generation (assistant_model)", _is_set),
    ("use_mtp", "assisted generation (use_mtp)", _is_set),
    ("prompt_lookup_num_tokens", "assisted generation (prompt_lookup_num_tokens)", _is_set),
    ("assistant_early_exit", "assisted generation (assistant_early_exit)", _is_set),
    ("is_assistant", "assisted generation (is_assistant)", _is_set),
    ("penalty_alpha", "contrastive search (penalty_alpha)", _above(0)),
    ("dola_layers", "DoLa (dola_layers)", _is_set),
    ("guidance_scale", "guided generation (guidance_scale)", lambda value: value not in (None, 1)),
    ("token_healing", "token healing (token_healing)", _is_set),
    ("custom_generate", "a decoding loop of one's own (custom_generate)", _is_set),
    ("cache_implementation", "continuous batching (paged cache)", lambda value: value == "paged"),
)
"""Options in which the model reads other tokens than those of its answer, in order and once."""


def _refuse(model: nn.Module, given: Mapping[str, Any]) -> None:
    config = getattr(model, "config", None)
    what = None
    if getattr(config, "is_encoder_decoder", False):
        what = "an encoder-decoder model"
    for name, words, is_refused in _REFUSED:
        if what is None and is_refused(_option(model, given, name)):
            what = words
    if what is not None:
        raise CaptureError(
            f"generate with {what} cannot be captured step by step: what the model reads on the "
            "way is not each token of its answer once, in order. Generate outside the capture, "
            "then run the model once over the sequences that came out: "
            "model(sequences, attention_mask=...)."
        )


def _call(model: nn.Module, given: Mapping[str, Any]) -> GenerateCall:
    copies = _option(model, given, "num_return_sequences")
    mask = given.get("attention_mask")
    padding = _option(model, given, "pad_token_id")
    real = None
    if isinstance(mask, torch.Tensor) and mask.ndim == MASK_NDIM:
        real = real_tokens(mask, name="attention_mask")
    return GenerateCall(
        copies=copies if isinstance(copies, int) else 1,
        mask=real,
        padding=padding if mask is None and isinstance(padding, int) else None,
    )
