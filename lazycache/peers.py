"""The processes that capture one run side by side: how they begin, commit and end together."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TypeVar

from lazycache.capture.corpus.provenance import differences
from lazycache.errors import CaptureError, CommitConflictError
from lazycache.types import RunInfo
from lazycache.writer.group import Group
from lazycache.writer.ranks import Ranks

T = TypeVar("T")

ALONE = Ranks()
"""The only process that writes."""

COMMITS = ("own", "group")
"""Who a log record is of: one process, or all of them."""

_EQUAL = ("first_example", "corpus")
"""Parts of the provenance that processes which begin one run at once need in common."""


class Peers:
    """This process among those that capture one run.

    Where the ranks are those of `torch.distributed` it waits for the others when they begin and
    end; where they were given, or there is one process, nobody waits for anybody.

    Args:
        ranks: Which one it is.
        commit: `own`, or `group` for one log record of all processes.
        overwrite: Whether a dataset that is there is to be replaced.

    Raises:
        CaptureError: a `commit` that is none; processes that cannot wait for each other, and would
            have to.
    """

    def __init__(self, ranks: Ranks, *, commit: str, overwrite: bool) -> None:
        if commit not in COMMITS:
            raise CaptureError(f"commit={commit!r}: one of {', '.join(map(repr, COMMITS))}.")
        if not ranks.has_group and ranks.world_size > 1:
            _check_given(ranks, commit=commit, overwrite=overwrite)
        self.ranks = ranks
        """Which one it is."""
        self.commits_together = commit == "group" and ranks.has_group
        """Whether one log record holds the rows of all."""
        self.group: Group | None = None
        """The connections, while there are some."""

    def join(self) -> None:
        """Wait for the others, if they are to be waited for.

        Raises:
            CaptureError: they did not come.
        """
        if self.ranks.has_group and self.group is None:
            self.group = Group(self.ranks.rank)

    def any(self, look: Callable[[], bool]) -> bool:
        """Whether it is so on one of the processes; all of them ask, or none.

        Raises:
            CaptureError: the question failed on another process.
        """
        self.join()
        return look() if self.group is None else self.group.any(self.group.each(look))

    def begin(
        self, *, make: Callable[[], None], join: Callable[[], None], alone: Callable[[], None]
    ) -> None:
        """Let rank 0 make or replace the dataset, and the others look at what it has made.

        Raises:
            CaptureError: another process failed.
        """
        if self.group is None:
            alone()
            return
        self.group.first(make)
        self.group.each(join if self.ranks.rank else lambda: None)

    def check_one_place(self, uuid: str | None, *, url: str) -> None:
        """Refuse processes that have come together, and would write to several datasets.

        Raises:
            CaptureError: names two of the places; on every process.
        """
        if self.group is None:
            return
        places = self.group.exchange((uuid, url))
        other = next((rank for rank, (theirs, _) in enumerate(places) if theirs != uuid), None)
        if other is not None:
            raise CaptureError(
                f"Rank {self.ranks.rank} writes to {url}, rank {other} to {places[other][1]}, and "
                "these are two datasets. Give every process one place, which every machine sees; "
                "if each is to have a dataset of its own, rank=0, world_size=1."
            )

    def compare(self, mine: RunInfo, *, url: str) -> None:
        """Refuse to begin where the processes would capture different things.

        Raises:
            CommitConflictError: names what differs; on every process.
        """
        if self.group is None:
            return
        for text in self.group.exchange(json.dumps(mine.info, default=str)):
            check_begun(RunInfo(mine.name, json.loads(text)), mine, url=url)

    def each(self, work: Callable[[], T]) -> T:
        """Do something everywhere; if it fails on one process, all raise."""
        return work() if self.group is None else self.group.each(work)

    def gather(self, mine: str) -> list[str]:
        """Return what each process says, by rank."""
        return [mine] if self.group is None else self.group.exchange(mine)

    def first(self, work: Callable[[], T]) -> T:
        """Do something on rank 0, or here if nobody is waited for; all get its plain result."""
        return work() if self.group is None else self.group.first(work)

    def leave(self) -> None:
        """End the connections; who waits for this process then raises."""
        if self.group is not None:
            self.group.leave()


def check_begun(theirs: RunInfo, mine: RunInfo, *, url: str) -> None:
    """Refuse to write a run beside a process that has begun it as something else.

    Raises:
        CommitConflictError: names what differs.

    Example:
        >>> check_begun(RunInfo("main", {}), RunInfo("main", {}), url="acts")
    """
    found = differences(theirs.info, mine.info)
    infos = [json.loads(json.dumps(run.info, default=str)) for run in (theirs, mine)]
    found += [
        f"{key} is {infos[0].get(key)} there, {infos[1].get(key)} here"
        for key in _EQUAL
        if infos[0].get(key) != infos[1].get(key)
    ]
    if found:
        raise CommitConflictError(
            f"Another process has just begun run {mine.name!r} of {url} differently: "
            f"{'; '.join(found)}. Give every process the same model, options and whole corpus, or "
            "a run of its own: run='name'."
        )


def _check_given(ranks: Ranks, *, commit: str, overwrite: bool) -> None:
    said = f"rank={ranks.rank}, world_size={ranks.world_size}"
    if commit == "group":
        raise CaptureError(
            f"commit='group' with {said}: processes commit together over torch.distributed alone. "
            "Initialise it and leave the ranks out, or let each commit by itself."
        )
    if overwrite and ranks.rank:
        raise CaptureError(
            f"overwrite=True with {said}: rank 0 alone replaces a dataset, and this process cannot "
            "know when it has. Begin the others behind it, with resume=True, or let "
            "torch.distributed give the ranks."
        )
