"""Reads random ranges of many files through one block cache, and compares every byte.

    python reading_script.py DATA CACHE MAX_BYTES SEED SECONDS

`DATA` holds the files. Prints `ready` once it reads, and at the end how many ranges it compared.
"""

import sys
import time
from pathlib import Path
from random import Random

from block_cache_helpers import File, cached

from lazycache.storage.local_store import LocalStore


def main():
    data, folder = Path(sys.argv[1]), Path(sys.argv[2])
    random, until = Random(int(sys.argv[4])), time.monotonic() + float(sys.argv[5])
    held = {
        File(path.name, path.stat().st_size): path.read_bytes() for path in sorted(data.iterdir())
    }
    files = cached(LocalStore(data, create=False), folder, max_bytes=int(sys.argv[3]))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    compared = reused = 0
    while time.monotonic() < until:
        file = random.choice(list(held))
        ranges = []
        for _ in range(random.randint(1, 3)):
            start = random.randrange(file.length)
            ranges.append((start, min(file.length, start + random.randint(1, 40_000))))
        got = files.get_ranges(file, ranges)
        for (start, stop), part in zip(ranges, got.parts, strict=True):
            if part != held[file][start:stop]:
                sys.exit(f"wrong bytes of {file} at {start}")
        compared += len(ranges)
        reused += got.cached > 0
    sys.stdout.write(f"{compared} {reused}\n")


if __name__ == "__main__":
    main()
