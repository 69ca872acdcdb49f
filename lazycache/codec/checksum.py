"""The CRC-32 of Parquet pages (that of zlib and gzip): the one owner of isal.

zlib's own runs at 2 to 4 GB/s, as costly as writing the bytes; ISA-L's reads them at the speed of
memory. Both give the same number and release the GIL. `crc32_combine` gives the CRC of two ranges
in a row from the CRC of each, so that values have one of their own and are read once.
"""

from __future__ import annotations

from isal.isal_zlib import crc32, crc32_combine

__all__ = ["crc32", "crc32_combine"]
