"""What a key of a cache is made of: a kind of site, a layer, a head; as text or as a tuple. Pure.

`("resid_post", 3)`, `resid_out_-1`, `head_values_L1H3`, `k3` and `blocks.3.attn.hook_q` are taken
apart alike. What their kinds mean is said by `easyroutine_names` and `transformer_lens`.
"""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass

GRADIENT = ":grad"
"""Ending of a name: the gradient of the loss with respect to that tensor."""

_NUMBER = "0|[1-9][0-9]{0,8}"  # Python itself refuses to read a number of thousands of digits
_PREFIX = r"(?P<prefix>encoder\.|decoder\.|)"
_KIND = r"(?P<kind>[a-z]+(?:_[a-z]+)*)"
_GRAD = rf"(?P<grad>{GRADIENT})?"
_FORMS = tuple(
    re.compile(form)
    for form in (
        # resid_out_3, resid_out_-1, values_L1, head_values_L1H3
        rf"{_PREFIX}{_KIND}_L?(?P<layer>-?(?:{_NUMBER}))(?:H(?P<head>{_NUMBER}))?{_GRAD}",
        # k3, scale4ln1
        rf"{_KIND}(?P<layer>{_NUMBER})(?P<part>[a-z_]+[0-9]?)?",
        # blocks.3.attn.hook_q, blocks.3.hook_resid_post
        rf"blocks\.(?P<layer>{_NUMBER})\.(?:(?P<part>\w+)\.)?(?P<hook>hook_){_KIND}",
        # hook_embed, ln_final.hook_normalized
        rf"(?:(?P<part>ln_final)\.)?(?P<hook>hook_){_KIND}",
        # embed, encoder.final_norm, input_embeddings
        rf"{_PREFIX}{_KIND}{_GRAD}",
    )
)


@dataclass(frozen=True, slots=True)
class KeyForm:
    """A key taken apart."""

    kind: str
    """What it calls the site: `resid_out`, `resid_post`, `k`, `head_values`."""
    layer: int | None = None
    """Which layer; negative ones count from the last."""
    part: str = ""
    """Which part of the layer, where TransformerLens needs it: `ln1`."""
    head: int | None = None
    """0-based query head; None is the whole site."""
    prefix: str = ""
    """`encoder.`, `decoder.` or nothing."""
    gradient: bool = False
    """Whether it is the gradient of it."""
    hook: bool = False
    """Whether it is a full name of TransformerLens, with `hook_`."""


def key_form(key: object) -> KeyForm | None:
    """Take a key apart; None if it has none of these forms.

    Example:
        >>> form = key_form(("resid_post", -1))
        >>> form.kind, form.layer, key_form("z_L1H3").head, key_form("model.norm")
        ('resid_post', -1, 3, None)
    """
    if isinstance(key, tuple):
        return _of_tuple(key)
    return _of_text(key) if isinstance(key, str) else None


def _of_text(text: str) -> KeyForm | None:
    match = next((found for form in _FORMS if (found := form.fullmatch(text))), None)
    if match is None:
        return None
    said = match.groupdict()
    return KeyForm(
        kind=said["kind"],
        layer=None if said.get("layer") is None else int(said["layer"]),
        part=said.get("part") or "",
        head=None if said.get("head") is None else int(said["head"]),
        prefix=said.get("prefix") or "",
        gradient=said.get("grad") is not None,
        hook=said.get("hook") is not None,
    )


def _of_tuple(key: tuple[object, ...]) -> KeyForm | None:
    """Take `(name, layer)` or `(name, layer, part)` apart; layer and part may be None."""
    if not 1 <= len(key) <= 3 or not isinstance(key[0], str):  # noqa: PLR2004  # these three
        return None
    name, layer, part = (*key, None, None)[:3]
    match = re.fullmatch(rf"{_PREFIX}{_KIND}{_GRAD}", str(name))
    if match is None or not (part is None or isinstance(part, str)):
        return None
    try:
        number = None if layer is None else operator.index(layer)  # type: ignore[arg-type]
    except TypeError:  # not a number: no such key
        return None
    return KeyForm(
        match["kind"], number, part or "", None, match["prefix"], match["grad"] is not None
    )
