"""Where things lie in a dataset: the only place that builds or checks a path. Pure.

A dataset holds one identity, a log of commits, activation shards and their statistics, table files
and arrays::

    lazycache.json
    _log/00000000000000000007.json
    _log/pack-<first>-<last>.json
    data/<site>/<unique>-r<rank>.parquet
    stats/<site>/<unique>-r<rank>.parquet
    tables/<table>/<unique>-r<rank>.parquet
    arrays/<name>/<unique>-r<rank>.parquet
    entries/<unique>.json, entries/<unique>.parquet

Names become folder names that every file system and bucket takes: what is not a letter, digit,
`.`, `_` or `-` is written as `~XX`, the hexadecimal value of each of its UTF-8 bytes.
"""

import re

from lazycache.errors import StorageError

IDENTITY = "lazycache.json"
"""Path of the identity: what makes a folder a dataset."""

CARD = "README.md"
"""Path of the card: what a dataset is, for people. No reader needs it."""

CARD_MARK = b"---\n# Written by lazycache; `lazycache card --write` replaces it.\n"
"""How a card begins; a file of this name that begins otherwise is somebody else's."""

LOG_PREFIX = "_log/"
"""Folder of the commits."""

DATA_PREFIX = "data/"
"""Folder of the activation shards."""

STATS_PREFIX = "stats/"
"""Folder of the statistics of activation shards."""

TABLES_PREFIX = "tables/"
"""Folder of the table files."""

ARRAYS_PREFIX = "arrays/"
"""Folder of the tensors of the model that runs keep."""

ENTRIES_PREFIX = "entries/"
"""Folder of values that were stored beside the sites."""

FILE_PREFIXES = (DATA_PREFIX, STATS_PREFIX, TABLES_PREFIX, ARRAYS_PREFIX, ENTRIES_PREFIX)
"""Folders of all the files that commits name."""

_FOLDER_BYTES = 200  # file systems stop at 255 bytes per name; some encrypting ones earlier
_PATH_CHARS = 1024  # the longest key that S3 takes
_PLAIN = re.compile(rb"[A-Za-z0-9._-]")
_LOG = re.compile(rf"{LOG_PREFIX}([0-9]{{20}})\.json")
_PACK = re.compile(rf"{LOG_PREFIX}pack-([0-9]{{20}})-([0-9]{{20}})\.json")
_UNIQUE = re.compile(r"[A-Za-z0-9]{1,64}")
# `:` is a drive, a stream or a protocol somewhere; site names carry it escaped
_FORBIDDEN = r"\x00-\x1f\x7f\\:\ud800-\udfff"
_PART = rf"(?!\.{{1,2}}(?:/|\Z))[^/{_FORBIDDEN}]+"
_INSIDE = re.compile(rf"{_PART}(?:/{_PART})*")


def site_dir(name: str) -> str:
    """Return the folder name of a site, table or array; different names get different folders.

    Raises:
        StorageError: the name is empty, `.`, `..`, not Unicode text, or too long.

    Example:
        >>> site_dir("resid_out_3"), site_dir("model.norm:out")
        ('resid_out_3', 'model.norm~3Aout')
    """
    if name in {"", ".", ".."}:
        raise StorageError(
            f"{name!r} cannot name a site, table or array: choose a name with letters."
        )
    try:
        raw = name.encode()
    except UnicodeEncodeError as exc:
        raise StorageError(f"The name {name!r} is not Unicode text.") from exc
    folder = b"".join(_escape(raw[i : i + 1]) for i in range(len(raw))).decode()
    if len(folder) > _FOLDER_BYTES:
        raise StorageError(
            f"The name {name[:60]!r}... takes {len(folder)} bytes as a folder name; at most "
            f"{_FOLDER_BYTES} fit. Choose a shorter name."
        )
    return folder


def _escape(byte: bytes) -> bytes:
    return byte if _PLAIN.match(byte) else b"~%02X" % byte[0]


def shard_path(site: str, *, unique: str, rank: int) -> str:
    """Return the path of a new activation shard.

    Example:
        >>> shard_path("embed", unique="0a1b", rank=2)
        'data/embed/0a1b-r2.parquet'
    """
    return f"{DATA_PREFIX}{site_dir(site)}/{_file_name(unique, rank)}"


