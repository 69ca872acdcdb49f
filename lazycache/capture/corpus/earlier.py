"""What a run has committed before: which examples, how they were captured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lazycache.capture.inputs.example_ids import ExampleIds
from lazycache.catalog.run_info import whole_number
from lazycache.catalog.snapshot import Snapshot
from lazycache.catalog.table_columns import column_by_example
from lazycache.storage.store import Store
from lazycache.types import EXAMPLES


class Earlier:
    """The past of one run in one dataset.

    Args:
        store: Where the dataset is.
        snapshot: What it holds; None if there is none.
        run: Name of the run, which may be new.

    Cost: looks at the log alone, but for `column`.
    """

    def __init__(self, store: Store, snapshot: Snapshot | None, *, run: str) -> None:
        self._store = store
        self._snapshot = snapshot
        self._run = run
        known = None if snapshot is None else snapshot.runs.get(run)
        self.info: Mapping[str, Any] | None = None if known is None else known.info
        """The provenance of the run; None if it is new."""
        self.is_sealed = snapshot is not None and run in snapshot.sealed
        """Whether the run is complete: nobody adds rows to it any more."""
        self.committed = self._examples()
        """Ids of the examples that the run has committed."""
        self.first_example = self._first_example()
        """The id that the first example of the run has, if it is counted."""

    def column(self, name: str) -> dict[int, Any]:
        """Return a column of `examples` of this run by example id.

        Cost: reads the files of the table.
        """
        if self._snapshot is None:
            return {}
        return column_by_example(self._store, self._snapshot, run=self._run, column=name)

    def _examples(self) -> ExampleIds:
        if self._snapshot is None or self._run not in self._snapshot.runs:
            return ExampleIds()
        extents = self._snapshot.extents(EXAMPLES)
        own = extents.example[extents.run == list(self._snapshot.runs).index(self._run)]
        return ExampleIds(own.tolist())

    def _first_example(self) -> int:
        """Where a run counts from: where it began to, or behind everything in the dataset."""
        if self._snapshot is None:
            return 0
        if self.info is not None:
            return whole_number(self.info, "first_example", 0)
        ids = self._snapshot.extents(EXAMPLES).example
        return int(ids.max()) + 1 if len(ids) else 0
