"""Options of the command line, checked before anything is read or loaded."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, get_args

from lazycache.errors import CaptureError

if TYPE_CHECKING:
    from lazycache.capture.values.reduce import Pool


def at_least_one(option: str, value: int | None) -> None:
    """Refuse a count below 1; None is an option that was not given.

    Raises:
        CaptureError: names the option.
    """
    if value is not None and value < 1:
        raise CaptureError(f"{option} {value}: give a number of at least 1.")


def check_capture(*, url: str | None, add_to: str | None, sites: list[str] | None) -> None:
    """Refuse a capture that does not say what is stored, or where.

    Raises:
        CaptureError: names what is missing.
    """
    if (url is None) == (add_to is None):
        raise CaptureError(
            "Give one place: a folder or URL for a new dataset (lazycache capture MODEL CORPUS "
            "URL), or --add-to URL for sites that are added to one that is there."
        )
    if not sites:
        raise CaptureError("--site: name at least one; lazycache sites MODEL lists what there is.")


def pool_of(text: str | None) -> Pool | None:
    """Read `--pool`; None is an option that was not given.

    Raises:
        CaptureError: no way to pool.

    Example:
        >>> pool_of("mean")
        'mean'
    """
    from lazycache.capture.values.reduce import Pool

    found = next((known for known in get_args(Pool) if known == text), None)
    if text is not None and found is None:
        raise CaptureError(f"--pool {text}: give {', '.join(get_args(Pool))}.")
    return found


def positions_of(text: str) -> int | str:
    """Read `--positions`.

    Raises:
        CaptureError: neither a word that means positions nor a number.

    Example:
        >>> positions_of("-2"), positions_of("last-3")
        (-2, 'last-3')
    """
    from lazycache.capture.values.select import check_positions

    if re.fullmatch(r"-?[0-9]+", text):
        return int(text)
    try:
        check_positions(text)
    except CaptureError as exc:
        raise CaptureError(
            f"--positions {text}: give all, first, last, last-K (the K-th from the end), or a "
            "position number."
        ) from exc
    return text


def check_dtype_option(option: str, name: str | None) -> None:
    """Refuse what is no floating-point dtype; None is an option that was not given.

    Raises:
        CaptureError: names the option.
    """
    from lazycache.capture.values.convert import torch_dtype

    try:
        torch_dtype(name)
    except CaptureError as exc:
        raise CaptureError(
            f"{option} {name}: give a floating-point dtype of torch, such as bfloat16, float16 or "
            "float32."
        ) from exc


def check_device(name: str) -> None:
    """Refuse a device that cannot compute here.

    Raises:
        CaptureError: says why, and which devices there are.
    """
    import torch

    try:
        if torch.zeros(1, device=name).item() == 0:
            return
    except (RuntimeError, AssertionError, ImportError) as exc:
        # torch asserts where it was built without the device; its messages go on for lines
        reason = re.split(r"\. |\n", str(exc))[0].removesuffix(".")
        raise CaptureError(
            f"--device {name} cannot be used here: {reason}. There {_devices()}."
        ) from exc


def check_length(max_length: int | None, model: Any, tokenizer: Any) -> None:
    """Refuse examples that are longer than model and tokenizer can take.

    Raises:
        CaptureError: says the limit.
    """
    from lazycache.capture.corpus.corpus import longest_input

    limit = longest_input(model, tokenizer)
    if max_length is not None and limit is not None and max_length > limit:
        raise CaptureError(
            f"--max-length {max_length} is more than this model takes: {limit} tokens at most."
        )


def _devices() -> str:
    """Say which devices there are."""
    import torch

    found = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        found.append("mps")
    return f"{'is' if len(found) == 1 else 'are'}: {', '.join(found)}"
