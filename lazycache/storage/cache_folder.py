"""The folder of this user for what can be made again: indexes, and blocks of files far away."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_folder() -> Path | None:
    """Return `$LAZYCACHE_CACHE_DIR`, else the folder `lazycache` of the user's cache directory.

    None for a user without a home. Reads and makes nothing.

    Example:
        >>> (cache_folder() or Path.cwd()).is_absolute()
        True
    """
    own = os.environ.get("LAZYCACHE_CACHE_DIR")
    if own:
        return Path(own).absolute()
    try:
        return _user_caches() / "lazycache"
    except RuntimeError:  # pathlib's word for a user without HOME who is in no list of users
        return None


def _user_caches() -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
