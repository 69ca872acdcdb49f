"""Libraries that cache activations in memory, each as it is meant to be used, on the same weights.

TransformerLens, nnsight, tdhook and easyroutine keep everything to the end of the run and write
nothing; what they take is the forward pass and the keeping. Some run a model of their own, so that
their own forward pass is in their time too.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import torch

from benchmarks.capture_model import HEADS, LAYERS, SITES, VOCABULARY, WIDTH, Ids, Setting
from benchmarks.capture_peer import Kept, Peer

IN_MEMORY = "keeps all in memory, writes nothing"

PINS = ", for it pins transformers 4.51.1, numpy < 2 and vllm 0.9, which do not resolve with ours"


class InMemory(Peer):
    """A peer whose caches stay in memory until the end."""

    note = IN_MEMORY
    to_disk = False

    def __init__(self) -> None:
        self.kept: list[Any] = []

    def release(self) -> None:
        """Let go of the caches."""
        self.kept = []

    def read(self, folder: Path) -> Kept:
        """Join the caches of all batches."""
        del folder
        return {
            n: torch.cat([self.value(one, n).reshape(-1, WIDTH) for one in self.kept])
            for n in range(LAYERS)
        }

    def value(self, cache: Any, layer: int) -> torch.Tensor:
        """Return the values of a layer in the cache of a batch."""
        found: torch.Tensor = cache[layer]
        return found


class TransformerLens(InMemory):
    """`run_with_cache` of a `HookedTransformer` with the same weights."""

    name, packages = "TransformerLens run_with_cache", ("transformer_lens",)
    note = f"a model of its own; {IN_MEMORY}"

    def prepare(self, setting: Setting, folder: Path) -> None:
        """Make the model."""
        del folder
        from transformer_lens import HookedTransformer, HookedTransformerConfig
        from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights

        config = HookedTransformerConfig(
            n_layers=LAYERS,
            d_model=WIDTH,
            n_ctx=1024,
            d_head=WIDTH // HEADS,
            n_heads=HEADS,
            d_vocab=VOCABULARY,
            act_fn="gelu_new",
            normalization_type="LN",
        )
        self.model = HookedTransformer(config)
        weights = convert_gpt2_weights(setting.lm, config)
        self.model.load_state_dict(weights, strict=False)  # its masks are no weights

    def run(self, setting: Setting, folder: Path) -> None:
        """Run it."""
        del folder
        names = {f"blocks.{n}.hook_resid_post" for n in range(LAYERS)}
        with torch.no_grad():
            for ids in setting.ids:
                _, cache = self.model.run_with_cache(
                    ids, names_filter=names.__contains__, stop_at_layer=LAYERS
                )
                self.kept.append(cache)

    def value(self, cache: Any, layer: int) -> torch.Tensor:
        """Return the values of a layer."""
        found: torch.Tensor = cache["resid_post", layer]
        return found


class NNsight(InMemory):
    """`tracer.cache` of the four blocks."""

    name, packages = "nnsight cache", ("nnsight",)

    def prepare(self, setting: Setting, folder: Path) -> None:
        """Wrap the model."""
        del folder
        from nnsight import NNsight as Wrapped

        self.model = Wrapped(setting.model)

    def run(self, setting: Setting, folder: Path) -> None:
        """Run it."""
        del folder
        model = self.model
        with torch.no_grad():
            for ids in setting.ids:
                with model.trace(input_ids=ids, use_cache=False) as tracer:
                    cache = tracer.cache(modules=[model.h[n] for n in range(4)]).save()
                self.kept.append(cache)

    def value(self, cache: Any, layer: int) -> torch.Tensor:
        """Return the values of a layer."""
        output = cache[f"model.h.{layer}"].output
        found: torch.Tensor = output[0] if isinstance(output, tuple) else output
        return found


class TdHook(InMemory):
    """`ActivationCaching` over the four blocks; it hands over references, which are copied here."""

    name, packages = "tdhook", ("tdhook", "tensordict")

    def run(self, setting: Setting, folder: Path) -> None:
        """Run it."""
        del folder
        from tdhook.latent.activation_caching import ActivationCaching
        from tensordict import TensorDict
        from tensordict.nn import TensorDictModule

        model = TensorDictModule(Ids(setting.model), in_keys=["ids"], out_keys=["out"])
        with torch.no_grad(), ActivationCaching(r".*\.h\.\d+$").prepare(model) as hooked:
            for ids in setting.ids:
                hooked(TensorDict({"ids": ids}, batch_size=len(ids)))
                cache = hooked.hooking_context.cache
                self.kept.append({str(k): _first(v).clone() for k, v in cache.items()})

    def value(self, cache: Any, layer: int) -> torch.Tensor:
        """Return the values of a layer."""
        found: torch.Tensor = next(v for k, v in cache.items() if k.endswith(f"h.{layer}"))
        return found


class EasyRoutine(InMemory):
    """Its `ActivationCache`, filled by hooks and joined by `cat` after every batch."""

    name, packages = "easyroutine cache (cat)", ("easyroutine",)

    def lacks(self) -> str:
        """Say that it is absent, or a version that has no cache."""
        lacking = super().lacks()
        if lacking:
            return lacking
        if not _cache_file().is_file():
            return "the version installed has no cache; 1.1.5 has it: pip install --no-deps" + PINS
        return ""

    def run(self, setting: Setting, folder: Path) -> None:
        """Run it."""
        del folder
        from benchmarks.capture_model import hooked

        made = _cache_class()
        whole = made()

        def keep(_: int) -> None:
            one = made()
            for layer, value in seen.items():
                one[SITES[layer]] = value
            whole.cat(one)

        with hooked(setting.model) as seen:
            setting.forward(keep)
        self.kept = [whole]

    def value(self, cache: Any, layer: int) -> torch.Tensor:
        """Return the values of a layer."""
        found: torch.Tensor = cache[SITES[layer]]
        return found


def _cache_file() -> Path:
    """Where easyroutine has its cache: a file that can be loaded without the rest of the package.

    The package itself imports models of transformers that the newest version no longer has.
    """
    found = importlib.util.find_spec("easyroutine")
    folder = Path() if found is None or found.origin is None else Path(found.origin).parent
    return folder / "interpretability" / "activation_cache.py"


@cache
def _cache_class() -> Any:
    spec = importlib.util.spec_from_file_location("easyroutine_cache", _cache_file())
    if spec is None or spec.loader is None:
        raise ImportError(f"{_cache_file()} is no module")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ActivationCache


def _first(value: Any) -> torch.Tensor:
    found: torch.Tensor = value[0] if isinstance(value, tuple) else value
    return found


CACHES: list[type[Peer]] = [TransformerLens, NNsight, TdHook, EasyRoutine]
