"""Rows of the tables `tokens` and `examples` that one forward pass adds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lazycache.capture.columns import Scalar
from lazycache.capture.forward_inputs import ForwardInputs
from lazycache.capture.select import Rows
from lazycache.capture.token_text import TokenText
from lazycache.types import EXAMPLES, TOKENS, TableBlock


def table_blocks(
    inputs: ForwardInputs,
    rows: Rows | None,
    *,
    ids: Sequence[int],
    columns: Mapping[str, Sequence[Scalar]],
    text: TokenText | None,
) -> dict[str, TableBlock]:
    """Return a block of each table that the batch has rows in.

    `tokens` (only if there are sequences) has example, position and, if the model was given ids,
    token_id and perhaps token. `examples` has example, length (real tokens, selected or not; only
    if there are sequences) and the user columns.

    Cost: the token ids of the batch come to the host.
    """
    examples: dict[str, Any] = {"example": np.asarray(ids, dtype=np.int64)}
    blocks: dict[str, TableBlock] = {}
    if rows is not None:
        tokens = {"example": examples["example"][rows.example], "position": rows.position}
        tokens |= _token_columns(inputs, rows, text)
        blocks[TOKENS] = TableBlock(len(rows.flat), tokens)
        examples["length"] = rows.lengths
    blocks[EXAMPLES] = TableBlock(len(ids), {**examples, **columns})
    return blocks


def _token_columns(inputs: ForwardInputs, rows: Rows, text: TokenText | None) -> dict[str, Any]:
    if inputs.input_ids is None:
        return {}
    flat = inputs.input_ids.detach().cpu().numpy().reshape(-1)
    token_ids = flat[rows.flat].astype(np.int64)
    if text is None:
        return {"token_id": token_ids}
    return {"token_id": token_ids, "token": text.of(token_ids.tolist())}
