"""Writes docs/reference/sites.md from the table of families: `python tests/sites_table.py`."""

from pathlib import Path

from lazycache.capture.sites.families import decoder_only, encoders, mixtures, seq2seq, vision
from lazycache.capture.sites.family import Family
from lazycache.capture.sites.names import HEAD_SITES, LAYER_SITES
from lazycache.types import TOKENS

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "sites.md"

STREAM, HEADS, KV_HEADS = "`[d_model]`", "`[heads, d_head]`", "`[kv_heads, d_head]`"
KEYS = "`[heads, keys]`"

SITES = {
    "embed": (
        ("What enters the first layer: embeddings as the model adds, scales and normalises them."),
        STREAM,
    ),
    "resid_in_L": (
        (
            "Residual stream that enters layer L. Pre-norm: not normalised yet. Post-norm: "
            "leaves the norm that ends layer L-1."
        ),
        STREAM,
    ),
    "attn_in_L": (
        ("What attention reads. Pre-norm: after the layer's first norm. Post-norm: `resid_in_L`."),
        STREAM,
    ),
    "queries_L": ("Queries as they are projected, before rotary and norms.", HEADS),
    "keys_L": ("Keys as they are projected, before rotary and norms.", KV_HEADS),
    "values_L": ("Values as they are projected.", KV_HEADS),
    "pattern_L": (
        (
            "Attention probabilities of this token over the tokens of its example. Needs "
            "eager attention."
        ),
        KEYS,
    ),
    "z_L": ("Each head's values, mixed by its pattern: the input of the output projection.", HEADS),
    "head_out_L": (
        (
            "What each head adds to the stream. Never stored: `z_L` is, and the projection "
            "once per run; computed on read."
        ),
        "`[heads, d_model]`",
    ),
    "attn_out_L": (
        (
            "What attention adds to the stream: all heads, after the output projection. "
            "Before the norm of post-norm models, after the second norm of a sandwich."
        ),
        STREAM,
    ),
    "resid_mid_L": (
        (
            "Residual stream between attention and MLP. Pre-norm: the input of the layer's "
            "second norm. Post-norm: the output of its first. Parallel blocks have none."
        ),
        STREAM,
    ),
    "cross_attn_in_L": ("What attention to the encoder reads in a decoder.", STREAM),
    "cross_attn_out_L": ("What attention to the encoder adds to the stream.", STREAM),
    "cross_pattern_L": (
        (
            "Attention probabilities of this token of the decoder over the tokens of the "
            "encoder. Needs eager attention."
        ),
        KEYS,
    ),
    "resid_cross_L": ("Residual stream between attention to the encoder and MLP.", STREAM),
    "mlp_in_L": (
        ("What the MLP reads. Pre-norm: after the layer's second norm. Post-norm: the stream."),
        STREAM,
    ),
    "router_L": (
        "Scores of the experts, before softmax and choice; mixtures of experts only.",
        "`[experts]`",
    ),
    "mlp_act_L": (
        ("Neurons: what the last projection of the MLP reads, after the nonlinearity (and gate)."),
        "`[d_mlp]`",
    ),
    "mlp_out_L": (
        (
            "What the MLP adds to the stream, after its last projection. Before the norm of "
            "post-norm models, after the second norm of a sandwich."
        ),
        STREAM,
    ),
    "resid_out_L": (
        (
            "Residual stream that leaves layer L. Pre-norm: not normalised. Post-norm: after "
            "the norm that ends the layer."
        ),
        STREAM,
    ),
    "final_norm": (
        (
            "What the head reads. Pre-norm: after the model's last norm. Post-norm: "
            "`resid_out` of the last layer."
        ),
        STREAM,
    ),
    "logits": (
        ("Scores of the vocabulary, as the head returns them; models without a head have none."),
        "`[vocabulary]`",
    ),
}
"""Name to meaning and shape of a row."""

CUTS = {
    "heads": "units are heads × d_head",
    "kv_heads": "units are kv heads × d_head",
    "concat": "units are all queries, then all keys, then all values",
    "per_head": "units are heads × (query, key, value) × d_head",
    "grouped": "units are kv heads × (their queries, key, value) × d_head",
    "pattern": "[batch, heads, queries, keys], from which each row takes its query",
}
"""Layout of a cut to what it says of a module's tensor."""

HEAD = """\
# Sites

What each canonical name means, and where it is in the models of each family. Generated from the
tables in `lazycache/capture/sites/families/` by `python tests/sites_table.py`; a test compares.

`L` is the 0-based layer, `H` a 0-based head. `lc.sites(model)` and `lazycache sites MODEL` list the
sites of a given model, with shapes and bytes. A model of one's own gets these names by
`lc.register_architecture`; any other is captured by module path.

- *Pre-norm* models (GPT-2, Llama) normalise what a block reads. *Post-norm* models (BERT) normalise
  the stream after each block has added to it. A *sandwich* (Gemma 2) also normalises what a block
  returns, before it is added. In a *parallel* block attention and MLP read the same stream.
- In a model with an encoder and a decoder names begin with `encoder.` or `decoder.`
  (`decoder.resid_out_3`); `logits` do not. Rows of the decoder are in the table `decoder_tokens`.
- Heads have names too ({heads}): `z_L1H3` is
  head 3 of `z_1`, a slice on read; to capture it means to capture `z_1`. `values_L1` is another way
  to write `values_1`. Heads are counted as queries are: where several share keys and values,
  `values_L1H3` is what head 3 reads.
- `NAME:grad` is the gradient of the loss with respect to that tensor.

"""

