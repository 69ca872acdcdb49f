"""DuckDB without its own progress bar, which would be printed between answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb

SETTING = "enable_progress_bar"


def hush(connection: duckdb.DuckDBPyConnection) -> None:
    """Turn the bar of a new connection off.

    In `python -c` it goes to standard output, in a notebook below the cell. Only what is on is
    turned off: in a notebook without ipywidgets it is off, and DuckDB then refuses every setting.

    Example:
        >>> import duckdb
        >>> with duckdb.connect() as connection:
        ...     hush(connection)
        ...     connection.execute(f"SELECT current_setting('{SETTING}')").fetchone()
        (False,)
    """
    found = connection.execute(f"SELECT current_setting('{SETTING}')").fetchone()
    if found is not None and found[0]:
        connection.execute(f"SET {SETTING} = false")
