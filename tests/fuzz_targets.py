"""Everything that reads bytes of others, as functions of bytes: what fuzzing calls.

Each target takes mutated bytes of one kind of file, puts them where that file is read, and returns;
errors of ours are answers, every other exception is a bug. Checksums are made right again, so that
what is behind them is reached.
"""

from __future__ import annotations

import json
import random
import uuid
import warnings
import zlib
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace

import numpy as np
import torch
from catalog_helpers import LIES, full_commit, sealed, spots
from hostile_datasets import batch
from writer_helpers import new_writer, snapshot_of

from lazycache.cache.values.tree_values import Decoder
from lazycache.cache.values.value_trees import Encoder, as_text
from lazycache.care.checks.footers import differences
from lazycache.catalog import records
from lazycache.catalog.checkpoints import checkpoint
from lazycache.catalog.identity import create_dataset, read_identity
from lazycache.catalog.loading import load_snapshot
from lazycache.catalog.log import CommitLog
from lazycache.catalog.snapshot import Snapshot
from lazycache.codec.columns import ARROW_TYPES
from lazycache.codec.footer import parse_footer
from lazycache.codec.statistics import read_blocks, read_top, read_zones
from lazycache.codec.statistics_file import COLUMNS_OF
from lazycache.codec.tables import decode_table, encode_table
from lazycache.codec.thrift_reader import read_struct
from lazycache.errors import LazycacheError
from lazycache.storage.fsspec_store import FsspecStore
from lazycache.storage.layout import IDENTITY
from lazycache.types import Identity

OURS = Identity(version=1, uuid="u", created="2026-01-01")

Target = Callable[[bytes], None]


def _store():
    store = FsspecStore(f"memory://fuzz-{uuid.uuid4().hex}", storage_options={})
    create_dataset(store)
    return store


class Log:
    """A record of every kind of op, alone in its log."""

    seed = records.encode(replace(full_commit("7"), version=1))[:-10]

    def __call__(self, data: bytes) -> None:
        record = sealed(data)
        assert not records.is_torn(record)
        commit = records.decode(record, version=1)
        snapshot = Snapshot.replay(OURS, [commit])
        list(snapshot.paths())
        for site in snapshot.sites:
            snapshot.shards(site)
        for table in snapshot.tables:
            snapshot.extents(table)


class RawLog:
    """The same record without a checksum made right."""

    seed = records.encode(replace(full_commit("7"), version=1))

    def __call__(self, data: bytes) -> None:
        if not records.is_torn(data):
            records.decode(data, version=1)


class IdentityFile:
    """`lazycache.json`."""

    def __init__(self):
        self._store = _store()
        self.seed = json.dumps(json.loads(self._store.get(IDENTITY))).encode()

    def __call__(self, data: bytes) -> None:
        self._store.put(IDENTITY, data)
        read_identity(self._store)


class TableFile:
    """A table file with every type of column."""

    seed = encode_table(
        {
            "example": np.repeat(np.arange(4), 5),
            "position": np.tile(np.arange(5, dtype=np.int32), 4),
            "token": [f"t{i % 3}" if i % 4 else None for i in range(20)],
            "loss": [i / 3 for i in range(20)],
            "flag": [i % 2 == 0 for i in range(20)],
            "raw": [bytes([i]) * i for i in range(20)],
        }
    )

    def __call__(self, data: bytes) -> None:
        rows = decode_table(data)
        assert rows.nbytes <= 256 << 20
        assert {str(field.type) for field in rows.schema} <= set(map(str, ARROW_TYPES.values()))


class PageHeader:
    """The header of a page of a table file."""

    seed = TableFile.seed[4:80]

    def __call__(self, data: bytes) -> None:
        numbers, end = read_struct(data)
        assert end <= len(data)
        assert all(type(number) is int for number in numbers)


class _Written:
    """A dataset in memory with statistics."""

    def __init__(self):
        self.store = _store()
        writer = new_writer(self.store)
        writer.write(batch())
        writer.close()
        self.snapshot = snapshot_of(self.store)
        self.spec = self.snapshot.sites["a"]
        (placed,) = self.snapshot.shards("a")
        self.ref = placed.ref


class Footer:
    """The footer of a shard."""

    def __init__(self):
        made = _Written()
        raw = made.store.get(made.ref.path)
        size = int.from_bytes(raw[-8:-4], "little")
        self.seed, self._ref = raw[-8 - size : -8], made.ref

    def __call__(self, data: bytes) -> None:
        footer = parse_footer(data)
        rows = [chunk.rows for chunk in self._ref.chunks]
        names = ["example", "position", "value"]
        metadata = {"lazycache.dtype": '"float32"', "lazycache.shape": "[16]"}
        list(
            differences(footer, columns=names, rows=rows, pages=[[]] * len(rows), metadata=metadata)
        )