CUT_HEAD = """
Heads are cut out of what a module is called with or returns in one of these ways; `.q`, `.k` or
`.v` behind it says which part of a fused projection is meant:

"""

LOWER = """
In all families, `resid_in_0 = embed` and `resid_in_(L+1) = resid_out_L`. Where they have these
sites, rows of `pattern_L` sum to 1, and `z_L` is `pattern_L @ values_L`, each head with its own
values. All this in evaluation, where there is no dropout, and up to rounding.

`{base}` is the prefix of the transformer proper, `{last}` the last layer. The tables give modules
as `PATH:side`: `in` is what a module is called with, `out` what it returns, `[1]` the second
element.
"""

SORTS = (
    ("Decoders", decoder_only.FAMILIES),
    ("Mixtures of experts", mixtures.FAMILIES),
    ("Encoders", encoders.FAMILIES),
    ("Encoder-decoders", seq2seq.FAMILIES),
    ("Vision", vision.FAMILIES),
)

DIFFERENT = 9
"""Rows up to which a family is described by what is other than in one before it."""


def page() -> str:
    """The whole page."""
    heads = ", ".join(f"`{kind}`" for kind in HEAD_SITES)
    rows = [(f"`{name}`", *said) for name, said in SITES.items()]
    cuts = [(f"`{name}`", said) for name, said in CUTS.items()]
    parts = [
        HEAD.replace("{heads}", heads),
        _table(("site", "what it is", "row"), rows),
    ]
    parts += [CUT_HEAD, _table(("cut", "what it says"), cuts), LOWER]
    for title, families in SORTS:
        parts.append(f"\n## {title}\n")
        parts += [_family(family, families[:n]) for n, family in enumerate(families)]
    return "".join(parts)


def _order() -> tuple[str, ...]:
    """Kinds of site in the order of a forward pass."""
    return ("embed", *LAYER_SITES, "final_norm", "logits")


def _family(family: Family, before: tuple[Family, ...]) -> str:
    like = _nearest(family, before)
    lines = [f"\n### {family.name}\n\n", *(f"- {line}\n" for line in _facts(family, like)), "\n"]
    old = {} if like is None else like.sites
    rows = [_row(kind, family) for kind in _order() if family.sites.get(kind) != old.get(kind)]
    if like is not None:
        lines.append(f"As in {like.name}{', but:' if rows else '.'}\n")
        lines.append("\n" if rows else "")
    if rows:
        lines.append(_table(("site", "where", "cut"), rows))
    holds = identities(family)
    if like is None or holds != identities(like):
        lines += ["\n```\n", *(f"{line}\n" for line in holds), "```\n"]
    return "".join(lines)


def _nearest(family: Family, before: tuple[Family, ...]) -> Family | None:
    """The family before this one that its sites differ from least, if by little."""
    counts = [
        (sum(family.sites.get(kind) != other.sites.get(kind) for kind in _order()), n)
        for n, other in enumerate(before)
    ]
    fewest, n = min(counts, default=(DIFFERENT + 1, 0))  # of several the first
    return before[n] if fewest <= DIFFERENT else None


def _facts(family: Family, like: Family | None) -> list[str]:
    types = ", ".join(f"`{name}`" for name in sorted(family.model_types))
    when = "".join(f", `{name}` = {value}" for name, value in family.when.items())
    lines = [f"`config.model_type`: {types}{when}."]
    if like is None or like.bases != family.bases:
        bases = " or ".join(f"`{base}`" if base else "nothing" for base in family.bases)
        lines.append(f"`{{base}}`: {bases}.")
    if family.prefix:
        lines.append(f"Names begin with `{family.prefix}`.")
    if family.table != TOKENS:
        lines.append(f"Rows are in the table `{family.table}`.")
    if not family.causal:
        lines.append("Tokens attend in both directions.")
    return [*lines, *([family.notes] if family.notes else [])]


def _row(kind: str, family: Family) -> tuple[str, str, str]:
    name = f"`{kind}_L`" if kind in LAYER_SITES else f"`{kind}`"
    place = family.sites.get(kind)
    if place is None:
        return name, "none", ""
    return name, f"`{place.at}`", f"`{place.cut}`" if place.cut else ""


def identities(family: Family) -> list[str]:
    """What holds between the sites of a family."""
    lines = []
    if family.projection is not None:
        lines.append(f"attn_out_L = {_normed('sum of head_out_L + bias', family.head_norm)}")
    if family.parallel:
        return [*lines, "resid_out_L = resid_in_L + attn_out_L + mlp_out_L"]
    lines.append(f"resid_mid_L = {_normed('resid_in_L + attn_out_L', family.attn_norm)}")
    stream = "resid_mid_L"
    if "resid_cross" in family.sites:
        cross = _normed("resid_mid_L + cross_attn_out_L", family.cross_norm)
        lines.append(f"resid_cross_L = {cross}")
        stream = "resid_cross_L"
    return [*lines, f"resid_out_L = {_normed(f'{stream} + mlp_out_L', family.mlp_norm)}"]


def _normed(text: str, norm: str | None) -> str:
    return text if norm is None else f"{norm}({text})"


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "".join(f"| {' | '.join(line).rstrip()} |\n" for line in lines)


if __name__ == "__main__":
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
