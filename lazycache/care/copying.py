"""`lc.copy`: a dataset to another address, whole or in part."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lazycache.care.beside import check_beside
from lazycache.care.card import write_card
from lazycache.care.checked_files import CheckedFile
from lazycache.care.copied_log import Copy, is_there, part, publish, records_there, whole
from lazycache.care.copied_rows import check_rows, copy_rows
from lazycache.care.transfer import MissingFileError, transfer
from lazycache.care.whole_sites import whole_sites
from lazycache.catalog.computed import computed_sites
from lazycache.catalog.snapshot import Snapshot
from lazycache.errors import CorruptShardError
from lazycache.mapping.activation_cache import ActivationCache
from lazycache.opening import open as open_dataset
from lazycache.progress import bytes_text, progress_bar
from lazycache.storage.open_store import Url, open_store
from lazycache.storage.store import Store


@dataclass(frozen=True, slots=True)
class Copied:
    """What `lc.copy` did."""

    url: str
    """Where the copy is."""
    version: int
    """Its version."""
    files: int
    """Files that it needs, without the log."""
    bytes: int
    """Bytes of them, as the log says."""
    copied_files: int
    """Those that this call copied; the others were there."""
    copied_bytes: int
    """Bytes of them."""

    def __str__(self) -> str:
        there = self.files - self.copied_files
        return (
            f"{self.url}: version {self.version}, {self.files:,} files of "
            f"{bytes_text(self.bytes)}; {self.copied_files:,} of "
            f"{bytes_text(self.copied_bytes)} were copied, {there:,} were there."
        )


def copy(
    src: Url,
    dst: Url,
    *,
    sites: str | Sequence[str] | None = None,
    where: str | None = None,
    progress: bool = True,
    resume: bool = True,
    storage_options: Mapping[str, Any] | None = None,
    src_options: Mapping[str, Any] | None = None,
    dst_options: Mapping[str, Any] | None = None,
) -> Copied:
    """Copy a dataset to another address: a folder, a bucket, memory; whole or in part.

    Without `sites` and `where` the copy is the dataset, byte for byte: its uuid, all versions that
    are not expired, row numbers, values beside the sites. Copied again later, what was added since
    is copied. With `sites` it has these sites alone, with all rows and versions; with `where` those
    rows alone, in runs of the same names. Both are new datasets with a uuid of their own, whose
    runs say under `copied_from` what they are a part of.

    Files are compared with the lengths and checksums of the log while they pass. Files go first,
    the log last: a copy that was interrupted is no dataset yet, or shows an older version. Called
    again, it goes on: files that are there are not copied again; of a copy by `where` those of
    every GiB or so of the source. The copy gets a card, its `README.md`.

    Args:
        src: Folder or URL of the dataset.
        dst: A new or empty folder or URL, or one with an earlier copy of the same.
        sites: Names or patterns, as `cache.keys` takes them; also of values beside the sites. A
            computed site is computed in the copy too if its source is copied; else it is stored.
        where: Condition in SQL on the rows, as `lc.open` takes it. Values beside the sites have no
            rows and are left out.
        progress: Show a bar where a person can see it.
        resume: Go on with an earlier copy; False refuses one.
        storage_options: Handed to fsspec for both addresses.
        src_options: Handed to fsspec for `src` instead.
        dst_options: Handed to fsspec for `dst` instead.

    Raises:
        DatasetNotFoundError: there is no dataset at `src`.
        DatasetExistsError: `dst` holds another dataset, other files, or a copy that was written to;
            or it is the dataset itself, or a place in it.
        CorruptShardError: a file of the source is missing or not what was written. The copy is then
            as it was before; files that were copied are found by the next call.
        SiteNotFoundError: a pattern fits nothing; names the nearest.
        SelectionError: no row fits `where`, or `sites` names no whole site.
        StorageError: a store failed.

    Cost: reads the log, one listing of `dst`; then every byte once, 8 files at a time in pieces of
    8 MiB, and one write per record of the log. With `where` (or a computed site without its source)
    values are read, chosen and written anew, in batches of 32 MiB; of each chunk that has a chosen
    row all bytes are compared.

    Example:
        >>> import tempfile, lazycache as lc
        >>> from lazycache.samples import small_cache
        >>> there = tempfile.mkdtemp()
        >>> done = lc.copy(small_cache().url, there)
        >>> done.version, done.copied_files == done.files
        (1, True)
        >>> lc.copy(small_cache().url, tempfile.mkdtemp(), where="position = 0").version
        1
        >>> lc.open(there)["resid_out_0"].shape
        torch.Size([3, 3, 2])
    """
    mine, theirs = (_first(one, storage_options) for one in (src_options, dst_options))
    # what is written anew gets new checksums: only what is whole may
    with open_dataset(src, where=where, check=True, storage_options=mine) as cache:
        check_rows(cache.stored, where)
        names = None if sites is None else whole_sites(cache, sites, what="copy")
        if mine == theirs:  # else one address may be two places
            place = open_store(dst, create=False, storage_options=theirs).url
            check_beside(place, cache.url, what="copy")
        target = open_store(dst, create=True, storage_options=theirs)
        if where is None and (names is None or _are_stored(cache, names)):
            made, done = _copy_files(cache, names, target, progress=progress, resume=resume)
        else:
            kept = [name for name in cache.sites if names is None or name in names]
            made, done = copy_rows(
                cache.stored, kept, target, where=where, progress=progress, resume=resume
            )
    write_card(target, Snapshot.replay(made.identity, made.commits))
    files = made.files.values()
    return Copied(
        url=target.url,
        version=len(made.commits),
        files=len(files),
        bytes=_bytes(files),
        copied_files=len(done),
        copied_bytes=_bytes(done),
    )


def _first(*options: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    return next((one for one in options if one is not None), None)


def _are_stored(cache: ActivationCache, names: Sequence[str]) -> bool:
    """Whether sites can be copied as they are: each is stored, or its source is copied too."""
    computed = computed_sites(cache.snapshot)
    return all(name not in computed or computed[name].source in names for name in names)


def _copy_files(
    cache: ActivationCache,
    names: Sequence[str] | None,
    target: Store,
    *,
    progress: bool,
    resume: bool,
) -> tuple[Copy, Sequence[CheckedFile]]:
    """Copy files as they are; of a source that is cleaned up meanwhile, those of its new version.

    Returns:
        What is at the target now, and the files that were copied.
    """
    source, missing = cache.stored.store, ""
    while True:
        found = whole(source)
        if names is not None:
            values = [name for name in names if name in cache.snapshot.entries]
            found = part(found, [name for name in names if name not in values], values)
        have = 0
        if is_there(found.identity, target, resume=resume):
            have = records_there(found, target)
        if missing in found.files:
            raise CorruptShardError(
                f"{missing!r} of {source.url} is missing, which its log names. Take the file from "
                "another copy; lc.verify(url) says what else is damaged."
            )
        lacking = _lacking(found, target)
        try:
            with progress_bar("copy", total=_bytes(lacking), unit="bytes", show=progress) as bar:
                transfer(lacking, source, target, bar)
        except MissingFileError as exc:  # it was replaced and deleted, or it is lost
            missing = exc.path
            continue
        publish(found, target, have=have)
        return found, lacking


def _lacking(copy: Copy, target: Store) -> list[CheckedFile]:
    """Return the files that a place lacks, or has with another length."""
    there = {info.path: info.size for info in target.list("")}
    return [
        file
        for file in copy.files.values()
        if (size := there.get(file.path, -1)) < file.length
        or (file.is_exact and size != file.length)
    ]


def _bytes(files: Iterable[CheckedFile]) -> int:
    return sum(file.length for file in files)
