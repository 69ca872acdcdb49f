"""What a bar is told while a corpus is captured."""

from lazycache.capture.corpus.extract import Progress
from lazycache.capture.corpus.items import Item
from lazycache.capture.corpus.pace import Pace
from lazycache.reporting import reporter
from lazycache.writer.writer import WriterProgress


class Bar:
    """Keeps what it is told."""

    def __init__(self):
        self.advanced, self.notes, self.expected = [], [], []

    def advance(self, n):
        self.advanced.append(n)

    def note(self, text):
        self.notes.append(text)

    def expect(self, seconds):
        self.expected.append(seconds)


class Writing:
    """A writer that took 3 MB, a quarter of its queue not written."""

    progress = WriterProgress(10, 3_000_000, 250, 1, 5, 0.0)
    queue_bytes = 1000

    def __init__(self, free):
        self._free = free

    def free_bytes(self):
        return self._free


def _items(lengths):
    return [Item(n, range(length), {}) for n, length in enumerate(lengths)]


def test_speed_queue_room_and_what_is_left_are_told():
    """Tokens and bytes per second, the queue, the free disk, and new examples only."""
    bar = Bar()
    report = reporter(bar, Writing(5_000_000_000), lambda done: 90 - done.seconds)
    report(Progress(examples=4, tokens=1200, batches=1, seconds=1.0))
    report(Progress(examples=6, tokens=3000, batches=2, seconds=2.0))
    assert bar.advanced == [4, 2]
    assert bar.expected == [89, 88]
    assert bar.notes == [
        "1,200 tokens/s, 3 MB/s, queue 25%, 5 GB free",
        "1,500 tokens/s, 1.5 MB/s, queue 25%, 5 GB free",
    ]


def test_a_bucket_has_no_free_disk():
    """Where nobody knows what is left, nothing is said of it."""
    bar = Bar()
    reporter(bar, Writing(None), lambda _: None)(Progress(1, 5, 1, 1.0))
    assert bar.notes == ["5 tokens/s, 3 MB/s, queue 25%"]
    assert bar.expected == [None]


def test_the_rest_is_judged_by_the_lengths_that_were_read():
    """Long examples come first in their window: the count alone would promise too little."""
    pace = Pace(8, done={})
    list(pace.reading(_items([10, 10, 2, 2])))
    assert pace.left().tokens == 48
    assert not pace.is_whole
    assert pace.seconds_left(Progress(examples=2, tokens=20, batches=1, seconds=10.0)) == 14.0
    list(pace.reading(_items([1, 1, 1, 1])))
    assert pace.is_whole
    assert pace.left().tokens == 28


def test_what_is_stored_already_does_not_count_as_work():
    """Examples that a run has committed are read, but take no time."""
    pace = Pace(3, done={0})
    list(pace.reading(_items([10, 5, 5])))
    assert pace.left().tokens == 10
    assert pace.seconds_left(Progress(examples=1, tokens=5, batches=1, seconds=2.0)) == 2.0


def test_nobody_knows_how_long_an_endless_corpus_takes():
    """Without a length there is no estimate of the rest."""
    pace = Pace(None, done={})
    list(pace.reading(_items([3])))
    assert pace.left() is None
    assert pace.seconds_left(Progress(1, 3, 1, 1.0)) is None