class Statistics:
    """The bytes of a statistics file, with every checksum made right."""

    def __init__(self):
        self._made = made = _Written()
        assert made.ref.stats is not None
        self.seed = made.store.get(made.ref.stats.path)

    def __call__(self, data: bytes) -> None:
        made, stats = self._made, self._made.ref.stats

        def right(part, kind):
            last = part.rows * 16 * (8 if kind == "block" else 4)
            first = next(at for at in part.offsets if at)
            assert len(part.offsets) == len(COLUMNS_OF[kind])
            return replace(part, crc=zlib.crc32(data[first : part.offsets[-1] + last]))

        ref = replace(
            made.ref,
            stats=replace(
                stats,
                blocks=right(stats.blocks, "block"),
                top=right(stats.top, "top"),
                zones=tuple(right(part, "zone") for part in stats.zones),
            ),
        )

        def get_ranges(_, ranges):
            return [data[start:stop] for start, stop in ranges]

        failed = None
        for read in (read_blocks, read_zones, read_top):
            try:
                read(ref, made.spec, get_ranges)
            except LazycacheError as exc:
                failed = exc
        if failed is not None:
            raise failed


class Tree:
    """The tree of a value beside the sites."""

    seed = as_text(
        Encoder("x").tree(
            {
                "a": (1, float("nan"), 2**70, "\ud800", b"b", 1j),
                "w": [torch.ones(2), np.arange(3), np.float32(2), torch.Size([2])],
                3: {None: torch.float32, (1, 2): torch.device("cpu")},
            }
        )
    )

    def __call__(self, data: bytes) -> None:
        decoder = Decoder(lambda _: torch.zeros(6), ragged=lambda *_: None)
        decoder.parsed(data)


class PackFile:
    """A checkpoint of the log: a damaged one is passed over, and never changes what is read.

    One that lies with right checksums may leave files out, as a log may; `verify` tells it.
    """

    def __init__(self):
        self._store = store = _store()
        for number in range(3):
            writer = new_writer(store)
            writer.write(batch(rows=6, first=number))
            writer.close()
        self._path = checkpoint(store)
        assert self._path is not None
        self.seed = store.get(self._path)
        commits = CommitLog(store).read()
        self._known = sorted(Snapshot.replay(read_identity(store), commits).paths())

    def __call__(self, data: bytes) -> None:
        assert self._found(data) == self._known
        self._found(_resealed(data))

    def _found(self, data: bytes):
        self._store.put(self._path, data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            return sorted(load_snapshot(self._store).paths())


def _resealed(data: bytes) -> bytes:
    """Make the checksum of the head right again, where there is one."""
    head, newline, rest = data.partition(b"\n")
    return head + newline + b"%08x" % zlib.crc32(head) + rest[8:]


def targets() -> Mapping[str, Target]:
    """Every reader, by name."""
    kinds = [Log, RawLog, IdentityFile, TableFile, PageHeader, Footer, Statistics, Tree, PackFile]
    return {kind.__name__: kind() for kind in kinds}


def mutated(seed: bytes, rng: random.Random) -> bytes:
    """Bytes like `seed`: flipped, cut, repeated, overwritten; of JSON also one field replaced."""
    if seed[:1] == b"{" and rng.random() < 0.6:
        try:
            return _lying(seed, rng)
        except (ValueError, RecursionError):  # it is no JSON any more
            return seed[: rng.randrange(len(seed))]
    data = bytearray(seed)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(6)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at : at + 1] = rng.choice((b"\0", b"\xff", b"\x7f", b"\x80", b'"', b"[", b"{"))
        elif kind == 2:
            del data[at : at + rng.choice((1, 2, 8, 200))]
        elif kind == 3:
            start = rng.randrange(len(data) + 1)
            data[at:at] = data[start : start + rng.choice((1, 4, 64))]
        elif kind == 4:
            number = rng.choice((0, 1, -1, 2**31 - 1, -(2**31), 2**40, 2**63 - 1))
            size = 4 if -(2**31) <= number < 2**31 else 8
            data[at : at + size] = number.to_bytes(size, "little", signed=True)
        else:
            data[at : at + 8] = rng.randbytes(rng.choice((1, 8)))
        if not data:
            return b""
    return bytes(data)


_MORE_LIES = [64, 1 << 31, 1 << 40, 1 << 62, "uint8", "data/a/b"]


def _lying(seed: bytes, rng: random.Random) -> bytes:
    line, newline, rest = seed.partition(b"\n")  # behind the first line: checksums, blocks
    entry = json.loads(line)
    for _ in range(rng.choice((1, 1, 2))):
        places = [place for place in spots(entry) if place]
        if not places:
            break
        *way, last = rng.choice(places)
        spot = entry
        for key in way:
            spot = spot[key]
        if rng.random() < 0.15 and isinstance(spot, dict):
            del spot[last]
        elif rng.random() < 0.2 and isinstance(spot, list):
            spot.insert(last, deepcopy(spot[last]))
        else:
            spot[last] = deepcopy(rng.choice([*LIES, *_MORE_LIES]))
    return json.dumps(entry).encode() + newline + rest


def attempt(target: Target, data: bytes) -> bool:
    """Call a target; True if it was refused with an error of ours."""
    try:
        target(data)
    except LazycacheError:
        return True
    return False
