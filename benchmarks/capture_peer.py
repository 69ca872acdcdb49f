"""A peer that captures: how it runs, and how it is shown that it keeps the right numbers."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import torch

from benchmarks.capture_model import WIDTH, Setting
from benchmarks.comparing import Way, absent

Kept = dict[int, torch.Tensor]
"""Layer to its values, [rows, width], for the layers that a peer keeps."""

_TOLERANCE = 2e-3
"""Peers with a model of their own compute the same numbers in another order."""


class Peer(ABC):
    """Keeps the residual stream of a model."""

    name: str
    packages: tuple[str, ...] = ()
    note = ""
    to_disk: ClassVar[bool] = True
    """Whether it writes files; else what it keeps ends with the process."""

    def lacks(self) -> str:
        """Say why it cannot be run here; empty if it can."""
        return absent(*self.packages)

    def prepare(self, setting: Setting, folder: Path) -> None:  # noqa: B027  # few have to
        """Make what is not timed: its own model of the same weights."""

    @abstractmethod
    def run(self, setting: Setting, folder: Path) -> None:
        """Run the model on every batch and keep the values. What is timed."""

    @abstractmethod
    def read(self, folder: Path) -> Kept:
        """Return what was kept by the last run."""

    def release(self) -> None:  # noqa: B027  # few have to
        """Let go of what is kept in memory."""


def way_of(peer: Peer, setting: Setting, folder: Path) -> Way:
    """Return a peer as a way: run once on one batch and compared with what the hooks see."""
    lacking = peer.lacks()
    if lacking:
        return Way(peer.name, "peer", None, skipped=lacking)
    again = emptied(folder)
    one = setting.first(1)
    again()
    peer.prepare(setting, folder.parent)
    peer.run(one, folder)
    wrong = difference(peer.read(folder), one.expected())
    peer.release()
    if wrong:
        return Way(peer.name, "peer", None, skipped=f"did not keep the right numbers: {wrong}")

    def before() -> None:
        peer.release()
        again()

    return Way(peer.name, "peer", lambda: peer.run(setting, folder), before=before, note=peer.note)


def difference(kept: Kept, expected: list[torch.Tensor]) -> str:
    """Say where values differ from those of the model; empty if they do not.

    Example:
        >>> difference({0: torch.zeros(2, 256)}, [torch.zeros(2, 256)])
        ''
        >>> difference({0: torch.zeros(2, 256)}, [torch.ones(2, 256)])
        'layer 0 differs by 1'
    """
    if not kept:
        return "nothing was kept"
    for layer, values in kept.items():
        rows = values.reshape(-1, WIDTH).float()
        if rows.shape != expected[layer].shape:
            return f"layer {layer} has {len(rows)} rows of {len(expected[layer])}"
        far = float((rows - expected[layer]).abs().max())
        if not far <= _TOLERANCE:
            return f"layer {layer} differs by {far:.3g}"
    return ""


def emptied(folder: Path) -> Callable[[], None]:
    """Return what empties a folder."""

    def empty() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)

    return empty
