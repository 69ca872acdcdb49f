"""One process of a race: commits as fast as it can, and notes each commit it was told of.

A note is one short `write`, so it is whole in the kernel when SIGKILL comes.
"""

import os

from catalog_helpers import small_commit

from lazycache.catalog.log import CommitLog
from lazycache.storage.local_store import LocalStore


def refuse(source, target):
    raise PermissionError(1, "Operation not permitted")


def race(dataset, notes, name, commits, links, begin):
    """Commit so often, from the moment that `begin` is set."""
    if links == "no-links":
        os.link = refuse
    log = CommitLog(LocalStore(dataset, create=False))
    fd = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(fd, b"ready\n")
    begin.wait()  # all start at once
    base = 0
    for i in range(commits):
        commit = log.append(small_commit(f"{name}{i}", rows=1 + i % 5), base=base, validate=None)
        base = commit.version
        os.write(fd, b"%s %d\n" % (commit.txn.encode(), base))
