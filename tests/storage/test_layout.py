"""Paths of a dataset."""

import posixpath
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazycache.errors import StorageError
from lazycache.storage import layout

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
NAMES = TEXT.filter(lambda name: name not in {".", ".."})
PATHS = st.lists(st.sampled_from(["a", "b.c", "..", ".", "", "~", "-x", "..a", "a..", "é"])).map(
    "/".join
)


@given(NAMES, NAMES)
def test_site_dir_is_safe_and_tells_names_apart(a, b):
    """Every name gets a folder of plain characters, and no two names get the same."""
    assert re.fullmatch(r"[A-Za-z0-9._~-]+", layout.site_dir(a))
    assert layout.site_dir(a) not in {".", ".."}
    assert (layout.site_dir(a) == layout.site_dir(b)) == (a == b)


def test_site_dir_escapes_bytes_of_utf8():
    """What is not plain is written as ~XX per byte, the tilde itself too."""
    assert layout.site_dir("a/b:in") == "a~2Fb~3Ain"
    assert layout.site_dir("é~") == "~C3~A9~7E"


@pytest.mark.parametrize("name", ["", ".", "..", "x" * 201, "/" * 67, "\ud800"])
def test_site_dir_refuses_what_cannot_be_a_folder(name):
    """Empty names, dots, names too long for a file system and broken text are refused."""
    with pytest.raises(StorageError):
        layout.site_dir(name)


def test_site_dir_takes_the_longest_name():
    """200 bytes are allowed, exactly."""
    assert layout.site_dir("x" * 200) == "x" * 200
    assert len(layout.site_dir("/" * 66)) == 198


@given(NAMES, st.uuids(), st.integers(0, 10_000))
def test_new_files_have_checked_paths(name, unique, rank):
    """Every path that the layout makes passes its own check and is where it should be."""
    shard = layout.shard_path(name, unique=unique.hex, rank=rank)
    table = layout.table_path(name, unique=unique.hex, rank=rank)
    array = layout.array_path(name, unique=unique.hex, rank=rank)
    assert layout.check_path(shard).split("/") == [
        "data",
        layout.site_dir(name),
        f"{unique.hex}-r{rank}.parquet",
    ]
    assert layout.check_path(table) == "tables" + shard.removeprefix("data")
    assert layout.check_path(array) == "arrays" + shard.removeprefix("data")
    assert all(path.startswith(layout.FILE_PREFIXES) for path in (shard, table, array))


@given(st.integers(1, 10**20 - 1))
def test_log_paths_round_trip(version):
    """The version comes back from its path, and the path is a checked one."""
    path = layout.log_path(version)
    assert layout.parse_log_path(layout.check_path(path)) == version


@given(st.integers(1, 10**20 - 1), st.integers(1, 10**20 - 1))
def test_log_paths_sort_as_versions(a, b):
    """A listing in order of path is in order of version."""
    assert (layout.log_path(a) < layout.log_path(b)) == (a < b)


@pytest.mark.parametrize(
    "path",
    [
        "_log/7.json",
        "_log/00000000000000000000.json",
        "_log/00000000000000000007.json.tmp",
        "_log/checkpoint-00000000000000000007.parquet",
        "x_log/00000000000000000007.json",
        "_log/\u0660\u0660\u0660\u0660\u0660\u0660\u0660\u0660\u0660\u06600000000007.json",
        "_log/00000000000000000007.json\n",
    ],
)
def test_other_names_are_no_versions(path):
    """Files that are not commits are not taken for one."""
    assert layout.parse_log_path(path) is None


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "../x",
        "a/../../x",
        "a/..",
        "./a",
        "a/.",
        "a//b",
        "a/",
        "a\\..\\b",
        "C:/x",
        "s3://bucket/x",
        "a\x00b",
        "a\nb",
        "a\x7f",
        "\ud800",
        "x" * 1025,
    ],
)
def test_check_path_refuses_every_way_out(path):
    """Absolute, climbing, unnormalised, other drives and protocols, control characters, length."""
    with pytest.raises(StorageError):
        layout.check_path(path)


@given(PATHS)
def test_check_path_accepts_exactly_normalised_paths_below(path):
    """What passes is what stays below the dataset and is written in one way only."""
    below = bool(path) and not path.startswith("/") and path.split("/")[0] != ".."
    normal = path == posixpath.normpath(path) and path != "."
    if below and normal:
        assert layout.check_path(path) == path
    else:
        with pytest.raises(StorageError):
            layout.check_path(path)


def test_check_path_is_quick_on_long_paths():
    """A hostile path costs no more than reading it: the pattern never backtracks."""
    with pytest.raises(StorageError):
        layout.check_path("a" * 500 + "/" + "." * 520 + "/..")
    assert layout.check_path("/".join(["..a"] * 200))
