"""Which commits cannot follow each other."""

from dataclasses import replace

import pytest
from catalog_helpers import array, draft, ragged_site, shard, site

from lazycache.catalog.conflicts import check_compatible
from lazycache.errors import CommitConflictError

LATE = ragged_site("pattern_0")


def covering(start, rows, *, covers=3, spec=LATE):
    return draft(shards=[shard(spec, rows, row_start=start, covers=covers)])


@pytest.mark.parametrize(
    ("mine", "theirs"), [((0, 5), (4, 9)), ((4, 1), (0, 9)), ((0, 9), (4, 1)), ((2, 2), (2, 2))]
)
def test_one_site_twice_on_the_same_rows_is_a_conflict(mine, theirs):
    """Two additions of a site to rows of one commit must not share a row."""
    with pytest.raises(CommitConflictError, match="'pattern_0' to the same rows of commit 3"):
        check_compatible(covering(*mine), covering(*theirs))


@pytest.mark.parametrize(
    "theirs",
    [
        covering(5, 3),
        covering(0, 9, covers=4),
        covering(0, 9, spec=site("other")),
        covering(0, 9, covers=None),
        draft(),
    ],
)
def test_additions_to_other_rows_go_side_by_side(theirs):
    """Other rows, another commit's rows, another site and new rows are no conflict."""
    check_compatible(covering(0, 5), theirs)
    check_compatible(theirs, covering(0, 5))


def test_a_site_cannot_become_ragged_meanwhile():
    """Layout is part of what a site is."""
    with pytest.raises(CommitConflictError, match="'pattern_0'"):
        check_compatible(draft(sites=[LATE]), draft(sites=[site("pattern_0")]))


@pytest.mark.parametrize("change", [{"value_crc": 8}, {"dtype": "int32"}, {"shape": (24,)}])
def test_one_run_cannot_get_two_arrays_of_a_name(change):
    """Other bits, another dtype or shape: a conflict that names the array and the run."""
    mine, theirs = array(), replace(array(), **change)
    with pytest.raises(CommitConflictError, match=r"run 'main' another array 'head_out_0\.weight'"):
        check_compatible(draft(arrays=[mine]), draft(arrays=[theirs]))
    check_compatible(draft(arrays=[mine]), draft(arrays=[theirs], run="second"))
    check_compatible(draft(arrays=[mine]), draft(arrays=[array(), array("other", crc=9)]))
