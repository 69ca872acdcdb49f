"""Which example ids a capture has given, and which it counts next. Pure; its owner locks it."""

from __future__ import annotations

from collections.abc import Iterable

from lazycache.capture.inputs.annotation import Annotation
from lazycache.capture.inputs.example_ids import ExampleIds
from lazycache.errors import CaptureError


class Ledger:
    """Gives each example an id that no other of the run has.

    Example:
        >>> ledger = Ledger(next_example=5)
        >>> ids = ledger.ids_for(Annotation(), 2)
        >>> ledger.claim(ids)
        >>> ids, ledger.next_example
        ([5, 6], 7)
    """

    def __init__(self, *, next_example: int, taken: ExampleIds | None = None) -> None:
        self.next_example = next_example
        """The id that the next example gets if it is counted."""
        self._ids = ExampleIds()
        self._taken = ExampleIds() if taken is None else taken

    def ids_for(self, annotation: Annotation, batch: int) -> list[int]:
        """Return the ids of a batch, given or counted, without claiming them.

        Raises:
            CaptureError: as of `Annotation.ids_for`; an id that was used before.
        """
        ids = annotation.ids_for(batch, counted_from=self.next_example)
        self.refuse_used(ids)
        return ids

    def claim(self, ids: Iterable[int]) -> None:
        """Take ids that `ids_for` returned: no other example may have them."""
        self._ids.update(ids)
        self.next_example = max(self.next_example, self._ids.after)

    def skip(self, batch: int) -> None:
        """Count past examples whose ids are known before it is sure that they are recorded."""
        self.next_example += batch

    def refuse_used(self, ids: Iterable[int]) -> None:
        """Refuse ids that another example of the run has.

        Raises:
            CaptureError: names the first.
        """
        used = next((i for i in ids if i in self._ids or i in self._taken), None)
        if used is not None:
            raise CaptureError(
                f"Example {used} was recorded already in this run; ids are unique within a run."
            )
