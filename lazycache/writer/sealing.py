"""Say of a run that it is complete."""

from __future__ import annotations

import os
import platform
import uuid
from datetime import UTC, datetime

from lazycache.catalog.identity import read_identity
from lazycache.catalog.log import CommitLog
from lazycache.catalog.snapshot import Snapshot
from lazycache.errors import CaptureError
from lazycache.storage.store import Store
from lazycache.types import Commit


def seal_run(store: Store, run: str, *, rank: int) -> int:
    """Commit that a run is complete; return the version. Of a sealed one nothing is written.

    Raises:
        CaptureError: nothing of the run is committed.
        StorageError: the store failed.

    Cost: reads the log; one record.

    Example:
        >>> import tempfile, torch, lazycache as lc
        >>> from lazycache.storage.local_store import LocalStore
        >>> model, url = torch.nn.Sequential(torch.nn.Linear(2, 3)), tempfile.mkdtemp()
        >>> with lc.capture(model, url, "0"):
        ...     _ = model(torch.ones(4, 2))
        >>> seal_run(LocalStore(url, create=False), "main", rank=0)
        2
    """
    log = CommitLog(store)
    snapshot = Snapshot.replay(read_identity(store), log.read())
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
    return log.append(draft, base=snapshot.version, validate=None).version
