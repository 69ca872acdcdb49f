"""Rows of the tables of tokens and examples that one forward pass adds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lazycache.capture.inputs.columns import Scalar
from lazycache.capture.inputs.token_text import TokenText
from lazycache.capture.stack import Stack
from lazycache.types import DECODER_TOKENS, EXAMPLES, TableBlock


def table_blocks(
    stacks: Sequence[Stack],
    *,
    ids: Sequence[int],
    kept: np.ndarray | None,
    columns: Mapping[str, Sequence[Scalar]],
    text: TokenText | None,
) -> dict[str, TableBlock]:
    """Return a block of each table that the batch has rows in.

    The table of a stack (only if it has sequences) has example, position and, if the stack was
    given ids, token_id and perhaps token. `examples` has example, length (real tokens, selected or
    not; only if there are sequences), decoder_length likewise, and the user columns.

    Args:
        stacks: The model, or its encoder and perhaps its decoder.
        ids: Of all examples of the batch.
        kept: Examples that are recorded, by their number in the batch; None is all.
        columns: User columns, one value per example of the batch.
        text: Gives ids their text; None stores none.

    Cost: waits for the token ids of the batch, which are on their way to the host.
    """
    every = np.asarray(ids, dtype=np.int64)
    numbers = np.arange(len(every)) if kept is None else kept
    blocks: dict[str, TableBlock] = {}
    examples: dict[str, Any] = {"example": every[numbers]}
    for stack in stacks:
        if stack.rows is not None:
            tokens = {"example": every[stack.rows.example], "position": stack.rows.position}
            tokens |= {**_token_columns(stack, text), **stack.columns}
            blocks[stack.table] = TableBlock(len(stack.rows.flat), tokens)
            length = "decoder_length" if stack.table == DECODER_TOKENS else "length"
            examples[length] = stack.rows.lengths[numbers]
    chosen = {name: [values[n] for n in numbers.tolist()] for name, values in columns.items()}
    blocks[EXAMPLES] = TableBlock(len(numbers), {**examples, **chosen})
    return blocks


def _token_columns(stack: Stack, text: TokenText | None) -> dict[str, Any]:
    flat = stack.token_ids()
    if flat is None or stack.rows is None:
        return {}
    token_ids = flat[stack.rows.flat].astype(np.int64)
    if text is None:
        return {"token_id": token_ids}
    return {"token_id": token_ids, "token": text.of(token_ids.tolist())}
