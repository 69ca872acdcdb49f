"""The decoders that `docs/format.md` prints read what the encoder writes."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from codec_helpers import index_columns, ragged_block, ragged_rows, write_ragged, write_shard

from lazycache.codec.dtypes import as_bytes
from lazycache.codec.statistics_file import BLOCK, ZONE, StatisticsEncoder
from lazycache.types import SiteSpec

PAGE = Path(__file__).parents[2] / "docs" / "format.md"


@pytest.fixture
def printed() -> dict:
    """The functions of the page."""
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    scope: dict = {}
    exec(compile("\n".join(snippets), PAGE.name, "exec"), scope)
    return scope


def test_the_printed_decoder_reads_a_shard(printed, tmp_path):
    """Examples and values of a plain site, without lazycache."""
    values = torch.arange(60.0).reshape(10, 2, 3)
    write_shard(tmp_path / "s.parquet", values, chunk_rows=4)
    example, read = printed["read_float32"](tmp_path / "s.parquet")
    assert example.tolist() == index_columns(10)["example"].tolist()
    assert torch.equal(torch.from_numpy(read.copy()), values)


@pytest.mark.parametrize("tile", [4, 5])
def test_the_printed_decoder_reads_tiles(printed, tmp_path, tile):
    """Tiles that end with the row, and a last one that is narrower."""
    values = torch.arange(120.0).reshape(10, 3, 4)
    write_shard(tmp_path / "s.parquet", values, chunk_rows=4, tile=tile)
    read = printed["read_tiled_float32"](tmp_path / "s.parquet")
    assert torch.equal(torch.from_numpy(read.copy()), values)


@pytest.mark.parametrize("widths", [[4, 1, 9, 9, 2], [6, 6, 6], [5]])
def test_both_printed_decoders_read_ragged_rows(printed, tmp_path, widths):
    """Rows of their own widths, once as Parquet and once by the numbers of the log."""
    block = ragged_block(widths, (2, -1), torch.float32)
    path = tmp_path / "s.parquet"
    chunks = write_ragged(path, block, chunk_rows=3)
    by_log = []
    for chunk in chunks:
        entry = [chunk.rows, chunk.value_offset, 0, list(chunk.index_offsets), chunk.width]
        by_log += printed["read_ragged_chunk"](path, entry, 2)
    for rows in (printed["read_ragged_float32"](path), by_log):
        assert [row.shape for row in rows] == [(2, width) for width in widths]
        assert [np.ascontiguousarray(row).tobytes() for row in rows] == ragged_rows(block)


def test_the_printed_decoder_reads_means(printed, tmp_path):
    """Those of the blocks, not of other rows of the file."""
    spec, path = SiteSpec("a", "tokens", "float32", (2, 3), 24), tmp_path / "s.parquet"
    means = torch.arange(12.0, dtype=torch.float64).reshape(2, 2, 3)
    low = as_bytes(torch.zeros(6))
    with path.open("wb") as file:
        encoder = StatisticsEncoder(spec, write=lambda buffers: file.write(b"".join(buffers)))
        encoder.add(ZONE, [0], [9], {"min": low, "max": low})
        encoder.add(BLOCK, [0, 5], [5, 4], {"mean": as_bytes(means)})
        encoder.finish()
    assert [mean.tolist() for mean in printed["read_means"](path, (2, 3))] == means.tolist()
