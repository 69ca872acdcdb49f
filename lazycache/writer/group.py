"""Processes of `torch.distributed` that begin, commit and end together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar

from lazycache.errors import CaptureError, LazycacheError

T = TypeVar("T")

MEETING_MINUTES = 10
"""How long the others may take to come to the beginning: loading a model takes minutes."""

WORKING_HOURS = 24
"""How long they may take for their share."""


class Group:
    """All processes of a job, over connections of their own (gloo, whatever the job computes with).

    Every method is called by every process, in the same order. One that fails makes the others
    raise: at once if it says so, else when its connections end. Not for several threads at once.

    Args:
        rank: Number of this process.

    Raises:
        CaptureError: the others did not come.

    Cost: making it connects every process with every other one; a method sends a few bytes.
    """

    def __init__(self, rank: int) -> None:
        self.rank = rank
        """Number of this process."""
        self._group: Any = None
        # who captures on one process only meets nobody here, and must not wait for a day
        meeting = _new_group(timedelta(minutes=MEETING_MINUTES))
        try:
            self._group = _new_group(timedelta(hours=WORKING_HOURS))
        finally:
            _destroy(meeting)

    def exchange(self, mine: Any) -> list[Any]:
        """Return what each process gives, by rank. Plain values only.

        Raises:
            CaptureError: a process has ended, or did not come.
        """
        from torch import distributed

        if self._group is None:
            raise CaptureError("This process has left the others after an error: capture again.")
        found: list[Any] = [None] * distributed.get_world_size(self._group)
        try:
            distributed.all_gather_object(found, mine, group=self._group)
        except RuntimeError as exc:  # what torch raises of connections
            self.leave()
            raise CaptureError(
                "Another process of this capture has failed or ended: see its own error. What was "
                f"committed before stays. ({_first_line(exc)})"
            ) from exc
        return found

    def each(self, work: Callable[[], T]) -> T:
        """Do something on every process; if one fails, all raise.

        Raises:
            CaptureError: another process failed; says which and why.
        """
        try:
            result, failure = work(), None
        except (LazycacheError, OSError, ValueError, TypeError, RuntimeError) as exc:
            self._tell(exc)
            raise
        except BaseException:
            self.leave()  # Ctrl-C: nobody waits for anybody
            raise
        self._check(self.exchange(failure))
        return result

    def first(self, work: Callable[[], T]) -> T:
        """Do something on rank 0 while the others wait; all get its result, a plain value.

        Raises:
            CaptureError: rank 0 failed; says why.
        """
        result: T = self.exchange(self.each(work if self.rank == 0 else lambda: None))[0]
        return result

    def any(self, mine: bool) -> bool:
        """Whether it is so for one of the processes."""
        return any(self.exchange(mine))

    def leave(self) -> None:
        """End the connections; processes that wait for this one then raise. May be repeated."""
        group, self._group = self._group, None
        if group is not None:
            _destroy(group)

    def _tell(self, exc: Exception) -> None:
        # the error of this process is raised, whatever the others do
        with suppress(CaptureError):
            self.exchange(f"{type(exc).__name__}: {exc}")
        self.leave()

    def _check(self, failures: Sequence[str | None]) -> None:
        for rank, failure in enumerate(failures):
            if failure is not None:
                self.leave()
                raise CaptureError(f"Rank {rank} of this capture has failed: {failure}")


def _new_group(timeout: timedelta) -> Any:
    from torch import distributed

    try:
        return distributed.new_group(backend="gloo", timeout=timeout)
    except RuntimeError as exc:
        raise CaptureError(
            "The other processes of torch.distributed did not come to this capture "
            f"({_first_line(exc)}). Every process captures its share; if only this one does, say "
            "so: rank=0, world_size=1."
        ) from exc


def _destroy(group: Any) -> None:
    from torch import distributed

    # of a job that has ended its process groups there is nothing left to end
    with suppress(RuntimeError, ValueError, AssertionError):
        distributed.destroy_process_group(group)


def _first_line(exc: Exception) -> str:
    return str(exc).strip().partition("\n")[0]
