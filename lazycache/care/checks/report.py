"""What a verification found: problems with what to do, and how much was looked at."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field

from lazycache.faces.html import block, card
from lazycache.plain_text import in_one_line
from lazycache.progress import bytes_text

MOST_PROBLEMS = 1000
"""Problems that a report lists; the others are counted."""

RESTORE = "restore the file from a copy of the dataset"
"""What to do where a file is not what was written."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is not as the log says."""

    what: str
    """What was found, and what was expected."""
    advice: str = RESTORE
    """What to do."""
    path: str | None = None
    """The file, relative to the dataset."""
    site: str | None = None
    """The site whose values it has."""
    commit: int | None = None
    """Version of the commit that names it."""

    def __str__(self) -> str:
        """Return it as one line."""
        of = [f"site {self.site!r}"] if self.site is not None else []
        of += [f"commit {self.commit}"] if self.commit is not None else []
        where = (self.path or "dataset") + (f" ({', '.join(of)})" if of else "")
        return in_one_line(f"{where}: {self.what}. {self.advice[:1].upper()}{self.advice[1:]}.")


@dataclass(frozen=True, slots=True)
class Compared:
    """One site beside what the model gives again."""

    site: str
    """Its name."""
    rows: int
    """Rows that were computed again."""
    equal: int
    """Those of them that have the same bits."""
    difference: float
    """The largest difference of two values; 0.0 if all bits are the same."""


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of `verify`; true if nothing is wrong.

    Example:
        >>> report = Report("acts", version=3, problems=(), more=0, counts={"files": 4})
        >>> report.ok, str(report)
        (True, 'acts, version 3: no problem found (4 files).')
    """

    url: str
    """The dataset."""
    version: int
    """Version that was checked: the newest one whose log is whole."""
    problems: tuple[Problem, ...]
    """What is wrong; at most 1,000."""
    more: int
    """Further problems, which are not listed."""
    counts: dict[str, int] = field(default_factory=dict)
    """How much was looked at: commits, files, bytes, chunks, rows, statistics, ..."""
    orphans: tuple[str, ...] = ()
    """Files that no commit names: leftovers of killed writers, which `gc` removes. Harmless."""
    orphan_bytes: int = 0
    """Bytes of them."""
    compared: tuple[Compared, ...] = ()
    """Sites beside what the model gives again; empty if none was given."""
    notes: tuple[str, ...] = ()
    """What is no problem and good to know: torn records, sites that no model gives again, ..."""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def __bool__(self) -> bool:
        """Return whether nothing is wrong."""
        return self.ok

    def __str__(self) -> str:
        """Return it as text: a line of sum, then one for each problem and note."""
        counted = ", ".join(_counted(*item) for item in self.counts.items())
        found = len(self.problems) + self.more
        sum_up = f"{found} problem{'s' * (found > 1)}" if found else "no problem"
        lines = [f"{self.url}, version {self.version}: {sum_up} found ({counted})."]
        lines += [f"  {problem}" for problem in self.problems]
        lines += [f"  and {self.more} more"] * bool(self.more)
        lines += [f"  model: {_compared(one)}" for one in self.compared]
        lines += [f"  note: {in_one_line(text)}" for text in self.notes]
        if self.orphans:
            lines.append(
                f"  {len(self.orphans)} files of {bytes_text(self.orphan_bytes)} are named by no "
                "commit (left by killed writers, or being written now): lazycache gc removes them"
            )
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """Show the same in a notebook, line by line. All text is escaped."""
        return card("no problem" if self.ok else "problems", block(str(self)), kind="Report")


def _counted(what: str, count: int) -> str:
    return f"{bytes_text(count)} read" if what == "bytes" else f"{count:,} {what}"


def _compared(one: Compared) -> str:
    same = f"{one.site}: {one.equal:,} of {one.rows:,} rows have the same bits"
    return same if one.equal == one.rows else f"{same}; largest difference {one.difference:.3g}"


class Findings:
    """Gathers problems and counts of one verification; safe from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.problems: list[Problem] = []
        """The first ones."""
        self.more = 0
        """How many others there are."""
        self.counts: Counter[str] = Counter()
        """How much was looked at."""
        self.notes: list[str] = []
        """What is no problem and good to know."""

    def add(self, problem: Problem) -> None:
        """Note a problem."""
        with self._lock:
            if len(self.problems) < MOST_PROBLEMS:
                self.problems.append(problem)
            else:
                self.more += 1

    def count(self, what: str, number: int = 1) -> None:
        """Count what was looked at."""
        with self._lock:
            self.counts[what] += number
