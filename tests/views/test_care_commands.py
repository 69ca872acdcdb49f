"""The commands that change what a dataset consists of."""

import pytest
from care_helpers import age, small_commits
from typer.testing import CliRunner
from writer_helpers import check_dataset

import lazycache as lc
from lazycache.views.cli import app


def run(*arguments, code=0, **kwargs):
    """Run a command in this process; give what it says."""
    done = CliRunner().invoke(app, [str(a) for a in arguments], **kwargs)
    assert done.exit_code == code, done.output
    return done.stdout


def test_compact_seal_gc_and_remove_run_do_as_they_say(tmp_path):
    """Each command does its work and says what it did; removing asks first."""
    store = small_commits(tmp_path, range(3), sites=("z_0",))
    assert "Merged 9 files into 3" in run("compact", tmp_path, "--shard-bytes", 1 << 20)
    assert run("compact", tmp_path, "--site", "z_*") == "Nothing to merge.\n"
    assert "9 files too young" in run("gc", tmp_path)
    would = run("gc", tmp_path, "--dry-run", "--grace-seconds", 0)
    assert would.count(".parquet\n") == 9
    assert "Would delete 9 files" in would
    done = " ".join(run("gc", tmp_path, "--grace-seconds", 0).split())
    assert "Deleted 9 files" in done
    assert "Versions before 4 cannot be opened" in done
    assert "sealed: version 6" in run("seal", tmp_path, "main")
    check_dataset(store, range(3), sites=("z_0",))
    run("remove-run", tmp_path, "main", code=1, input="n\n")
    assert len(lc.open(tmp_path)["z_0"].rows) > 0
    assert "version 7" in run("remove-run", tmp_path, "main", "--yes")
    assert "z_0" not in lc.open(tmp_path)


def test_gc_exits_with_1_where_ages_cannot_be_told(tmp_path):
    """A clock that was set back is told, and nothing is deleted."""
    small_commits(tmp_path, range(1), sites=("z_0",))
    age(tmp_path, -1000, "_log/*")
    with pytest.warns(RuntimeWarning, match="set back"):
        run("gc", tmp_path, code=1)