def stats_path(site: str, *, unique: str, rank: int) -> str:
    """Return the path of the statistics of a new activation shard: of one name with it.

    Example:
        >>> stats_path("embed", unique="0a1b", rank=2)
        'stats/embed/0a1b-r2.parquet'
    """
    return f"{STATS_PREFIX}{site_dir(site)}/{_file_name(unique, rank)}"


def table_path(table: str, *, unique: str, rank: int) -> str:
    """Return the path of a new file of table rows.

    Example:
        >>> table_path("tokens", unique="0a1b", rank=0)
        'tables/tokens/0a1b-r0.parquet'
    """
    return f"{TABLES_PREFIX}{site_dir(table)}/{_file_name(unique, rank)}"


def array_path(name: str, *, unique: str, rank: int) -> str:
    """Return the path of a new file of a tensor that a run keeps.

    Example:
        >>> array_path("head_out_3.weight", unique="0a1b", rank=0)
        'arrays/head_out_3.weight/0a1b-r0.parquet'
    """
    return f"{ARRAYS_PREFIX}{site_dir(name)}/{_file_name(unique, rank)}"


def entry_path(unique: str, *, suffix: str) -> str:
    """Return the path of a new file of values: a tensor (`parquet`), or trees of values (`json`).

    Example:
        >>> entry_path("0a1b", suffix="json")
        'entries/0a1b.json'
    """
    assert _UNIQUE.fullmatch(unique), f"not a unique part: {unique!r}"
    return f"{ENTRIES_PREFIX}{unique}.{suffix}"


def _file_name(unique: str, rank: int) -> str:
    assert _UNIQUE.fullmatch(unique), f"not a unique part: {unique!r}"
    assert rank >= 0, f"negative rank {rank}"
    return f"{unique}-r{rank}.parquet"


def log_path(version: int) -> str:
    """Return the path of a commit: 20 digits, so that names sort as versions do.

    Example:
        >>> log_path(7)
        '_log/00000000000000000007.json'
    """
    assert 0 < version < 10**20, f"not a version: {version}"
    return f"{LOG_PREFIX}{version:020d}.json"


def parse_log_path(path: str) -> int | None:
    """Return the version that a path of the log names; None for anything else.

    Example:
        >>> parse_log_path("_log/00000000000000000007.json"), parse_log_path("_log/note.txt")
        (7, None)
    """
    match = _LOG.fullmatch(path)
    version = int(match[1]) if match else 0
    return version or None


def pack_path(first: int, last: int) -> str:
    """Return the path of the pack of some commits.

    Example:
        >>> pack_path(1, 100)
        '_log/pack-00000000000000000001-00000000000000000100.json'
    """
    assert 0 < first <= last < 10**20, f"not versions: {first} to {last}"
    return f"{LOG_PREFIX}pack-{first:020d}-{last:020d}.json"


def parse_pack_path(path: str) -> tuple[int, int] | None:
    """Return the first and last version of a pack; None for anything else.

    Example:
        >>> parse_pack_path(pack_path(101, 200)), parse_pack_path("_log/pack-1-2.json")
        ((101, 200), None)
    """
    match = _PACK.fullmatch(path)
    first, last = (int(match[1]), int(match[2])) if match else (0, 0)
    return (first, last) if 0 < first <= last else None


def check_path(path: str) -> str:
    """Return `path` if it stays inside a dataset whatever reads it.

    That is: relative, normalised, `/`-separated, no `..`, no drive or protocol, no control
    character, at most 1,024 characters.

    Raises:
        StorageError: the path is anything else.

    Example:
        >>> check_path("data/embed/0a1b-r0.parquet")
        'data/embed/0a1b-r0.parquet'
    """
    if len(path) > _PATH_CHARS:
        raise StorageError(f"A path of {len(path)} characters: up to {_PATH_CHARS} are allowed.")
    if not _INSIDE.fullmatch(path):
        raise StorageError(
            f"{path!r} is not a path inside a dataset: relative, normalised, with / between its "
            "parts, without `..`, backslash, colon or control characters."
        )
    return path
