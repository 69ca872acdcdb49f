"""Names of TransformerLens as ours: `("resid_post", 3)` is `resid_out_3`. Pure.

They are those of its `HookedTransformer`. Values are those of the model that was captured, with its
weights as they are; TransformerLens by default folds norms into them and centres them.
"""

from __future__ import annotations

from lazycache.cache.names.key_forms import KeyForm
from lazycache.cache.names.meanings import Meaning

_NEURONS = (
    "neurons before the nonlinearity have no name here: capture the module that makes them by its "
    "path, such as 'model.layers.{L}.mlp.up_proj'; 'mlp_act_{L}' is after it"
)
_ROTATED = "queries and keys are stored before rotary: 'queries_{L}', 'keys_{L}'"
_PER_HEAD = "it repeats 'resid_in_{L}' for each head: read that"
_SCALE = "a norm's scale is not stored: it follows from what the norm reads"

_KINDS = {
    "resid_pre": "resid_in",
    "resid_post": "resid_out",
    "resid_mid": "resid_mid",
    "attn_out": "attn_out",
    "mlp_out": "mlp_out",
    "pattern": "pattern",
    "q": "queries",
    "k": "keys",
    "v": "values",
    "z": "z",
    "result": "head_out",
    "post": "mlp_act",
}
_ABSENT = {
    "attn_scores": "scores before the softmax are not stored: 'pattern_{L}' is after it",
    "pre": _NEURONS,
    "pre_linear": _NEURONS,
    "mid": _NEURONS,
    "rot_q": _ROTATED,
    "rot_k": _ROTATED,
    "q_input": _PER_HEAD,
    "k_input": _PER_HEAD,
    "v_input": _PER_HEAD,
    "scale": _SCALE,
    "pos_embed": "'embed' is what enters the first layer: tokens and positions together",
}
_ALIASES = {
    "attn": "pattern",
    "attn_logits": "attn_scores",
    "query": "q",
    "key": "k",
    "value": "v",
    "mlp_pre": "pre",
    "mlp_mid": "mid",
    "mlp_post": "post",
}
_OF_ATTENTION = frozenset(
    {"q", "k", "v", "z", "rot_q", "rot_k", "result", "pattern", "attn_scores"}
)
_OF_MLP = frozenset({"pre", "post", "mid", "pre_linear"})
_NORMS = {"ln1": "attn_in", "ln2": "mlp_in", "ln_final": "final_norm"}
_HOOKS = {
    # these hooks are before the norm, our sites of these names are after it
    "mlp_in": Meaning("resid_mid"),
    "attn_in": Meaning(instead=_PER_HEAD),
    "embed": Meaning("embed"),
}
ADDED = Meaning(
    instead="of this model it is the embedding of the tokens alone, to which positions are added: "
    "'embed' is their sum, what enters the first layer. Capture the module of the embedding by its "
    "path to have it alone"
)
"""What `hook_embed` means of a model that adds positions to its embedding."""


def meaning(form: KeyForm, *, adds_positions: bool = False) -> Meaning | None:
    """Return what a name of TransformerLens means; None if it is none.

    Args:
        form: The key taken apart.
        adds_positions: Whether the model is known to add positions to its embedding.

    Example:
        >>> from lazycache.cache.names.key_forms import key_form
        >>> meaning(key_form("blocks.3.attn.hook_q")).kind, meaning(key_form("ln_final")).kind
        ('queries', 'final_norm')
    """
    kind = _ALIASES.get(form.kind, form.kind)
    if kind == "normalized" or form.kind == "ln_final":
        return _of_norm(form)
    if form.hook and kind in _HOOKS:
        return ADDED if kind == "embed" and adds_positions else _HOOKS[kind]
    if kind in _ABSENT:
        return Meaning(instead=_ABSENT[kind])
    return Meaning(_KINDS[kind]) if kind in _KINDS else None


def _of_norm(form: KeyForm) -> Meaning:
    norm = form.part if form.layer is not None else form.part or "ln_final"
    if norm in _NORMS:
        return Meaning(_NORMS[norm])
    return Meaning(
        instead="say of which norm: ('normalized', {L}, 'ln1') is 'attn_in_{L}', 'ln2' is "
        "'mlp_in_{L}'"
    )


def hook_template(form: KeyForm) -> str:
    """Return the full name there, `blocks.{}.hook_resid_post`, with a place for the layer.

    Activations of a `HookedTransformer` have these names, in memory or as paths of modules.

    Example:
        >>> from lazycache.cache.names.key_forms import key_form
        >>> hook_template(key_form(("q", 3)))
        'blocks.{}.attn.hook_q'
    """
    kind = _ALIASES.get(form.kind, form.kind)
    if form.layer is None:
        return f"ln_final.hook_{kind}" if kind in ("normalized", "scale") else f"hook_{kind}"
    part = {"a": "attn", "m": "mlp"}.get(form.part, form.part)
    if kind in _OF_ATTENTION:
        part = "attn"
    elif kind in _OF_MLP:
        part = "mlp"
    elif part in ("b", "block", "blocks"):
        part = ""
    return f"blocks.{{}}.{part}{'.' if part else ''}hook_{kind}"
