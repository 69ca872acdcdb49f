"""Which example ids a capture has given, and which it counts next. Pure; its owner locks it."""

from __future__ import annotations

from collections.abc import Iterable

from lazycache.capture.inputs.annotation import Annotation
from lazycache.capture.inputs.example_ids import ExampleIds
from lazycache.errors import CaptureError


class Ledger:
    """Gives each example an id that no other of the run has.

    Args:
        next_example: The first id that is counted.
        step: How far apart ids are counted: as many processes as count side by side, each its own.
        taken: Ids that the run has committed before.

    Example:
        >>> ledger = Ledger(next_example=5, step=2)
        >>> ids = ledger.ids_for(Annotation(), 2)
        >>> ledger.claim(ids)
        >>> ids, ledger.next_example
        ([5, 7], 9)
    """

    def __init__(
        self, *, next_example: int, step: int = 1, taken: ExampleIds | None = None
    ) -> None:
        self.next_example = next_example
        """The id that the next example gets if it is counted."""
        self._step = step
        self._own = next_example % step
        # counted ids are kept divided by the step: without gaps they cost as much as one
        self._counted = ExampleIds()
        self._others = ExampleIds()
        self._taken = ExampleIds() if taken is None else taken

    def ids_for(self, annotation: Annotation, batch: int) -> list[int]:
        """Return the ids of a batch, given or counted, without claiming them.

        Raises:
            CaptureError: as of `Annotation.ids_for`; an id that was used before.
        """
        ids = annotation.ids_for(batch, counted_from=self.next_example, step=self._step)
        self.refuse_used(ids)
        return ids

    def claim(self, ids: Iterable[int]) -> None:
        """Take ids that `ids_for` returned: no other example may have them."""
        claimed = list(ids)
        self._counted.update(i // self._step for i in claimed if self._is_counted(i))
        self._others.update(i for i in claimed if not self._is_counted(i))
        if claimed:
            behind = max(claimed) + 1
            behind += (self._own - behind) % self._step
            self.next_example = max(self.next_example, behind)

    def skip(self, batch: int) -> None:
        """Count past examples whose ids are known before it is sure that they are recorded."""
        self.next_example += batch * self._step

    def _is_counted(self, example: int) -> bool:
        """Whether an id is one of those that are counted here, also if it was given."""
        return example % self._step == self._own

    def _is_used(self, example: int) -> bool:
        if self._is_counted(example):
            return example // self._step in self._counted or example in self._taken
        return example in self._others or example in self._taken

    def refuse_used(self, ids: Iterable[int]) -> None:
        """Refuse ids that another example of the run has.

        Raises:
            CaptureError: names the first.
        """
        used = next((i for i in ids if self._is_used(i)), None)
        if used is not None:
            raise CaptureError(
                f"Example {used} was recorded already in this run; ids are unique within a run."
            )
