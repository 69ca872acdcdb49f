"""Models of images: how many positions an image has, as the family of the model says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from torch import nn

from lazycache.capture.inputs.forward_inputs import Patches
from lazycache.capture.sites.architectures import locate
from lazycache.capture.sites.names import HookPoint


def patches_of(model: nn.Module) -> Patches | None:
    """Return the function from the shape of a batch of pixels to positions per image.

    None: the model is of no family that is known to cut images into patches.

    Example:
        >>> patches_of(nn.Linear(2, 2)) is None
        True
    """
    for stack in locate(model):
        count = stack.family.patches
        if count is not None:
            return partial(count, stack.config)
    return None


def are_of_images(model: nn.Module, points: Iterable[HookPoint]) -> bool:
    """Say whether any of these points is in the part of a model that sees images.

    Where a model reads texts too, such as a whole CLIP, this decides whose positions its rows are.

    Example:
        >>> are_of_images(nn.Linear(2, 2), [HookPoint("", "out")])
        False
    """
    bases = tuple(stack.base for stack in locate(model) if stack.family.patches is not None)
    return bool(bases) and any(f"{point.path}.".startswith(bases) for point in points)


def images_of(named: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return of the arguments of a call the images alone; all of them, if there are no images.

    Example:
        >>> images_of({"input_ids": 1, "pixel_values": 2}), images_of({"input_ids": 1})
        ({'pixel_values': 2}, {'input_ids': 1})
    """
    pixels = named.get("pixel_values")
    return named if pixels is None else {"pixel_values": pixels}
