"""A small dataset for tests of index and SQL: real table files, tensors instead of shards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lazycache.catalog.snapshot import Snapshot
from lazycache.codec.columns import column_type
from lazycache.codec.tables import encode_table, run_lengths
from lazycache.storage.local_store import LocalStore
from lazycache.types import (
    ChunkRef,
    Commit,
    Identity,
    IoCounters,
    RunInfo,
    ShardRef,
    SiteSpec,
    TableFileRef,
    index_columns,
)

WORDS = (" Paris", " the", " of", " city", " light")


@dataclass
class FakeReader:
    """Answers `take` and `covered` from tensors over all rows, and counts."""

    values: Mapping[str, torch.Tensor]
    io: IoCounters = field(default_factory=IoCounters)
    missing: Mapping[str, np.ndarray] = field(default_factory=dict)
    fail: BaseException | None = None
    asked: list[tuple[str, int]] = field(default_factory=list)

    def take(self, site: str, rows: np.ndarray, *, units: tuple[Any, ...] = ()) -> torch.Tensor:
        if self.fail is not None:
            raise self.fail
        assert rows.dtype == np.int64
        assert self.covered(site, rows).all(), "rows without a value are never asked for"
        values = self.values[site][torch.from_numpy(rows.copy())]
        if units:
            values = values[(slice(None), *units)]
        self.asked.append((site, len(rows)))
        self.io.add(requests=len(rows), rows=len(rows), nbytes=values.nbytes)
        return values

    def scan(
        self, site: str, rows: range, *, units: tuple[Any, ...] = (), block_rows: int
    ) -> Iterator[torch.Tensor]:
        for start in range(0, len(rows), block_rows):
            part = rows[start : start + block_rows]
            yield self.take(site, np.arange(part.start, part.stop), units=units)

    def covered(self, site: str, rows: np.ndarray) -> np.ndarray:
        return ~np.isin(rows, self.missing.get(site, np.empty(0, np.int64)))


@dataclass
class Made:
    """A dataset under construction: a store, its commits and its values."""

    store: LocalStore
    identity: Identity
    commits: list[Commit] = field(default_factory=list)
    values: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def snapshot(self) -> Snapshot:
        return Snapshot.replay(self.identity, self.commits)

    def reader(self, **kwargs: Any) -> FakeReader:
        return FakeReader(self.values, **kwargs)

    def commit(
        self,
        tables: Mapping[str, Mapping[str, Any]],
        sites: Mapping[str, tuple[str, torch.Tensor]] | None = None,
        *,
        run: str = "main",
    ) -> None:
        """Add one commit: rows of tables, and values of sites for these rows."""
        version = len(self.commits) + 1
        refs = [self._table(name, columns, version) for name, columns in tables.items()]
        specs, shards = [], []
        for name, (table, values) in (sites or {}).items():
            spec = spec_of(name, table, values)
            specs.append(spec)
            shards.append(shard_of(spec, len(values), version))
            old = self.values.get(name)
            self.values[name] = values if old is None else torch.cat([old, values])
        self.commits.append(
            Commit(
                version=version,
                txn=f"txn-{version}",
                writer="test",
                time="2026-11-21T12:00:00Z",
                run=run,
                runs=(RunInfo(run, {"model": "tiny"}),),
                sites=tuple(specs),
                tables=tuple(refs),
                shards=tuple(shards),
            )
        )

    def _table(self, table: str, columns: Mapping[str, Any], version: int) -> TableFileRef:
        data = encode_table(columns)
        path = f"tables/{table}/{version:032x}-r0.parquet"
        self.store.put(path, data)
        examples, lengths = run_lengths(np.asarray(columns["example"]))
        kinds = {name: column_type(values) or "string" for name, values in columns.items()}
        return TableFileRef(
            table=table,
            path=path,
            length=len(data),
            rows=len(columns["example"]),
            row_start=0,
            columns=kinds,
            examples=examples,
            lengths=lengths,
        )


def spec_of(name: str, table: str, values: torch.Tensor) -> SiteSpec:
    """Return the spec of a site whose rows are `values`."""
    dtype = str(values.dtype).removeprefix("torch.")
    row_bytes = values[:1].nbytes if len(values) else 0
    return SiteSpec(name, table, dtype, tuple(values.shape[1:]), row_bytes)


def shard_of(spec: SiteSpec, rows: int, version: int) -> ShardRef:
    """Return a shard of one chunk; its file does not exist."""
    nbytes = rows * spec.row_bytes
    columns = len(index_columns(spec))
    offsets = tuple(64 + nbytes + 8 * rows * number for number in range(columns))
    return ShardRef(
        site=spec.name,
        path=f"data/{spec.name.replace(':', '~3A')}/{version:032x}-r0.parquet",
        length=64 + nbytes + 8 * rows * columns + 1000,
        rows=rows,
        row_start=0,
        covers=None,
        chunks=(ChunkRef(rows, 64, 7, offsets),),
    )


def token_columns(examples: Sequence[int], length: int, **more: Any) -> dict[str, Any]:
    """Return the columns of `length` tokens for each example, words in turn."""
    example = np.repeat(np.asarray(examples, np.int64), length)
    rows = len(example)
    return {
        "example": example,
        "position": np.tile(np.arange(length, dtype=np.int32), len(examples)),
        "token_id": np.arange(rows, dtype=np.int64) % len(WORDS),
        "token": [WORDS[i % len(WORDS)] for i in range(rows)],
        **more,
    }


def empty_dataset(path: Path, *, uuid: str = "dataset") -> Made:
    """Return a dataset without commits in a folder."""
    store = LocalStore(path / "dataset", create=True)
    return Made(store, Identity(version=1, uuid=uuid, created="2026-11-21T12:00:00Z"))


def small_dataset(path: Path) -> Made:
    """Return 100 examples of 50 tokens with three sites of tokens and one of examples."""
    made = empty_dataset(path)
    generator = torch.Generator().manual_seed(0)
    rows = 5000

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    made.commit(
        {
            "tokens": token_columns(range(100), 50),
            "examples": {
                "example": np.arange(100),
                "length": np.full(100, 50),
                "label": [f"l{i % 3}" for i in range(100)],
            },
        },
        {
            "mlp_act_3": ("tokens", noise(rows, 16).bfloat16()),
            "resid_out_0": ("tokens", noise(rows, 8)),
            "z_1": ("tokens", noise(rows, 2, 4).half()),
            "model.norm:out": ("tokens", noise(rows, 4)),
            "pooled": ("examples", noise(100, 8)),
        },
    )
    return made


def flip(path: Path, *, step: int = 16_384) -> None:
    """Change bytes all over the inside of an index file; its header stays as it is."""
    data = bytearray(path.read_bytes())
    for at in range(12_288 + step, len(data), step):
        data[at] ^= 0xFF
    path.write_bytes(data)
