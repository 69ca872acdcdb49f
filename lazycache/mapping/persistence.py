"""Saving a cache, and its other versions. A mixin of `ActivationCache`."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any, Self

from lazycache.cache.dataset.stored_sites import StoredSites
from lazycache.cache.dataset.versions import at_version, newest
from lazycache.cache.reading.front_door import FRONT_DOOR
from lazycache.errors import LazycacheError, SiteNotFoundError, nearest
from lazycache.mapping.contents import Contents
from lazycache.mapping.over_datasets import OverDatasets
from lazycache.mapping.segments import Segments
from lazycache.mapping.stored_parts import StoredEntry, StoredSite


class Persistence(OverDatasets):
    """Saving a cache, opening other versions of it."""

    if TYPE_CHECKING:

        def copy(self) -> Self:
            """Return a cache of the same values; `ActivationCache` has it."""
            ...

    def save(
        self,
        url: str | PathLike[str],
        *,
        overwrite: bool = False,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        """Write everything that the cache has to a new dataset; `lc.open(url)` reads it again.

        What is in memory is stored as what it is: tensors (of any device, without their graph),
        numpy arrays and values, numbers, texts, bytes, None, and lists, tuples and dicts of these,
        with their info. Sites become sites of the new dataset, with the rows, columns and runs that
        are shown; deleted keys are left out. Aggregation strategies are functions and are not
        saved: register them again. No pickle is written.

        Args:
            url: A new or empty folder, or a URL.
            overwrite: Remove the dataset that is there, after the new files are written.
            storage_options: Handed to fsspec.

        Raises:
            UnsupportedDtypeError: a value that cannot be stored; names its key and type. Nothing
                was written.
            DatasetExistsError: there is a dataset, and `overwrite` was not said; or it is the one
                that is being read.
            StorageError: the store failed.

        Cost: the bytes of the tensors are written once; a contiguous tensor on the CPU is not
        copied, of anything else 64 MiB are in memory at a time. Sites are read and written batch by
        batch. A process that is killed leaves the place as it was, but for files that are never
        read; one killed in the last step, which removes an old dataset and writes a record, may
        leave an empty dataset.

        Example:
            >>> import tempfile, torch, lazycache as lc
            >>> cache, url = lc.ActivationCache(), tempfile.mkdtemp()
            >>> cache["weights"], cache["notes"] = torch.ones(2, 3), {"layers": [1, 2]}
            >>> cache.save(url)
            >>> lc.open(url)["weights"].shape, lc.open(url)["notes"]
            (torch.Size([2, 3]), {'layers': [1, 2]})
        """
        contents = self._contents()
        FRONT_DOOR.save(contents, url, overwrite=overwrite, storage_options=storage_options)

    def persist(self, *keys: str) -> int:
        """Store values that are in memory in the dataset behind this cache, as one commit.

        The cache goes on showing its snapshot, and these values; who opens the dataset after this
        has them too. Of several values stored under one name the last counts. A process that is
        killed has stored all of them or none.

        A lazy tensor of this dataset that has a row for each row of `tokens`, or of `examples`,
        becomes a site beside those it was made of: a column of SQL, with statistics. So
        `cache["features"] = cache["resid_out_3"].map(sae.encode)` is stored. It is stored once: a
        second `persist` leaves it out, and after `refresh` the key is the stored site. Rows that
        are captured later have no value of it.

        Args:
            *keys: Which; none for all that are in memory alone.

        Returns:
            The version that has them.

        Raises:
            SiteNotFoundError: no such value in memory; names the nearest.
            UnsupportedDtypeError: a value that cannot be stored; nothing was written.
            ReadOnlyError: the dataset cannot be written to.
            CommitConflictError: the dataset has a site of the name of one that would become a
                site; nothing was written, or, if it has it since it was opened, nothing added.
            LazycacheError: there is no dataset behind the cache, or several.

        Cost: as `save`, of these values alone. What becomes a site is computed once, in batches of
        32 MiB.

        Example:
            >>> from lazycache.samples import small_cache
            >>> cache = small_cache()
            >>> cache["probe"] = cache["resid_out_0"].mean("rows")
            >>> cache.persist("probe")
            2
            >>> cache["twice"] = cache["resid_out_0"] * 2
            >>> cache.persist("twice")
            3
            >>> cache.refresh().sql("SELECT max(unit(twice, 1)) FROM tokens").fetchone()
            (22.0,)
        """
        sites = self._dataset("persist(key) adds to it", "cache.save(url) writes a new one")
        chosen = keys or [key for key, one in self.segments.items() if not _as_stored(one)]
        values, since = {}, 0
        for key in chosen:
            segments = self.segments.get(key)
            if segments is None or all(isinstance(part, StoredSite) for part in segments.parts):
                there = nearest(key, (k for k, one in self.segments.items() if not one.is_stored))
                raise SiteNotFoundError(f"{key!r} is no value in memory. {there}")
            if segments.site_since:
                since = max(since, segments.site_since)
            else:
                values[key] = segments.value()
        version, added = FRONT_DOOR.persist(sites, values)
        for key in added:
            self.segments[key].site_since = version
        return max(int(version), since)

    def at(self, snapshot: int) -> Self:
        """Return the cache at another version of its dataset; values in memory are kept.

        Cost: of an older version nothing is read; of a newer one the new log records.

        Raises:
            SelectionError: no such version; says which there are.
            LazycacheError: there is no dataset behind the cache, or several.

        Example:
            >>> from lazycache.samples import small_cache
            >>> list(small_cache().at(0))
            []
        """
        self._dataset("versions are of a dataset", "copy() keeps a cache as it is")
        made = self.copy()
        made.replace_datasets({id(s): at_version(s, snapshot) for s in self.datasets})
        return made

    def refresh(self) -> Self:
        """Go on to the newest version of the datasets behind the cache, in place; return itself.

        Lazy tensors that were taken before show what they showed. Deleted keys stay deleted, and
        values in memory stay; of one that `persist` made a site, the site is shown.

        Cost: the log records that are new.

        Raises:
            StorageError: a dataset is gone, or was replaced.
            LazycacheError: there is no dataset behind the cache.

        Example:
            >>> from lazycache.samples import small_cache
            >>> cache = small_cache()
            >>> cache.refresh() is cache
            True
        """
        if not self.datasets:
            raise _no_dataset("a cache in memory has no versions", "there is nothing to refresh")
        self.replace_datasets({id(sites): newest(sites) for sites in self.datasets})
        return self

    def _dataset(self, what: str, instead: str) -> StoredSites:
        """Return the one dataset behind the cache."""
        if len(self.datasets) == 1:
            return self.datasets[0]
        if self.datasets:
            urls = ", ".join(sites.url for sites in self.datasets)
            raise LazycacheError(
                f"{len(self.datasets)} datasets are joined in this cache ({urls}): {what}. Open "
                "the one that is meant."
            )
        raise _no_dataset(what, instead)

    def _contents(self) -> Contents:
        """Return what is saved: sites by dataset, and values."""
        values: dict[str, Any] = {}
        sites: list[tuple[StoredSites, dict[str, Any]]] = []
        for key, segments in self.segments.items():
            if not segments.is_stored or segments.has_info:
                values[key] = segments.value()
                continue
            for number, part in enumerate(segments.stored):
                _place(sites, number, part.sites)[key] = part.tensor()
        return Contents(self.datasets, values, sites)


def _as_stored(segments: Segments) -> bool:
    """Whether nothing of a key is in memory alone."""
    return bool(segments.site_since) or all(
        isinstance(part, (StoredSite, StoredEntry)) for part in segments.parts
    )


def _place(
    sites: list[tuple[StoredSites, dict[str, Any]]], number: int, wanted: StoredSites
) -> dict[str, Any]:
    """Return where the keys of the n-th joined dataset are gathered."""
    while len(sites) <= number:
        sites.append((wanted, {}))
    known, keys = sites[number]
    if known is not wanted:
        raise LazycacheError(
            f"The keys of this cache are joined from different datasets ({known.url}, "
            f"{wanted.url}), so they have no rows in common. Save each dataset for itself."
        )
    return keys


def _no_dataset(what: str, instead: str) -> LazycacheError:
    return LazycacheError(f"There is no dataset behind this cache: {what}; {instead}.")
