"""A copy of some rows of a dataset: chosen, read and written anew, part by part."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lazycache.cache.dataset.stored_sites import StoredSites
from lazycache.care.checked_files import CheckedFile, files_of
from lazycache.care.copied_log import COPIED_FROM, Copy, is_there, publish, whole
from lazycache.care.copy_notes import CopyNotes
from lazycache.catalog import records
from lazycache.catalog.identity import encode_identity
from lazycache.catalog.staging import StagedStore
from lazycache.errors import SelectionError
from lazycache.progress import progress_bar
from lazycache.rewriting import write_part
from lazycache.rewritten_parts import Part, parts
from lazycache.storage.layout import IDENTITY
from lazycache.storage.store import Store
from lazycache.types import Commit, Identity, RunInfo

PART_BYTES = 1 << 30
"""Bytes of stored values of which a part is made: what an interrupted copy does again."""

_COPIES = uuid.UUID("0d6c6c55-2b1a-58a4-8f39-5a0f4d1b7f60")  # names of copies of rows


def check_rows(sites: StoredSites, where: str | None) -> None:
    """Refuse a condition that no row fits. Reads nothing.

    Raises:
        SelectionError: it is one.
    """
    restriction = sites.restriction
    if restriction is None or any(restriction.rows(t).count for t in sites.snapshot.tables):
        return
    raise SelectionError(
        f"No row of {sites.store.url} fits where={where!r}, so there is nothing to copy: "
        "leave it out, or look at the columns in lc.open(url).snapshot.columns('examples')."
    )


def copy_rows(
    sites: StoredSites,
    names: Sequence[str],
    target: Store,
    *,
    where: str | None,
    progress: bool,
    resume: bool,
) -> tuple[Copy, Sequence[CheckedFile]]:
    """Write the rows that sites show to a new dataset; go on with what an earlier call has written.

    What is done is noted in hidden objects beside the files, which go when the copy is there.

    Args:
        sites: The dataset, with the rows that are shown.
        names: Which of its sites.
        target: Where to.
        where: The condition that chose the rows, for the provenance.
        progress: Show a bar.
        resume: Whether an earlier call may have begun.

    Returns:
        What is at the target now, and the files that were written.

    Raises:
        DatasetExistsError: another dataset is there, or other files; or an earlier copy, and
            `resume` is false.
        CorruptShardError: a file is not what the log recorded.
        StorageError: a store failed.
    """
    note = {"dataset": sites.snapshot.identity.uuid, "version": sites.version}
    note |= {"sites": sorted(names), "where": where}
    identity = _identity(sites.snapshot.identity, note)
    notes = CopyNotes(target, identity, part_bytes=PART_BYTES)
    if is_there(identity, target, resume=resume) and not notes.exist():
        notes.remove()  # an earlier call has finished it; it may have been killed while it did this
        return whole(target), ()
    shown = {name: sites.tensor(name) for name in names}
    called = {run: run for run in sites.snapshot.runs}
    staged = StagedStore(target)
    staged.put_if_absent(IDENTITY, encode_identity(identity))
    pieces = parts(sites, shown, called=called, most_bytes=PART_BYTES)
    before = _write(pieces, staged, notes, progress=progress)
    commits = [_noted(commit, note) for commit in staged.commits]
    log = [records.encode(commit) for commit in commits]
    made = Copy(identity, encode_identity(identity), log, commits)
    publish(made, target, have=0)
    notes.remove()
    old = files_of(commits[:before])
    return made, [file for path, file in made.files.items() if path not in old]


def _identity(source: Identity, note: Mapping[str, Any]) -> Identity:
    name = uuid.uuid5(_COPIES, json.dumps(note, sort_keys=True))
    return Identity(version=source.version, uuid=str(name), created=source.created)


def _write(pieces: Sequence[Part], staged: StagedStore, notes: CopyNotes, *, progress: bool) -> int:
    """Write what is not written yet; return how many commits were there."""
    with progress_bar("copy rows", total=len(pieces), unit="parts", show=progress) as bar:
        done = notes.restore(staged)
        first = len(staged.commits)
        bar.advance(done)
        for number, piece in enumerate(pieces[done:], done):
            before = len(staged.commits)
            try:
                write_part(piece, staged)
            except BaseException:
                staged.discard()
                raise
            notes.add(number, staged.commits[before:])
            staged.keep()
            bar.advance(1)
    return first


def _noted(commit: Commit, note: Mapping[str, Any]) -> Commit:
    runs = tuple(RunInfo(run.name, {**run.info, COPIED_FROM: note}) for run in commit.runs)
    return replace(commit, runs=runs)
