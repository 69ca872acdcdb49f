"""Where a run is written to: what is there, what of the run, and the dataset that is made there."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from lazycache.capture.corpus.earlier import Earlier
from lazycache.capture.corpus.provenance import differences
from lazycache.catalog.snapshot import Snapshot
from lazycache.catalog.target import Target, find_target
from lazycache.errors import CaptureError
from lazycache.storage.free_space import free_bytes
from lazycache.storage.layout import IDENTITY
from lazycache.storage.store import Store

SEEN_SECONDS = 60.0
"""How long a network file system may hide a file that another machine has made."""

_LOOK_SECONDS = 0.2


class RunPlace:
    """A place, and a run of the dataset that is or will be there. Making it looks at both.

    Args:
        open_place: Opens the store; True if it may be made.
        run: Name of the run.
        resume: Whether a dataset that is there is added to.
        overwrite: Whether it is replaced.

    Raises:
        DatasetExistsError: there is one, and neither is said.

    Cost: a look at the identity, and of a dataset that is there a read of its log.
    """

    def __init__(
        self, open_place: Callable[[bool], Store], *, run: str, resume: bool, overwrite: bool
    ) -> None:
        self._open_place = open_place
        self._run = run
        self._resume, self._overwrite = resume, overwrite
        self.store = open_place(False)
        """Where the bytes go."""
        self._look()

    def _look(self) -> None:
        self._target: Target = find_target(
            self.store, resume=self._resume, overwrite=self._overwrite
        )
        self.earlier = Earlier(self.store, self._target.snapshot, run=self._run)
        """What the run has committed before."""

    @property
    def url(self) -> str:
        """Its address."""
        return self.store.url

    @property
    def resumes(self) -> bool:
        """Whether the run may have rows already."""
        return self._resume

    @property
    def is_replaced(self) -> bool:
        """Whether a dataset that is there goes when the first row comes."""
        return self._target.replace

    @property
    def uuid(self) -> str | None:
        """Which dataset is there; None if none was when it was looked at."""
        found = self._target.snapshot
        return None if found is None else found.identity.uuid

    def check(self, details: Mapping[str, Any]) -> None:
        """Refuse to continue a run that was captured differently.

        Raises:
            CaptureError: names what differs.
        """
        known = self.earlier.info
        found = [] if known is None else differences(known, details)
        if found:
            raise CaptureError(
                f"Run {self._run!r} of {self.url} was captured differently: "
                f"{'; '.join(found)}. Continue it as it was, add another run (run='name'), "
                "or write to another place."
            )

    def look_again(self, details: Mapping[str, Any]) -> None:
        """Look once more: others may have committed since.

        Raises:
            CaptureError: the run was captured differently, or is complete.
        """
        self._look()
        self.check(details)
        if self.earlier.is_sealed:
            raise CaptureError(
                f"Run {self._run!r} of {self.url} is sealed: it is complete. Give what you capture "
                "a run of its own, run='name', or replace the dataset with overwrite=True."
            )

    def make(self, details: Mapping[str, Any]) -> None:
        """Make or replace the dataset now, for others to look at.

        Raises:
            CaptureError: as `look_again`.
            StorageError: the store failed.
        """
        self.look_again(details)
        self._target = Target(self.prepare(), replace=False, resume=True)

    def join(self, details: Mapping[str, Any]) -> None:
        """Look at the dataset that another process has made.

        Raises:
            CaptureError: as `look_again`, or none is there: this process has another place.
        """
        self._resume, self._overwrite = True, False
        self._wait()
        self.look_again(details)

    def prepare(self) -> Snapshot:
        """Make the place a dataset to write to, and return what it holds: the first write."""
        self.store = self._open_place(True)
        return self._target.prepare(self.store)

    def free_bytes(self) -> int | None:
        """Return the bytes that can be written there; None of a bucket."""
        return free_bytes(self.store)

    def freed_bytes(self) -> int:
        """Return the bytes that go when the dataset is replaced. Cost: a listing."""
        return sum(info.size for info in self.store.list("")) if self.is_replaced else 0

    def _wait(self) -> None:
        """Wait until the identity is there."""
        is_local = self.store.local_path(IDENTITY) is not None
        until = time.monotonic() + (SEEN_SECONDS if is_local else 0)
        while not self.store.exists(IDENTITY):
            if time.monotonic() > until:
                raise CaptureError(
                    f"Rank 0 has its dataset, and this process finds none at {self.url}: all need "
                    "one place, which every machine sees. If each process is to have a dataset of "
                    "its own, give rank=0, world_size=1."
                )
            time.sleep(_LOOK_SECONDS)
