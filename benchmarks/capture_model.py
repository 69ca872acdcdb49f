"""The model whose capture is measured, and the numbers that everybody is to have kept of it.

GPT-2 of width 256 with four layers and random weights, in float32: the residual stream behind each
layer, batches of token ids of one length. Random ids are as good as text: the time of a forward
pass does not depend on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

WIDTH, LAYERS, HEADS, VOCABULARY = 256, 4, 4, 50_257

SITES = [f"resid_out_{layer}" for layer in range(LAYERS)]

Values = dict[int, torch.Tensor]
"""Layer to what passes behind it, [batch, length, width]."""


@dataclass(frozen=True)
class Setting:
    """A model and what it is given."""

    lm: Any
    """The model with its head, as the peers that bring a model of their own want it."""
    ids: torch.Tensor
    """Token ids, [batches, examples, length]."""

    @property
    def model(self) -> Any:
        """The model without its head, which is what is run."""
        return self.lm.transformer

    @property
    def rows(self) -> int:
        """Tokens of all batches."""
        return self.ids.numel()

    @property
    def nbytes(self) -> int:
        """Bytes of the four sites of all batches."""
        return self.rows * LAYERS * WIDTH * 4

    def forward(self, after: Callable[[int], object] = lambda _: None) -> None:
        """Run the model on every batch."""
        with torch.no_grad():
            for number, ids in enumerate(self.ids):
                self.model(input_ids=ids, use_cache=False)
                after(number)
        if self.ids.is_cuda:
            torch.cuda.synchronize()

    def first(self, batches: int) -> Setting:
        """Return the same with the first batches only."""
        return Setting(self.lm, self.ids[:batches])

    def expected(self) -> list[torch.Tensor]:
        """What has to have been kept: for each layer [rows, width], in the order of the rows."""
        found: list[Values] = []
        with hooked(self.model) as seen:
            self.forward(lambda _: found.append(dict(seen)))
        return [torch.cat([one[n] for one in found]).flatten(0, 1) for n in range(LAYERS)]


def device() -> str:
    """The device that is measured: a GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def make(*, batches: int, examples: int, length: int, device: str = "cpu") -> Setting:
    """Make the model and its inputs, always the same ones."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, bos_token_id=0, eos_token_id=0)
    model: Any = GPT2LMHeadModel(config)
    ids = torch.randint(1, VOCABULARY, (batches, examples, length)).to(device)
    return Setting(model.eval().to(device), ids)


class Ids(torch.nn.Module):
    """The model, called with token ids alone."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Run the model."""
        found: torch.Tensor = self.model(input_ids=ids, use_cache=False)[0]
        return found


@contextmanager
def hooked(model: Any) -> Iterator[Values]:
    """What one writes by hand: each hook copies its tensor to the host."""
    seen: Values = {}

    def keep(layer: int) -> Any:
        def hook(_module: Any, _args: Any, output: Any) -> None:
            value = output[0] if isinstance(output, tuple) else output
            seen[layer] = value.detach().to("cpu", copy=True)

        return hook

    handles = [block.register_forward_hook(keep(n)) for n, block in enumerate(model.h)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
