"""Draw how costs grow: `python -m benchmarks.draw_scale JSON docs/images/scale.svg`.

JSON is what `python -m benchmarks --only scale --long --json FILE` wrote.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FAR = ", far away"
WARM = ", warm"


def draw(comparisons: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the times near and far, as SVG: first as a line, warm as a dashed one."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "lazycache"  # the same figure is the same file
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, far, title in zip(axes, (False, True), ("local disk", "object store"), strict=True):
        chosen = [one for one in comparisons if one["operation"].endswith(FAR) == far]
        names = [one["operation"].removesuffix(FAR) for one in chosen]
        questions = list(dict.fromkeys(name.rsplit(", ", 1)[0] for name in names))
        for name, one in zip(names, chosen, strict=True):
            line(axis, name, one["ways"], color=f"C{questions.index(name.rsplit(', ', 1)[0])}")
        axis.set(xscale="log", yscale="log", xlabel="shards", title=title)
        axis.grid(visible=True, alpha=0.3)
    axes[0].set_ylabel("seconds")
    axes[1].legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


def line(axis: Any, name: str, ways: Sequence[Mapping[str, Any]], *, color: str) -> None:
    """Draw one question over the numbers of shards."""
    shards = [int(way["name"].split()[0].replace(",", "")) for way in ways]
    spent = [statistics.median(way["seconds"]) for way in ways]
    style = "--" if name.endswith(WARM) else "-"
    axis.plot(shards, spent, style, color=color, marker="o", label=name)


if __name__ == "__main__":
    report = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    draw(report["stages"]["scale"]["comparisons"], Path(sys.argv[2]))
