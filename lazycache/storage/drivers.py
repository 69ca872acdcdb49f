"""fsspec's file systems: opened, with what lazycache tells them unless the user says otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lazycache.errors import StorageError
from lazycache.storage.secrets import Secrets
from lazycache.storage.transience import driver_errors

_CONNECT_S = 10.0
_CONNECTIONS = 64  # drivers stop at 10 or 100; scattered rows are many small requests at once
_EXTRAS = {
    "s3": "s3",
    "s3a": "s3",
    "gs": "gcs",
    "gcs": "gcs",
    "az": "azure",
    "abfs": "azure",
    "abfss": "azure",
    "adl": "azure",
    "hf": "hf",
    "http": "http",
    "https": "http",
}


def open_driver(
    url: str, shown: str, storage_options: Mapping[str, Any], *, silence_s: float
) -> tuple[Any, str]:
    """Return fsspec's file system for a URL, and the path of the URL in it.

    `silence_s` is how long a server may send nothing before a try counts as failed. What the user
    says in `storage_options` goes before everything that is said here.

    Raises:
        StorageError: no driver is installed, or it refuses the address or the options.
    """
    import fsspec

    protocol = url.partition("://")[0]
    options = _with_defaults(protocol, storage_options, silence_s=silence_s)
    secrets = Secrets(url, storage_options)
    try:
        fs, root = fsspec.core.url_to_fs(url, **options)
    except ImportError as exc:
        extra = _EXTRAS.get(protocol)
        advice = f" Run: pip install 'lazycache[{extra}]'." if extra else ""
        raise StorageError(
            f"{shown} needs a package that is not installed: {exc}.{advice}"
        ) from exc
    except _refusals() as exc:
        reason = secrets.hidden(str(exc).replace(url, shown))
        raise StorageError(f"Could not open {shown}: {reason}") from None  # it may hold secrets
    if hasattr(fs, "retries"):
        fs.retries = 1  # the same, for what the driver itself would try again
    return fs, str(root)


def asks_in_turn(fs: Any) -> bool:
    """Whether a driver reads ranges one after the other: it leaves them to fsspec, without async.

    Example:
        >>> import fsspec
        >>> asks_in_turn(fsspec.filesystem("memory"))
        True
    """
    from fsspec import AbstractFileSystem

    own = getattr(fs.cat_ranges, "__func__", None)
    return own is AbstractFileSystem.cat_ranges


def _refusals() -> tuple[type[BaseException], ...]:
    """Return what drivers raise of an address or an option that they do not take."""
    return (ValueError, TypeError, KeyError, *driver_errors())


def _with_defaults(protocol: str, said: Mapping[str, Any], *, silence_s: float) -> dict[str, Any]:
    """Return the options of the user, over time limits and numbers of connections."""
    options = dict(said)
    if protocol in {"s3", "s3a"}:
        limits = {
            "connect_timeout": _CONNECT_S,
            "read_timeout": silence_s,
            "max_pool_connections": _CONNECTIONS,
            "retries": {"max_attempts": 0},  # `retrying` does it, to one deadline
        }
        options["config_kwargs"] = {**limits, **options.get("config_kwargs", {})}
    elif protocol in {"http", "https"}:
        options["client_kwargs"] = {
            "timeout": _patience_of_http(silence_s),
            **options.get("client_kwargs", {}),
        }
    return options


def _patience_of_http(silence_s: float) -> Any:
    """Return limits for silence, none for the whole: a large read may take long."""
    try:
        import aiohttp
    except ImportError as exc:
        raise StorageError(
            f"http:// needs a package that is not installed: {exc}. "
            "Run: pip install 'lazycache[http]'."
        ) from exc
    return aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=silence_s)
