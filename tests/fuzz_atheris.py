"""The readers of `fuzz_targets`, fuzzed by coverage: `python fuzz_atheris.py Log -runs=N`.

By hand only (it needs `pip install atheris`); what it finds becomes a case of a test.
"""

import sys

import atheris

NAME = sys.argv.pop(1)

with atheris.instrument_imports(include=["lazycache.catalog", "lazycache.codec", "lazycache.care"]):
    from fuzz_targets import attempt, mutated, targets

READER = targets()[NAME]


def one(data):
    """Give a reader bytes as they come, or as changes of its seed."""
    attempt(READER, data)


def changed(data, most, seed):
    """Half of the time change the bytes as we do, so that JSON and checksums stay whole."""
    import random

    if seed % 2:
        return mutated(bytes(data) or READER.seed, random.Random(seed))[:most]
    return atheris.Mutate(data, most)


if __name__ == "__main__":
    import tempfile
    from pathlib import Path

    corpus = tempfile.mkdtemp()
    (Path(corpus) / "seed").write_bytes(READER.seed)
    size = f"-max_len={4 * len(READER.seed)}"
    argv = [sys.argv[0], corpus, size, "-rss_limit_mb=4096", "-timeout=20", *sys.argv[1:]]
    atheris.Setup(argv, one, custom_mutator=changed)
    atheris.Fuzz()
