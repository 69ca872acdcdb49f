"""Datasets of many small commits, and what is in the folder of one."""

import hashlib
import os

from writer_helpers import EVERY_SITE, make_batch, new_store, new_writer

from lazycache.types import RunInfo

ALL = tuple(EVERY_SITE)


def small_commits(folder, numbers, *, sites=ALL, run="main", **settings):
    """A dataset with a commit for each batch."""
    store = new_store(folder) if not (folder / "lazycache.json").exists() else None
    store = store or _opened(folder)
    add_commits(store, numbers, sites=sites, run=run, **settings)
    return store


def add_commits(store, numbers, *, sites=ALL, run="main", **settings):
    """Add a commit for each batch."""
    writer = new_writer(store, run=RunInfo(run, {}), **settings)
    for number in numbers:
        writer.write(make_batch(number, sites=sites))
        writer.commit()
    writer.close()


def _opened(folder):
    from lazycache.storage.local_store import LocalStore

    return LocalStore(folder, create=False)


def tree(folder):
    """Every file of a folder and what it has in it."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def age(folder, seconds, pattern="**/*"):
    """Make files look as if they were written long ago."""
    for path in folder.glob(pattern):
        if path.is_file():
            then = path.stat().st_mtime - seconds
            os.utime(path, (then, then))
