"""A copy that is killed again and again loses nothing, and becomes the copy that was asked for."""

import pytest
import torch
from care_helpers import small_commits, tree
from copy_kinds import KINDS

import lazycache as lc
from lazycache.care import copied_rows


def _rows(cache, name):
    x = cache[name]
    return x.rows.padded(0) if cache.sites[name].layout == "ragged" else x.rows.load()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_copy_survives_kill_9(tmp_path, rounds, figures, monkeypatch, crashers):
    """At any moment there is no dataset, or one that shows an older version; going on ends it."""
    kills = rounds(8, 300)
    monkeypatch.setattr(copied_rows, "PART_BYTES", 1)  # as in those that are killed
    small_commits(tmp_path / "source", range(8))
    before = tree(tmp_path / "source")
    crashers.run("copy_crasher", tmp_path, kills, 6, timeout=1700)
    source = lc.open(tmp_path / "source")
    begun = sorted(tmp_path.glob("copy*"))
    assert begun
    for there in begun:
        kind = KINDS[int(there.name[4])]
        if (there / "lazycache.json").exists():
            partial = lc.open(there)
            for name in ("resid_out_0", "pooled") if "where" not in kind else ():
                rows = _rows(partial, name) if name in partial else torch.empty(0)
                assert torch.equal(rows, _rows(source, name)[: len(rows)].reshape(rows.shape))
        lc.copy(tmp_path / "source", there, progress=False, **kind)
        shown = lc.open(tmp_path / "source", where=kind.get("where"))
        copy = lc.open(there)
        assert list(copy.sites) == sorted(kind.get("sites", source.sites)) or "sites" not in kind
        for name in copy.sites:
            assert torch.equal(_rows(copy, name), _rows(shown, name))
        assert lc.verify(there, progress=False).ok
    assert tree(tmp_path / "source") == before
    figures.add("copies killed", kills)
    figures.add("copies whole after kills", len(begun))
