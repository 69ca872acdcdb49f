"""Libraries that run a model over a corpus and write what they capture, on the same weights.

SAELens and lmprobe load the model themselves, from a folder: that is in their time, as always.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import torch

from benchmarks.capture_model import LAYERS, VOCABULARY, WIDTH, Ids, Setting
from benchmarks.capture_peer import Kept, Peer


class FromFolder(Peer):
    """A peer that loads a model by its folder: the same weights, and a tokenizer of numbers."""

    model: str

    def prepare(self, setting: Setting, folder: Path) -> None:
        """Save the model and a tokenizer for which "17 4" is the tokens 17 and 4."""
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        os.environ["HF_HUB_OFFLINE"] = "1"
        self.model = str(folder / "gpt2")
        # no number is a special token: those are found inside of other words too
        words = {str(number) if number else "<s>": number for number in range(VOCABULARY)}
        plain = Tokenizer(models.WordLevel(words, unk_token="<s>"))
        plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        made: Any = PreTrainedTokenizerFast
        tokenizer = made(tokenizer_object=plain, unk_token="<s>", pad_token="<s>", eos_token="<s>")
        tokenizer.save_pretrained(self.model)
        setting.lm.save_pretrained(self.model)


class SaeLens(FromFolder):
    """`CacheActivationsRunner` on one of the four sites: it knows one for each run."""

    name, packages = "SAELens CacheActivationsRunner", ("sae_lens",)
    note = "one site of the four (a run each), through HF datasets"

    def run(self, setting: Setting, folder: Path) -> None:
        """Run it: its model is loaded in its time, as it always is."""
        from datasets import Dataset
        from sae_lens import CacheActivationsRunner, CacheActivationsRunnerConfig

        logging.getLogger("sae_lens").setLevel(logging.ERROR)
        batches, examples, length = setting.ids.shape
        config = CacheActivationsRunnerConfig(
            dataset_path="none",
            model_name=self.model,
            model_class_name="AutoModelForCausalLM",
            model_batch_size=examples,
            hook_name=f"transformer.h.{LAYERS - 1}",
            d_in=WIDTH,
            training_tokens=setting.rows,
            context_size=length,
            new_cached_activations_path=str(folder / "acts"),
            shuffle=False,
            prepend_bos=False,
            streaming=False,
            device="cpu",
            buffer_size_gb=min(2, batches) * examples * length * WIDTH * 4.001 / 1e9,
        )
        ids = setting.ids.reshape(batches * examples, length).tolist()
        CacheActivationsRunner(config, override_dataset=Dataset.from_dict({"input_ids": ids})).run()

    def read(self, folder: Path) -> Kept:
        """Read what was written."""
        from datasets import load_from_disk

        found = load_from_disk(str(folder / "acts")).with_format("torch")
        return {LAYERS - 1: found[:][f"transformer.h.{LAYERS - 1}"].reshape(-1, WIDTH)}


class TorchLens(Peer):
    """`extract_dataset` to shards on the disk."""

    name, packages = "torchlens extract_dataset", ("torchlens",)

    def run(self, setting: Setting, folder: Path) -> None:
        """Run it."""
        import torchlens

        with torch.no_grad():
            torchlens.extract_dataset(
                Ids(setting.model),
                setting.ids.flatten(0, 1),
                [f"model.h.{n}" for n in range(LAYERS)],
                batch_size=setting.ids.shape[1],
                output_dir=folder / "shards",
                progress=False,
            )

    def read(self, folder: Path) -> Kept:
        """Read what was written."""
        from safetensors.torch import load_file

        files = sorted((folder / "shards").rglob("*.safetensors"))
        shards = [load_file(str(file)) for file in files]
        if not shards:
            shards = [torch.load(file) for file in sorted((folder / "shards").rglob("*.pt"))]
        return {
            n: torch.cat([_named(shard, f"h.{n}").reshape(-1, WIDTH) for shard in shards])
            for n in range(LAYERS)
        }


class LmProbe(FromFolder):
    """`extract`: text in, a safetensors file for each layer and batch."""

    name, packages = "lmprobe extract", ("lmprobe",)
    note = "loads the model and tokenizes in its time, as it always does"

    def run(self, setting: Setting, folder: Path) -> None:
        """Run it."""
        import lmprobe.extract as peer

        texts = [" ".join(map(str, row)) for row in setting.ids.flatten(0, 1).tolist()]
        peer.extract(
            self.model,
            texts,
            list(range(LAYERS)),
            output_dir=str(folder / "acts"),
            batch_size=setting.ids.shape[1],
            remote=False,
            device="cpu",
            backend="local",
            dtype="float32",
        )
        self.batches = len(setting.ids)

    def read(self, folder: Path) -> Kept:
        """Read what was written."""
        import lmprobe.extract as peer

        def layer(n: int) -> torch.Tensor:
            found = [
                peer.load_batch_layer(str(folder / "acts"), n, batch)[0]
                for batch in range(self.batches)
            ]
            return torch.cat([one.reshape(-1, WIDTH) for one in found])

        return {n: layer(n) for n in range(LAYERS)}


def _named(shard: dict[str, torch.Tensor], end: str) -> torch.Tensor:
    return next(value for name, value in shard.items() if name.endswith(end))


RUNNERS: list[type[Peer]] = [SaeLens, TorchLens, LmProbe]
