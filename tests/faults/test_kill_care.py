"""Whoever compacts, collects or removes may be killed at any moment: nothing is lost."""

import json

import pytest
from faults.care_crasher import FIRST, SECOND, SITES, THIRD
from writer_helpers import check_dataset, snapshot_of

import lazycache as lc
from lazycache.storage.local_store import LocalStore


@pytest.mark.slow
def test_kill_9_while_compacting_collecting_and_removing_loses_nothing(
    tmp_path, rounds, figures, crashers
):
    """After SIGKILL at a random moment every row is there bit for bit, or a run is gone as asked.

    Readers beside it see whole versions; the next calls finish, and leave nothing behind.
    """
    count = rounds(4, 300)
    counted = json.loads(crashers.run("care_crasher", tmp_path, count, 11, timeout=60 + 5 * count))
    for number in range(count):
        _check(tmp_path / f"round{number}")
    assert counted["killed"] > count // 3
    assert counted["reads"] > 0
    figures.add("kills of compact, gc and remove_run", counted["killed"])
    figures.add("whole versions read beside them", counted["reads"])
    figures.add("rows lost to kills of compact, gc and remove_run", 0)


def _check(folder):
    store = LocalStore(folder, create=False)
    runs = snapshot_of(store).runs
    numbers = [*FIRST, *SECOND, *THIRD] if "second" in runs else [*FIRST, *THIRD]
    check_dataset(store, numbers, sites=SITES)
    lc.compact(folder)
    lc.gc(folder, grace_seconds=0)
    snapshot = check_dataset(store, numbers, sites=SITES)
    files = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != "_log"]
    names = {path.relative_to(folder).as_posix() for path in files}
    assert names == {path for path, _ in snapshot.paths()} | {"lazycache.json"}
    assert all(path.suffix in (".json", ".parquet") for path in folder.glob("_log/*"))
    assert lc.compact(folder).commits == 0
