"""Every reader under mutated bytes: values or an error of ours, in bounded time and memory."""

import random
import resource
import time
import zlib

import pytest
from fuzz_targets import attempt, mutated, targets

NAMES = ("Log", "RawLog", "IdentityFile", "TableFile", "PageHeader", "Footer", "Statistics", "Tree")
SECONDS = 5.0
GROWN = 600 << 20


@pytest.fixture(scope="module")
def readers():
    return targets()


@pytest.mark.parametrize("name", [*NAMES, "PackFile"])
def test_only_errors_of_ours_come_out(name, readers, rounds, figures):
    """No other exception, no case of seconds, no growth, whatever the bytes are."""
    target = readers[name]
    cases, refused, slowest = rounds(120, 14_000), 0, 0.0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rng = random.Random(zlib.crc32(name.encode()))
    for _ in range(cases):
        data = mutated(target.seed, rng)
        started = time.monotonic()
        try:
            refused += attempt(target, data)
        except Exception as exc:  # noqa: BLE001 - whatever comes out is the finding
            pytest.fail(f"{name} let {type(exc).__name__} out: {exc} (of {data!r:.2000})")
        slowest = max(slowest, time.monotonic() - started)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert name == "PackFile" or refused > cases / 20  # the mutations reach what is checked
    assert slowest < SECONDS
    assert grown < GROWN
    figures.add("fuzz cases", cases)
    figures.add("fuzz cases refused", refused)
