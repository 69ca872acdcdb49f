"""Ops of the log in short: lines of base64 of zlib of JSON, each with its place and CRC. Pure."""

from __future__ import annotations

import binascii
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from isal import isal_zlib

from lazycache.catalog import fields
from lazycache.errors import CorruptShardError

_MOST_RAW = 8 << 20  # bytes of JSON in a block: what a lying one may make a reader unpack
_GOOD_RAW = 2 << 20
_NUMBERS = 4


@dataclass(frozen=True, slots=True)
class Block:
    """Where a block is."""

    start: int
    """Its first byte, counted from the end of the head."""
    length: int
    """Bytes of the base64."""
    raw: int
    """Bytes of the JSON."""
    crc: int
    """CRC-32 of the base64."""

    @property
    def stop(self) -> int:
        """The byte after its last."""
        return self.start + self.length


def blocks_of(value: Any, *, size: int) -> tuple[Block, ...]:
    """Return the blocks that a head lists, in a body of `size` bytes.

    Raises:
        CorruptShardError: they cannot be.
    """
    if type(value) is not list:
        raise CorruptShardError("blocks must be a list")
    blocks = tuple([_block(entry) for entry in value])
    if any(block.stop > size or block.raw > _MOST_RAW or block.crc >> 32 for block in blocks):
        raise CorruptShardError("a block does not fit in its pack")
    return blocks


def _block(entry: Any) -> Block:
    numbers = fields.integers(entry)
    if len(numbers) != _NUMBERS:
        raise CorruptShardError(f"not a block: {str(entry)[:80]}")
    return Block(*numbers)


class BlockWriter:
    """A body in the making.

    Example:
        >>> writer = BlockWriter()
        >>> blocks = writer.add([[1, "a"], [2, "b"]])
        >>> body, (block,) = writer.body(), blocks
        >>> unpacked(body[block[0] : block[0] + block[1]], Block(*block))
        [[1, 'a'], [2, 'b']]
    """

    def __init__(self) -> None:
        self._lines: list[bytes] = []
        self._size = 0

    def add(self, items: Iterable[Any]) -> list[list[int]]:
        """Add JSON values in blocks of some MB; return where they are, as a head lists it.

        Raises:
            CorruptShardError: one value alone is too large for a block.
        """
        return [self._write(texts) for texts in _grouped(items)]

    def _write(self, texts: Sequence[str]) -> list[int]:
        raw = f"[{','.join(texts)}]".encode()
        if len(raw) > _MOST_RAW:
            raise CorruptShardError(f"an op of {len(raw):,} bytes is too large for a pack")
        packed = binascii.b2a_base64(isal_zlib.compress(raw, 3), newline=False)
        place = [self._size, len(packed), len(raw), zlib.crc32(packed)]
        self._lines.append(packed)
        self._size += len(packed) + 1
        return place

    def body(self) -> bytes:
        """Return all of it."""
        return b"".join([line + b"\n" for line in self._lines])


def _grouped(items: Iterable[Any]) -> Iterator[list[str]]:
    texts: list[str] = []
    size = 0
    for item in items:
        text = json.dumps(item, separators=(",", ":"))
        if texts and size + len(text) > _GOOD_RAW:
            yield texts
            texts, size = [], 0
        texts.append(text)
        size += len(text)
    if texts:
        yield texts


def unpacked(packed: bytes, block: Block) -> list[Any]:
    """Return the values of a block; no more memory is taken than it announces.

    Raises:
        CorruptShardError: it is damaged.
    """
    if zlib.crc32(packed) != block.crc:
        raise CorruptShardError("the checksum of a block is wrong")
    try:
        unpacker = zlib.decompressobj()
        raw = unpacker.decompress(binascii.a2b_base64(packed, strict_mode=True), block.raw + 1)
        values = json.loads(raw) if len(raw) == block.raw else None
    except (ValueError, RecursionError, zlib.error) as exc:
        raise CorruptShardError(f"a block is damaged: {exc}") from exc
    if type(values) is not list:
        raise CorruptShardError("a block is not what was announced")
    return values
