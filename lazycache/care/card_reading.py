"""The part of a card that says how a dataset is read: with lazycache, and without. Pure."""

from __future__ import annotations

from lazycache.catalog.snapshot import Snapshot
from lazycache.storage.layout import site_dir
from lazycache.types import INDEX_COLUMNS, RAGGED, SiteSpec

_MACROS = {
    "float32": """CREATE MACRO f32(v, i) AS (
  v[4*i+4:4*i+4] || v[4*i+3:4*i+3] || v[4*i+2:4*i+2] || v[4*i+1:4*i+1])::BIT::FLOAT;""",
    "bfloat16": r"""CREATE MACRO bf16(v, i) AS (
  v[2*i+2:2*i+2] || v[2*i+1:2*i+1] || '\x00\x00'::BLOB)::BIT::FLOAT;""",
    "float16": r"""CREATE MACRO f16_bits(v, i) AS (
  '\x00\x00'::BLOB || v[2*i+2:2*i+2] || v[2*i+1:2*i+1])::BIT::INTEGER;
CREATE MACRO f16_of(u) AS ((CASE WHEN u & 32768 > 0 THEN -1.0 ELSE 1.0 END) * CASE (u >> 10) & 31
  WHEN 0 THEN (u & 1023) * pow(2.0, -24)
  WHEN 31 THEN CASE WHEN u & 1023 = 0 THEN 'inf'::FLOAT ELSE 'nan'::FLOAT END
  ELSE (1024 + (u & 1023)) * pow(2.0, ((u >> 10) & 31) - 25) END)::FLOAT;
CREATE MACRO f16(v, i) AS f16_of(f16_bits(v, i));""",
}
_CALLS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}

_PYTHON = '''import numpy as np

def decode(values, dtype, shape):
    """Values of a column as an array: [rows, *shape]."""
    raw = b"".join(values)
    if dtype == "bfloat16":  # the upper half of a float32
        numbers = (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4")
    else:
        numbers = np.frombuffer(raw, np.dtype(dtype).newbyteorder("<"))
    return numbers.reshape(-1, *shape)'''


def reading(snapshot: Snapshot) -> str:
    """Return the section of a card that says how the dataset is read."""
    spec = _shown(snapshot)
    parts = [_with_lazycache(spec)]
    if spec is not None:
        parts += [_caution(snapshot, spec), _duckdb(snapshot, spec), _python(snapshot, spec)]
    return "\n".join(parts)


def _shown(snapshot: Snapshot) -> SiteSpec | None:
    """Return the site that the examples read: one whose dtype anything decodes, if there is one."""
    stored = [s for s in snapshot.sites.values() if s.layout != RAGGED and snapshot.shards(s.name)]
    whole = [s for s in stored if not _is_tiled(snapshot, s)]
    plain = [s for s in whole if s.dtype in _CALLS and s.shape]
    return next(iter([*plain, *whole, *stored]), None)


def _with_lazycache(spec: SiteSpec | None) -> str:
    name = "site" if spec is None else spec.name
    return f"""## Read it

With lazycache, from this folder or from its URL; a slice reads a slice:

```python
import lazycache as lc

cache = lc.open("THIS FOLDER OR URL")
cache[{name!r}]        # a lazy tensor
```
"""


def _caution(snapshot: Snapshot, spec: SiteSpec) -> str:
    runs = (
        "\nExample ids count in each run; the log says which file is of which run.\n"
        if len(snapshot.runs) > 1
        else ""
    )
    tiled = any(shard.ref.tile for site in snapshot.sites for shard in snapshot.shards(site))
    tiles = (
        "\nFiles that are cut into tiles have a column for each, `value_0000`, `value_0064`, ...: "
        "the\nunits from that number on.\n"
        if tiled
        else ""
    )
    keys = ", ".join(f"`{column}`" for column in INDEX_COLUMNS[spec.table])
    return f"""Without it: the files are plain Parquet. `data/SITE/` has the values, `tables/` the
rows; they go together by {keys}. A value is the bytes of a row,
little-endian; `lazycache.dtype` and `lazycache.shape` in the metadata of a file say what they are.
A writer that was killed may have left files that `_log/` does not name: `lazycache gc` removes
them.
{runs}{tiles}"""


def _duckdb(snapshot: Snapshot, spec: SiteSpec) -> str:
    if spec.dtype not in _CALLS or not spec.shape or _is_tiled(snapshot, spec):
        return ""
    keys = ", ".join(INDEX_COLUMNS[spec.table])
    values = f"read_parquet('data/{site_dir(spec.name)}/*.parquet')"
    rows = f"read_parquet('tables/{site_dir(spec.table)}/*.parquet', union_by_name = true)"
    known = snapshot.columns(spec.table)
    shown = [keys, *(name for name in ("token_id", "token") if name in known)]
    return f"""### DuckDB

Unit `i` of a value, from 0 on (units of a row are numbered row-major):

```sql
{_MACROS[spec.dtype]}

SELECT {", ".join(shown)}, {_CALLS[spec.dtype]}(value, 0) AS unit_0
FROM {values} AS activations
JOIN {rows} AS rows USING ({keys})
ORDER BY unit_0 DESC LIMIT 5;
```
"""  # noqa: S608  # a text for people, of folder names that are escaped


def _is_tiled(snapshot: Snapshot, spec: SiteSpec) -> bool:
    return any(shard.ref.tile for shard in snapshot.shards(spec.name))


def _python(snapshot: Snapshot, spec: SiteSpec) -> str:
    folder = f"data/{site_dir(spec.name)}"
    if spec.dtype.startswith("float8") or _is_tiled(snapshot, spec):
        return ""
    return f"""### Polars and pandas

```python
{_PYTHON}

shape = {list(spec.shape)!r}
```

```python
import polars as pl

frame = pl.read_parquet("{folder}/*.parquet")
values = decode(frame["value"], {spec.dtype!r}, shape)
```

```python
import pandas as pd

frame = pd.read_parquet("{folder}")
values = decode(frame["value"], {spec.dtype!r}, shape)
```
"""
