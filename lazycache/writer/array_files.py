"""Tensors of the model that a run keeps once: which of them it lacks, and their files."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from contextlib import suppress

import torch

from lazycache.catalog.snapshot import Snapshot
from lazycache.codec.arrays import Encoded, check_array, write_array
from lazycache.codec.checksum import crc32
from lazycache.codec.dtypes import as_bytes, of_tensor
from lazycache.errors import CaptureError, StorageError, UnsupportedDtypeError
from lazycache.storage.layout import array_path
from lazycache.storage.store import Store
from lazycache.types import ArrayRef
from lazycache.writer.transaction import Transaction


class ArrayFiles:
    """Write the arrays that a run lacks, with its first commit. For the committer's thread.

    Args:
        arrays: name to tensor; they must not change until the first commit.
        run: name of the run.
        snapshot: what the run has already.
        store: where the dataset is.
        rank: part of the file names.

    Cost: compares arrays that the run has by their CRC: one pass over these tensors.

    Raises:
        CaptureError: an array that cannot be stored, or that differs from what the run has.
        UnsupportedDtypeError: values that cannot be stored bit for bit.
    """

    def __init__(
        self,
        arrays: Mapping[str, torch.Tensor],
        *,
        run: str,
        snapshot: Snapshot,
        store: Store,
        rank: int,
    ) -> None:
        for name, tensor in arrays.items():
            _check(name, tensor, known=snapshot.array(run, name), run=run)
        self._store = store
        self._rank = rank
        kept = snapshot.arrays(run)
        self._lacking = {name: tensor for name, tensor in arrays.items() if name not in kept}
        self._written: list[ArrayRef] = []
        self._transaction: Transaction | None = None

    def write(self, transaction: Transaction) -> list[ArrayRef]:
        """Write the arrays that the run lacks; return what its commit will name of them.

        Nothing at all from the second call on: the first transaction takes them all.
        """
        if not self._lacking:
            return []
        self._transaction = transaction
        for name in list(self._lacking):
            self._written.append(self._file(name, self._lacking.pop(name)))
        return self._written

    def delete_leftovers(self) -> None:
        """Delete the files that no log record can name. The thread has ended."""
        if self._transaction is not None and not self._transaction.attempted:
            for ref in self._written:
                with suppress(StorageError):  # invisible all the same; there is an error to tell
                    self._store.delete(ref.path)

    def _file(self, name: str, tensor: torch.Tensor) -> ArrayRef:
        path = array_path(name, unique=uuid.uuid4().hex, rank=self._rank)
        place = self._upload(path, name, tensor)
        return ArrayRef(
            name=name,
            path=path,
            length=place.length,
            dtype=of_tensor(tensor).name,
            shape=tuple(tensor.shape),
            value_offset=place.value_offset,
            value_crc=place.value_crc,
        )

    def _upload(self, path: str, name: str, tensor: torch.Tensor) -> Encoded:
        upload = self._store.create(path)
        try:
            place = write_array(name, tensor, write=upload.write)
            upload.finish()
        except BaseException:
            with suppress(StorageError):  # the error that led here is told instead
                upload.abort()
            raise
        return place


def _check(name: str, tensor: torch.Tensor, *, known: ArrayRef | None, run: str) -> None:
    try:
        array_path(name, unique="0", rank=0)
        check_array(name, tensor)
    except UnsupportedDtypeError as exc:
        raise UnsupportedDtypeError(f"array {name!r}: {exc}") from exc
    except StorageError as exc:
        raise CaptureError(f"array {name!r}: {exc}") from exc
    if known is None:
        return
    shape, dtype = tuple(tensor.shape), of_tensor(tensor).name
    same = (shape, dtype) == (known.shape, known.dtype)
    if not same or crc32(as_bytes(tensor.detach().cpu().contiguous())) != known.value_crc:
        raise CaptureError(
            f"Run {run!r} has an array {name!r} of {known.dtype} and shape {known.shape}; this one "
            f"of {dtype} and shape {shape} has other values. One run is of one model: give this "
            "capture a run of its own, run='name'."
        )
