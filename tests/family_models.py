"""Small models of all families with their inputs, and where their sites are by their sources.

The tables of places were written by hand, beside the tests of each sort of family.
"""

import runpy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import decoder_models
import stack_helpers as h
import torch
import transformers
from torch import nn

BATCH, LENGTH, TARGET, SHORT = 3, 7, 5, 4
"""Examples, tokens of the encoder or only stack, of the decoder, and real ones of example 1."""


@dataclass(frozen=True, slots=True)
class Case:
    """A small model of one family."""

    make: Callable[[], nn.Module]
    inputs: Callable[[nn.Module], dict[str, Any]]
    hands: Mapping[str, h.Hand]


def _read(sort: str) -> dict[str, Any]:
    folder = Path(__file__).parent / "capture" / "sites"
    return runpy.run_path(str(folder / f"test_families_{sort}.py"))


def _ids(length: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, 50, (BATCH, length), generator=generator)


def _mask(length: int) -> torch.Tensor:
    mask = torch.ones(BATCH, length, dtype=torch.long)
    mask[1, SHORT:] = 0
    return mask


def tokens(_: nn.Module) -> dict[str, Any]:
    """Token ids, of which example 1 has fewer."""
    return {"input_ids": _ids(LENGTH, 1), "attention_mask": _mask(LENGTH)}


def both(model: nn.Module) -> dict[str, Any]:
    """Token ids of an encoder and of a decoder, of which example 1 has fewer of each."""
    decoder = {"decoder_input_ids": _ids(TARGET, 2), "decoder_attention_mask": _mask(TARGET)}
    return tokens(model) | decoder


def _decoder(name: str) -> nn.Module:
    kind, config, _ = decoder_models.MODELS[name]
    return h.make(getattr(transformers, kind), config())


def _cases() -> dict[str, Case]:
    cases = {
        name: Case(partial(_decoder, name), tokens, h.names(hands, decoder_models.LAYERS))
        for name, (_, _, hands) in decoder_models.MODELS.items()
    }
    for sort in ("encoders", "mixtures", "seq2seq", "vision"):
        test = _read(sort)
        inputs = {"seq2seq": both, "vision": test.get("_inputs")}.get(sort, tokens)
        for name, (kind, config, hands) in test["MODELS"].items():
            places = hands if sort == "seq2seq" else h.names(hands, test["LAYERS"])
            cases[name] = Case(partial(h.make, kind, config), inputs, places)
    return cases


CASES = _cases()
"""Name to model."""
