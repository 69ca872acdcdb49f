"""What a log may claim of files: everything a reader computes addresses from is checked."""

from dataclasses import replace

import pytest
from catalog_helpers import array, ragged_site, shard, site

from lazycache.catalog.placing import check_array, check_shard, check_site
from lazycache.errors import CorruptShardError

RAGGED = ragged_site()
SHARD = shard(RAGGED, 10, chunk_rows=4)


def with_chunk(base, **changes):
    """The shard with its last chunk changed."""
    return replace(base, chunks=(*base.chunks[:-1], replace(base.chunks[-1], **changes)))


@pytest.mark.parametrize(
    "spec", [RAGGED, site(), ragged_site(table="calls"), ragged_site(table="example_calls")]
)
def test_what_the_writer_writes_passes(spec):
    """Ragged and plain sites of every table, with as many index columns as they have."""
    check_site(spec)
    check_shard(shard(spec, 10, chunk_rows=4), spec)


@pytest.mark.parametrize(
    "spec",
    [
        replace(RAGGED, layout="row"),
        replace(RAGGED, layout="tile:64"),
        replace(RAGGED, shape=(2, 3)),
        replace(RAGGED, shape=(-1, -1)),
        replace(RAGGED, shape=(), row_bytes=4),
        replace(RAGGED, shape=(0, -1), row_bytes=0),
        replace(RAGGED, row_bytes=16),
        replace(RAGGED, row_bytes=0),
        replace(RAGGED, shape=(1 << 40, -1), row_bytes=1 << 42),
        replace(RAGGED, dtype="float31"),
        replace(RAGGED, table="sideways"),
        replace(site(), layout="ragged"),
        replace(site(), shape=(-4,), row_bytes=16),
        replace(site(), shape=(2, -1), row_bytes=8),
    ],
    ids=str,
)
def test_sites_that_cannot_be_are_refused(spec):
    """Layout, -1, bytes and table must go together."""
    with pytest.raises(CorruptShardError, match=f"'{spec.name}'"):
        check_site(spec)


LAST = SHARD.chunks[-1]
LIES = {
    "no width": with_chunk(SHARD, width=None),
    "wider than the file": with_chunk(SHARD, width=SHARD.length),
    "endless": with_chunk(SHARD, width=(1 << 63) - 1),
    "one column too few": with_chunk(SHARD, index_offsets=LAST.index_offsets[:-1]),
    "one column too many": with_chunk(SHARD, index_offsets=(*LAST.index_offsets, 64)),
    "widths behind the end": with_chunk(
        SHARD, index_offsets=(*LAST.index_offsets[:-1], SHARD.length - 7)
    ),
    "values behind the end": with_chunk(SHARD, value_offset=SHARD.length),
    "short file": replace(SHARD, length=LAST.value_offset),
}


@pytest.mark.parametrize("lie", LIES)
def test_ragged_chunks_that_leave_their_file_are_refused(lie):
    """A width, or a missing one, cannot make a reader leave the file."""
    with pytest.raises(CorruptShardError, match="parquet"):
        check_shard(LIES[lie], RAGGED)


def test_a_chunk_of_a_plain_site_has_no_width():
    """A width where none can be is corrupt, not ignored."""
    with pytest.raises(CorruptShardError, match=r"the width 10, but site 'resid_out_0'.*'row'"):
        check_shard(with_chunk(shard(site(), 10), width=10), site())


GOOD = array()
BAD_ARRAYS = {
    "dtype": replace(GOOD, dtype="complex64"),
    "no dimension": replace(GOOD, shape=()),
    "too many dimensions": replace(GOOD, shape=(1,) * 33),
    "no values": replace(GOOD, shape=(2, 0)),
    "larger than the file": replace(GOOD, shape=(2, 3, 400)),
    "endless": replace(GOOD, shape=((1 << 63) - 1,) * 32),
    "more than a page holds": replace(GOOD, shape=(2, 3, 1 << 28), length=1 << 50),
    "not aligned": replace(GOOD, value_offset=8),
    "behind the end": replace(GOOD, value_offset=1 << 20),
    "no CRC-32": replace(GOOD, value_crc=1 << 32),
}


@pytest.mark.parametrize("lie", BAD_ARRAYS)
def test_arrays_that_leave_their_file_are_refused(lie):
    """Dtype, shape and offset of an array must be bytes of its file."""
    check_array(GOOD)
    with pytest.raises(CorruptShardError):
        check_array(BAD_ARRAYS[lie])
