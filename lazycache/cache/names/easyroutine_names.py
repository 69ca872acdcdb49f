"""Keys of easyroutine's cache as ours: `head_values_L1H3` is `values_L1H3`. Pure."""

from __future__ import annotations

from lazycache.cache.names.meanings import Meaning

_POSITIONS = (
    "of a dataset, the positions that are stored are in the table of tokens: "
    "cache.sql('SELECT example, position FROM tokens')"
)
_PROVENANCE = (
    "of a dataset, what was captured from which model is in the table of runs: "
    "cache.sql('FROM runs')"
)
_AVERAGE = "an average over examples is made on reading: cache['pattern_L{L}H{H}'].mean(0)"
_PROJECTED = (
    "projections of single heads are not stored: multiply cache['{what}_L{L}H{H}'] by the "
    "matrix; what a head adds to the stream is 'head_out_L{L}H{H}'"
)


def _projected(what: str) -> Meaning:
    return Meaning(instead=_PROJECTED.replace("{what}", what))


MEANINGS = {
    "head_values": Meaning("values"),
    "head_keys": Meaning("keys"),
    "head_queries": Meaning("queries"),
    "resid_in_post_layernorm": Meaning("attn_in"),
    "input_embeddings": Meaning("embed"),
    "input_embeddings_gradients": Meaning("embed", gradient=True),
    "last_layernorm": Meaning(
        instead="there it is a dict of statistics of what the last norm reads: take them from "
        "the residual stream, x = cache['resid_out', -1]; x.mean(-1), x.var(-1). "
        "What leaves the norm is 'final_norm'"
    ),
    "mapping_index": Meaning(instead=_POSITIONS),
    "token_dict": Meaning(instead=_POSITIONS),
    "offset": Meaning(instead=_POSITIONS),
    "metadata": Meaning(instead=_PROVENANCE),
    "avg_pattern": Meaning(instead=_AVERAGE),
    "avg_attn_pattern": Meaning(instead=_AVERAGE),
    "projected_value": _projected("values"),
    "projected_key": _projected("keys"),
    "projected_query": _projected("queries"),
}
"""Kind of easyroutine's keys to what it means; all other kinds have our names."""
