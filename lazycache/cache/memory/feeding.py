"""Batches for training of what is selected, as a method of lazy tensors and stacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch

from lazycache.cache.reading.front_door import FRONT_DOOR

if TYPE_CHECKING:
    from lazycache.feed.loader import Loader


class Feeding:
    """`loader` of what has rows."""

    __slots__ = ()

    def loader(
        self,
        batch_size: int,
        *,
        shuffle: bool | Literal["rows"] = True,
        seed: int = 0,
        columns: Sequence[str] | Mapping[str, str] = (),
        where: str | None = None,
        norm: str | Callable[[torch.Tensor], torch.Tensor] | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        drop_last: bool = False,
        block_bytes: int = 64 << 10,
        window_bytes: int = 256 << 20,
        prefetch_bytes: int = 64 << 20,
    ) -> Loader:
        """Return batches of the selected rows for training: each row once an epoch, shuffled.

        A batch is a tensor [batch_size, *row] of the dtype of `x` (of a stack [batch_size, layers,
        *row]), or with `columns` a dict: values by the name of the site ("stack" of a stack,
        "values" of what is computed), columns by theirs. It is the caller's own. The order is a
        function of the data and the arguments, on any machine; `state_dict` and `load_state_dict`
        of the loader go on in the middle of it.

        Args:
            batch_size: Rows of a batch; the last one of an epoch may have fewer.
            shuffle: True: blocks of consecutive rows are permuted over the whole dataset, and the
                rows of many blocks, a window, among each other. "rows": every row by itself, a
                true permutation, which costs a disk or a server one read per row. False: rows in
                storage order.
            seed: Chooses the order, with the number of the epoch.
            columns: What the tables say of each row: names (`token` is text, as a list; numbers
                are tensors), or SQL by name, `{"late": "position > 10"}`.
            where: A condition of SQL that rows must satisfy, as in `x.where`.
            norm: "center" takes the mean off, "standard" divides by the standard deviation too,
                "scale" multiplies by one number so that rows have a mean squared norm of the
                number of units; all by statistics of what is selected. Or a function of a batch.
                Values are float32 then.
            dtype: What values are converted to.
            device: Where batches are handed out; to a GPU they travel ahead, beside the training.
            rank: Number of this process of `world_size`: each has its own part of the rows. By
                default as `torch.distributed` says, if it runs.
            world_size: How many processes share the rows.
            drop_last: Whether every rank stops after the whole batches that all of them have.
            block_bytes: Size of a block, of one site: the smallest that a disk reads at its speed.
                Over an object store take 1 MiB and a larger window, for fewer requests.
            window_bytes: Size of a window, of all sites. More mixes better; of a far store two
                windows are held in memory.
            prefetch_bytes: What is read before it is asked for, on threads; 0: nothing is.

        Cost: reads nothing now but what `columns`, `where` and `norm` ask. An epoch reads each row
        once. Local rows are gathered from the page cache, blocks that are not in it are asked for a
        window ahead. In memory are `prefetch_bytes`, as much again in memory of batches that were
        dropped and is used again, the columns and places of two windows and, of far stores, two
        windows, however many rows there are.

        Raises:
            SelectionError: there is no row, rows differ in width, or an argument does not fit.
            QueryError: no such column, names the nearest.

        Example:
            >>> from lazycache.samples import small_cache
            >>> x = small_cache()["resid_out_0"]
            >>> for batch in x.loader(4, seed=1, columns=["example"]):
            ...     print(batch["resid_out_0"].shape, batch["example"].shape)
            torch.Size([4, 2]) torch.Size([4])
            torch.Size([2, 2]) torch.Size([2])
        """
        loader: Loader = FRONT_DOOR.loader(
            self,
            batch_size,
            shuffle=shuffle,
            seed=seed,
            columns=columns,
            where=where,
            norm=norm,
            dtype=dtype,
            device=device,
            rank=rank,
            world_size=world_size,
            drop_last=drop_last,
            block_bytes=block_bytes,
            window_bytes=window_bytes,
            prefetch_bytes=prefetch_bytes,
        )
        return loader
