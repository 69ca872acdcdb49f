"""How well ways of shuffling mix, beside a true permutation: numbers of one order of rows.

`python -m benchmarks.shuffle_quality [--picture docs/images/shuffle.svg]` prints the table: ours by
its arithmetic, the peers that are installed by what they hand out. All have the same memory to mix
in. An order is judged by its batches, by four numbers that do not depend on values:

* *KS*: largest distance between the distribution of |row - next row| in the stream and that of a
  true permutation;
* *same example*: which share of the pairs of rows of a batch are of one example;
* *noise, example*: variance of the mean of a batch, as a multiple, if all rows of an example had
  the same value (real activations lie between that and independent rows, where it is 1);
* *noise, drift*: the same if values grew with the row number: where in the dataset a batch is from.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.comparing import absent
from benchmarks.loader_peers import PEERS, Rows, numbered, write_rows
from benchmarks.measure import print_table
from lazycache.feed.order import BLOCKS, ROWS, Order

Numbers = npt.NDArray[np.int64]

LENGTH, BATCH = 128, 4096
BLOCK_ROWS = (11, 43, 171)
"""Rows of 1,536 bytes in 16, 64 and 256 KiB."""

LIKE_TRUE = ("HF map + DataLoader", "tensordict memmap", 'lazycache, shuffle="rows"')
"""Permutations of all rows: in the table, not in the picture."""


@dataclass(frozen=True, slots=True)
class Quality:
    """What one order is like. But for chance, both noises of a true permutation are 1."""

    ks: float
    """0: distances of neighbours are those of a true permutation; 1: nothing in common."""
    same_example: float
    """A share of pairs; (length - 1) / (rows - 1) for a true permutation."""
    noise_example: float
    """Variance of the mean of a batch if values were the example's, as a multiple."""
    noise_drift: float
    """The same if values were the row number."""


