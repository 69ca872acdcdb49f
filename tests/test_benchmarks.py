"""The benchmarks: that all of them run, and that their table says what was measured."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))  # benchmarks are no installed package

from benchmarks.__main__ import STAGES  # noqa: E402
from benchmarks.causes import CAUSES, cause_of  # noqa: E402
from benchmarks.comparing import Bench, Comparison, Measured, Took, Way, compare  # noqa: E402
from benchmarks.goals import judge  # noqa: E402
from benchmarks.report import (  # noqa: E402
    check_marks,
    goals_table,
    rows_of,
    stage_table,
    update,
)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """What `python -m benchmarks --smoke` wrote."""
    folder = tmp_path_factory.mktemp("benchmarks")
    command = [sys.executable, "-m", "benchmarks", "--smoke", "--json", folder / "all.json"]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}
    done = subprocess.run(
        [*command, "--folder", folder / "disk"],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not list((folder / "disk").iterdir()), "a stage left files behind"
    return json.loads((folder / "all.json").read_text())


@pytest.mark.slow
def test_every_stage_runs_and_measures_ours(report):
    """A smoke run ends well; each way of each operation was measured, or says why not."""
    assert tuple(report["stages"]) == STAGES
    for name, stage in report["stages"].items():
        assert stage["comparisons"], name
        assert stage["peak_rss"] > 50e6, name
        for one in stage["comparisons"]:
            timed = [way for way in one["ways"] if way["seconds"]]
            assert timed, (name, one["operation"])
            for way in one["ways"]:
                assert bool(way["seconds"]) != bool(way["skipped"]), (name, one["operation"], way)
    assert {"machine", "date", "load", "commit", "versions", "command"} < set(report)


@pytest.mark.slow
def test_goals_and_causes_are_about_what_is_there(report):
    """Every goal can be judged, every cause is of a goal; operations have names of their own."""
    goals = []
    for name, stage in report["stages"].items():
        operations = [one["operation"] for one in stage["comparisons"]]
        assert len(set(operations)) == len(operations)
        for one in stage["comparisons"]:
            goals += [(name, one["operation"], verdict.goal) for verdict in judge(one)]
    assert len(goals) > 20
    for cause in CAUSES:
        assert any(cause.explains(*goal) for goal in goals), cause


def test_the_document_has_a_place_for_every_table():
    """`--update docs/performance.md` finds a mark for each stage."""
    check_marks(ROOT / "docs" / "performance.md", STAGES)


def test_ways_take_turns_after_a_round_that_is_not_counted(tmp_path):
    """One warm-up each, then rounds that each begin with the next way."""
    done: list[str] = []
    ways = [
        Way("a", "ours", lambda: done.append("a"), before=lambda: done.append("before a")),
        Way("b", "peer", lambda: Took(2.0, 1.0), rounds=2),
        Way("c", "peer", None, skipped="c is not installed"),
        Way("d", "limit", lambda: done.append("d")),
    ]
    found = compare("x", ways, bench=Bench(tmp_path), nbytes=8)
    a = ["before a", "a"]
    assert done == [*a, "d", *a, "d", "d", *a, "d", *a, *a, "d", "d", *a]
    assert [len(way.seconds) for way in found.ways] == [5, 2, 0, 5]
    assert found.ways[1].seconds == [2.0, 2.0]
    assert found.ways[1].cpu == [1.0, 1.0]


def test_ways_that_are_warm_have_no_round_that_is_not_counted(tmp_path):
    """Who has just answered, to be compared, does it five times, all of them counted."""
    done: list[str] = []
    way = Way("a", "ours", lambda: done.append("a"))
    found = compare("x", [way], bench=Bench(tmp_path), nbytes=8, warm=True)
    assert len(done) == len(found.ways[0].seconds) == 5


def comparison(goal=""):
    """Three rounds of ours, a peer, a limit and one that is absent."""
    ways = [
        Measured("lazycache", "ours", [2.0, 4.0, 1.0], nbytes=5_000_000, requests=1234),
        Measured("other", "peer", [6.0, 4.0, 4.0]),
        Measured("slower", "peer", [80.0]),
        Measured("absent", "peer", skipped="absent is not installed"),
        Measured("raw", "limit", [1.0, 3.0, 1.0]),
    ]
    return asdict(Comparison("read", 4_000_000, ways, goal))


def test_goals_are_judged_by_ratios_of_the_same_round():
    """Medians of 3, 1 and 4, not of the medians; a way that was not measured reaches nothing."""
    one = comparison("best peer >= 3; limit >= 0.9; raw <= 1.4; absent >= 1")
    assert outcomes(one) == [(3.0, True), (0.75, False), (4 / 3, True), (None, False)]
    with pytest.raises(ValueError, match="there are lazycache, other, slower, absent, raw"):
        judge(comparison("memmap >= 1"))
    with pytest.raises(ValueError, match="a goal reads"):
        judge(comparison("fast"))


def test_goals_are_judged_by_what_ours_takes_and_reads():
    """Seconds, MB/s, requests and bytes of ours; the bytes of another way beside them."""
    one = comparison("seconds <= 1.5; MB/s >= 2; requests <= 1233; bytes / values <= 1.25")
    assert outcomes(one) == [(2.0, False), (2.0, True), (1234, False), (1.25, True)]
    one["goal"] = "bytes of raw >= 2; bytes of other >= 1"
    one["ways"][4]["nbytes"] = 15_000_000
    assert outcomes(one) == [(3.0, True), (None, False)]


def outcomes(one):
    """What came out of every goal."""
    return [(verdict.found, verdict.reached) for verdict in judge(one)]


def test_a_row_says_how_long_how_much_and_beside_ours():
    """Median, range, ratio with its range, MB/s, bytes and requests, in this order."""
    assert rows_of(comparison()) == [
        ["read:", "", "", "", "", "", "", ""],
        ["- **lazycache**", "2 s (1-4)", "", "2", "", "5 MB", "1,234", ""],
        ["- other", "4 s (4-6)", "3 (1-4)", "1", "", "", "", ""],
        ["- slower", "80 s", "40", "0.05", "", "", "", ""],
        ["- *raw*", "1 s (1-3)", "0.75 (0.5-1)", "4", "", "", "", ""],
    ]


def test_goals_of_all_stages_are_one_table_with_the_causes_of_the_missed_ones():
    """Each goal with what came out; one that is missed with its cause, or that there is none."""
    stages = {
        "query": {"comparisons": [comparison("limit >= 0.8; raw <= 9") | {"operation": NEAREST}]},
        "read": {"comparisons": [comparison("limit >= 0.9; absent >= 1")]},
        "open": {"failed": "OSError: no"},
    }
    *table, why, _, first, second = goals_table(stages).splitlines()
    assert [cell.strip() for cell in table[3].split("|")[1:-1]] == [
        f"query: {NEAREST}",
        "raw <= 9",
        "1.33, reached",
    ]
    assert [line.split("|")[3].strip() for line in table[4:6]] == [
        "0.75, **not reached**",
        "not measured",
    ]
    assert why == "Why not:"
    assert first.startswith(f"- query, {NEAREST}, limit >= 0.8: {cause_of('query', NEAREST, '')}")
    assert second == (
        "- read, read, limit >= 0.9: no cause is written down in benchmarks/causes.py."
    )


NEAREST = "20 nearest to a vector, beside memory"


def test_tables_go_between_their_marks_and_nowhere_else(tmp_path):
    """What stood between the marks is replaced, text around stays, a missing mark stops it all."""
    document = tmp_path / "performance.md"
    own = "<!-- table: goals -->\n<!-- end -->\n"
    before = "a\n<!-- table: run -->\nold\n<!-- end -->\nb\n<!-- table: read -->\n<!-- end -->\nc\n"
    document.write_text(own + before)
    stage = {"seconds": 1.0, "peak_rss": 3e8, "comparisons": [comparison("limit >= 0.9")]}
    stage |= {"date": "yesterday", "commit": "1", "load": [0.5]}
    told = {"command": "x", "date": "today", "machine": "m", "versions": {"torch": "2"}}
    run = told | {"stages": {"read": stage}}
    update(document, run)
    text = document.read_text()
    assert "a\n<!-- table: run -->\n\n`x`, today; m; torch 2.\n\n<!-- end -->\nb\n" in text
    assert text.startswith(f"<!-- table: goals -->\n\n{goals_table(run['stages'])}\n\n<!-- end")
    table = stage_table(stage, goals=False)
    assert f"b\n<!-- table: read -->\n\n{table}\n\n<!-- end -->\nc\n" in text
    assert "- read: limit >= 0.9: 0.75, **not reached**" in stage_table(stage)
    assert "- absent: absent is not installed" in text
    assert "1 s in all, peak RSS of the process 300 MB; yesterday, commit 1, load before it" in text
    assert "old" not in text
    with pytest.raises(ValueError, match="needs <!-- table: write -->"):
        update(document, run | {"stages": {"read": stage, "write": stage}})
    assert document.read_text() == text
