"""Writes docs/reference/sites.md from the table of families: `python tests/sites_table.py`."""

from pathlib import Path

from lazycache.capture.architectures import FAMILIES, Family
from lazycache.capture.sites import LAYER_SITES

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "sites.md"

RESIDUAL, NEURONS = "`[d_model]`", "`[d_mlp]`"

SITES = {
    "embed": (
        "What enters the first layer: embeddings as the model adds, scales and normalises them.",
        "equals `resid_in_0`",
        RESIDUAL,
    ),
    "resid_in_L": (
        "Residual stream that enters layer L.",
        "pre-norm: not normalised yet. Post-norm: leaves the norm that ends layer L-1",
        RESIDUAL,
    ),
    "attn_in_L": (
        "What attention reads.",
        "pre-norm: after the layer's first norm. Post-norm: equals `resid_in_L`",
        RESIDUAL,
    ),
    "attn_out_L": (
        "What attention adds to the stream: all heads, after the output projection.",
        "before any norm",
        RESIDUAL,
    ),
    "resid_mid_L": (
        "Residual stream between attention and MLP.",
        "pre-norm: the input of the layer's second norm. Post-norm: the output of its first",
        RESIDUAL,
    ),
    "mlp_in_L": (
        "What the MLP reads.",
        "pre-norm: after the layer's second norm. Post-norm: equals `resid_mid_L`",
        RESIDUAL,
    ),
    "mlp_act_L": (
        "Neurons: what the down projection reads, after the nonlinearity (and the gate).",
        "-",
        NEURONS,
    ),
    "mlp_out_L": (
        "What the MLP adds to the stream, after the down projection.",
        "before any norm",
        RESIDUAL,
    ),
    "resid_out_L": (
        "Residual stream that leaves layer L; equals `resid_in_(L+1)`.",
        "pre-norm: not normalised. Post-norm: after the norm that ends the layer",
        RESIDUAL,
    ),
    "final_norm": (
        "What the head reads.",
        "pre-norm: after the model's last norm. Post-norm: equals `resid_out` of the last layer",
        RESIDUAL,
    ),
    "logits": (
        "Scores of the vocabulary, as the head returns them; models without a head have none.",
        "-",
        "`[vocabulary]`",
    ),
}
"""Name to meaning, place of the norm and shape of a row."""

HEAD = """\
# Sites

What each canonical name means, and where it is in the models of each family. Generated from
`lazycache/capture/architectures.py` by `python tests/sites_table.py`; a test compares.

`L` is the 0-based layer, `{last}` the last one. Each site has a row per kept token. In the shapes,
`d_model` is the width of the residual stream, `d_mlp` the number of neurons. `lc.sites(model)` and
`lazycache sites MODEL` list them for a given model, with numbers. Pre-norm models (GPT-2, Llama)
normalise what a block reads; post-norm models (BERT) normalise the stream after each block has
added to it.

"""


def page() -> str:
    """The whole page."""
    names = [site for kind in _order() for site in SITES if site.removesuffix("_L") == kind]
    rows = [(f"`{name}`", *SITES[name]) for name in names]
    parts = [HEAD, _table(("site", "what it is", "the norm", "row"), rows)]
    return "".join(parts + [_family(family) for family in FAMILIES])


def _order() -> tuple[str, ...]:
    """Kinds of site in the order of a forward pass."""
    return ("embed", *LAYER_SITES, "final_norm", "logits")


def _family(family: Family) -> str:
    types = ", ".join(f"`{name}`" for name in sorted(family.model_types))
    bases = " or ".join(f"`{base}`" if base else "nothing" for base in family.bases)
    rows = []
    for kind in _order():
        if kind in family.sites:
            path, side = family.sites[kind].rsplit(":", 1)
            name = f"{kind}_L" if kind in LAYER_SITES else kind
            rows.append((f"`{name}`", f"`{path}`", "input" if side == "in" else "output"))
    return (
        f"\n## Family {family.name}\n\n"
        f"- `config.model_type`: {types}.\n"
        f"- `{{base}}`, the prefix of the transformer: {bases}.\n\n"
        + _table(("site", "module", "side"), rows)
        + "\nIdentities (sums up to rounding):\n\n```\n"
        + "".join(f"{line}\n" for line in _identities(family))
        + "```\n"
    )


def _identities(family: Family) -> list[str]:
    sums = [
        ("resid_mid_L", "resid_in_L + attn_out_L", family.attn_norm),
        ("resid_out_L", "resid_mid_L + mlp_out_L", family.mlp_norm),
    ]
    lines = [f"{left} = {_normed(right, norm)}" for left, right, norm in sums]
    return [*lines, "resid_in_(L+1) = resid_out_L", "resid_in_0 = embed"]


def _normed(text: str, norm: str | None) -> str:
    return text if norm is None else f"{norm}({text})"


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
