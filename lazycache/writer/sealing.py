"""Say of a run that it is complete."""

from __future__ import annotations

import os
import platform
import uuid
from datetime import UTC, datetime

from lazycache.catalog.checkpoints import after_commit
from lazycache.catalog.loading import load_snapshot
from lazycache.catalog.log import CommitLog
from lazycache.catalog.snapshot import Snapshot
from lazycache.errors import CaptureError
from lazycache.storage.store import Store
from lazycache.types import Commit


def seal_run(store: Store, run: str, *, rank: int, snapshot: Snapshot | None = None) -> int:
    """Commit that a run is complete; return the version. Of a sealed one nothing is written.

    Args:
        store: Where the dataset is.
        run: Its name.
        rank: Of this process, for people.
        snapshot: What the dataset holds, if that is known.

    Raises:
        CaptureError: nothing of the run is committed.
        CommitConflictError: somebody has just removed the run.
        StorageError: the store failed.

    Cost: reads the log, unless `snapshot` is given; one record.

    Example:
        >>> import tempfile, torch, lazycache as lc
        >>> from lazycache.storage.local_store import LocalStore
        >>> model, url = torch.nn.Sequential(torch.nn.Linear(2, 3)), tempfile.mkdtemp()
        >>> with lc.capture(model, url, "0"):
        ...     _ = model(torch.ones(4, 2))
        >>> seal_run(LocalStore(url, create=False), "main", rank=0)
        2
    """
    snapshot = snapshot or load_snapshot(store)
    if run in snapshot.sealed:
        return snapshot.version
    if run not in snapshot.runs:
        raise CaptureError(
            f"Nothing of run {run!r} of {store.url} is committed: there is nothing to seal."
        )
    draft = Commit(
        version=snapshot.version + 1,
        txn=uuid.uuid4().hex,
        writer=f"{platform.node()}:{os.getpid()}:r{rank}",
        time=datetime.now(UTC).isoformat(timespec="milliseconds"),
        run="",
        sealed=(run,),
    )
    written = CommitLog(store).append(
        draft, base=snapshot.version, validate=None, dataset=snapshot.identity
    )
    after_commit(store, written.version)
    return written.version