def quality(batches: Iterable[Numbers], *, rows: int, length: int) -> Quality:
    """Judge an order by whole batches of row numbers.

    Args:
        batches: consecutive or chosen ones, all of one size: int64[batch] each.
        rows: how many rows the dataset has.
        length: rows of one example.
    """
    every = np.stack(list(batches))
    size = every.shape[1]
    by_chance = (length - 1) / (rows - 1)
    same = same_example(every // length)
    means = every.mean(1)
    # what means of rows drawn without replacement would vary by
    drawn = (rows * rows - 1) / 12 / size * (rows - size) / (rows - 1)
    return Quality(
        ks=ks_distance(np.abs(np.diff(every, axis=1)).ravel(), rows),
        same_example=same,
        noise_example=(1 + (size - 1) * same) / (1 + (size - 1) * by_chance),
        noise_drift=float(np.mean((means - (rows - 1) / 2) ** 2) / drawn),
    )


def same_example(examples: Numbers) -> float:
    """Share of all pairs of rows of a batch that are of one example; batches on the first axis."""
    pairs = 0
    for batch in examples:
        count = np.unique(batch, return_counts=True)[1]
        pairs += int((count * (count - 1)).sum())
    return pairs / (examples.shape[0] * examples.shape[1] * (examples.shape[1] - 1))


def ks_distance(distances: Numbers, rows: int) -> float:
    """Largest difference of distribution to that of neighbours in a true permutation of rows."""
    found, count = np.unique(distances, return_counts=True)
    share = np.cumsum(count) / len(distances)
    expected = found * (2 * rows - found - 1) / (rows * (rows - 1))
    before = np.concatenate([[0.0], share[:-1]])
    return float(max(np.abs(share - expected).max(), np.abs(before - expected).max()))


def ours(order: Order, *, batch: int, stretches: int, each: int) -> Iterator[Numbers]:
    """Yield whole batches of our order, `each` in a row at places all over the first epoch."""
    epoch = order.of_epoch(0)
    last = max(1, order.rows // batch - each)
    for start in np.unique(np.linspace(0, last, stretches).astype(np.int64) * batch):
        for first in range(int(start), min(int(start) + each * batch, order.rows), batch):
            if first + batch <= order.rows:
                yield epoch.positions(first, first + batch)


def true_permutation(rows: int, batch: int) -> Iterator[Numbers]:
    """Yield the batches of a permutation by numpy."""
    order = np.random.default_rng(0).permutation(rows)
    return (order[i : i + batch] for i in range(0, rows - batch + 1, batch))


def peers(rows: Rows, folder: Path) -> Iterator[tuple[str, list[Numbers]]]:
    """Yield each installed peer and the rows of its batches, read from what it hands out."""
    write_rows(rows)
    for name, (kind, needs) in PEERS.items():
        if absent(*needs):
            continue
        batches = [numbered(batch) for batch in kind(rows, folder).epoch()]
        yield name, [batch for batch in batches if len(batch) == rows.batch]


def small_orders(rows: Rows) -> Iterator[tuple[str, list[Numbers]]]:
    """Yield a true permutation and our orders in the memory that the peers have."""
    yield "a true permutation", list(true_permutation(rows.count, rows.batch))
    for block in BLOCK_ROWS:
        order = Order(rows.count, BLOCKS, block, rows.buffer // block * block, seed=0)
        name = f"lazycache, blocks of {block} rows"
        yield name, list(ours(order, batch=rows.batch, stretches=1, each=rows.count // rows.batch))
    order = Order(rows.count, ROWS, 1, rows.buffer, seed=0)
    whole = rows.count // rows.batch
    yield 'lazycache, shuffle="rows"', list(ours(order, batch=rows.batch, stretches=1, each=whole))


def large_orders(rows: int, width_bytes: int) -> Iterator[tuple[str, Quality]]:
    """Yield how our orders mix a dataset that no test could hold, by block and window in bytes."""
    for window in (64 << 20, 256 << 20, 1 << 30):
        for block in (16 << 10, 64 << 10, 256 << 10, 1 << 20):
            order = Order(rows, BLOCKS, max(1, block // width_bytes), window // width_bytes, seed=0)
            found = quality(
                ours(order, batch=BATCH, stretches=256, each=1), rows=rows, length=LENGTH
            )
            yield f"{block >> 10} KiB in {window >> 20} MiB", found


def line(name: str, found: Quality) -> list[str]:
    """One order as cells of the table."""
    return [
        name,
        f"{found.ks:.4f}",
        f"{found.same_example:.2%}",
        f"{found.noise_example:.3g}",
        f"{found.noise_drift:.3g}",
    ]


def draw(orders: dict[str, list[Numbers]], rows: int, file: Path) -> None:
    """Draw when each row comes, and how far neighbours are apart, for every order."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "lazycache"  # the same figure is the same file
    figure = Figure(figsize=(1.7 * len(orders), 4), layout="constrained")
    panels: Any = figure.subplots(2, len(orders), sharex="row", sharey="row", squeeze=False)
    apart = np.linspace(0, 1, 41)
    for (name, batches), above, below in zip(orders.items(), *panels, strict=True):
        every = np.concatenate(batches)
        place = np.random.default_rng(0).choice(len(every), min(len(every), 20_000), replace=False)
        above.plot(place / len(every), every[place] / rows, ",", color="C0", rasterized=True)
        above.set_title(name.replace(", ", ",\n").replace(" + ", "\n+ "), fontsize="small")
        distance = np.abs(np.diff(every)) / rows
        below.hist(distance, apart, density=True, color="C0", alpha=0.6)
        below.plot(apart, 2 * (1 - apart), color="C1", linewidth=1)
    panels[0][0].set_ylabel("row in the dataset")
    panels[1][0].set(ylabel="density", ylim=(0, 5))  # what is nearer is cut off
    figure.supxlabel(
        "above: time in the epoch; below: distance of neighbours (line: a true permutation)",
        fontsize="small",
    )
    figure.savefig(file, dpi=150, metadata={"Date": None})


def main() -> None:
    """Print how our orders and those of the installed peers mix."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--picture", type=Path, help="draw them too, into this file")
    parser.add_argument("--rows", type=int, default=1 << 18)
    asked = parser.parse_args()
    columns = ["order", "KS", "same example", "noise, example", "noise, drift"]
    with tempfile.TemporaryDirectory() as place:
        rows = Rows(Path(place) / "raw", asked.rows, 16, LENGTH, BATCH, asked.rows // 16)
        orders = {**dict(small_orders(rows)), **dict(peers(rows, Path(place)))}
    print(f"{rows.count:,} rows, {rows.buffer:,} of them in memory, {BATCH:,} a batch")
    table = [
        line(name, quality(found, rows=rows.count, length=LENGTH)) for name, found in orders.items()
    ]
    print_table(columns, table)
    print("10^9 rows of 1,536 bytes, lazycache by its arithmetic")
    print_table(columns, [line(name, found) for name, found in large_orders(10**9, 1536)])
    if asked.picture is not None:
        drawn = {name: order for name, order in orders.items() if name not in LIKE_TRUE}
        draw(drawn, rows.count, asked.picture)


if __name__ == "__main__":
    main()
