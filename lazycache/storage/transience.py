"""Which failures of a driver pass by themselves, and which number (`errno`) tells that. Pure.

Drivers raise what they like: errors of the operating system, of HTTP libraries, of clouds' SDKs.
Here each becomes one number: `TRANSIENT` ones are worth another try, all others are an answer.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from typing import Any

TRANSIENT = frozenset(
    {
        errno.EAGAIN,
        errno.EBUSY,
        errno.ETIMEDOUT,
        errno.ECONNRESET,
        errno.ECONNREFUSED,
        errno.ECONNABORTED,
        errno.EPIPE,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.ENETDOWN,
    }
)
"""Numbers of errors that may be gone a moment later."""

_TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504, 507, 509, 520, 521, 522, 523, 524, 529}
_BY_STATUS = {401: errno.EACCES, 403: errno.EACCES, 404: errno.ENOENT, 410: errno.ENOENT}
_TRANSIENT_CODES = {
    "InternalError",
    "RequestTimeout",
    "RequestTimeoutException",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
}
# of aiohttp, botocore, urllib3, httpx, azure.core and http.client, by name: none is a dependency
_LOST_CONNECTIONS = {
    "ClientConnectionError",
    "ClientPayloadError",
    "ConnectTimeoutError",
    "ConnectionClosedError",
    "ConnectionError",
    "EndpointConnectionError",
    "HTTPClientError",
    "IncompleteRead",
    "IncompleteReadError",
    "ProtocolError",
    "ReadTimeoutError",
    "ResponseStreamingError",
    "ServiceRequestError",
    "ServiceResponseError",
    "TransportError",
}
_BASES = (
    ("aiohttp", "ClientError"),
    ("azure.core.exceptions", "AzureError"),
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("httpx", "HTTPError"),
    ("huggingface_hub.errors", "HfHubHTTPError"),
    ("huggingface_hub.errors", "HFValidationError"),
)


def driver_errors() -> tuple[type[BaseException], ...]:
    """Return what the drivers that are loaded raise: `OSError`, their own, and what they lack.

    Example:
        >>> OSError in driver_errors()
        True
    """
    # file systems that only read do not implement writing
    found: list[type[BaseException]] = [OSError, NotImplementedError]
    for module, name in _BASES:
        kind = getattr(sys.modules.get(module), name, None)
        if isinstance(kind, type) and issubclass(kind, Exception):
            found.append(kind)
    return tuple(found)


def number_of(exc: BaseException) -> int | None:
    """Return the `errno` that tells what `exc` is; None if nothing is known of it.

    Example:
        >>> number_of(TimeoutError()) == errno.ETIMEDOUT, number_of(OSError(errno.ENOSPC, "full"))
        (True, 28)
    """
    chain = list(_chain(exc))
    if any(_code(link) in _TRANSIENT_CODES for link in chain):
        return errno.EAGAIN
    if any(_is_lost_connection(link) for link in chain):
        return errno.ECONNRESET
    if (status := status_of(exc)) is not None:
        return _of_status(status, getattr(exc, "errno", None))
    numbers = (_number_of_one(link) for link in chain)
    return next((number for number in numbers if number is not None), None)


def _chain(exc: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what it came from; servers' answers are a few links away."""
    seen: set[int] = set()
    while exc is not None and id(exc) not in seen:
        seen.add(id(exc))
        yield exc
        exc = exc.__cause__


def _of_status(status: int, own: int | None) -> int:
    if status in _TRANSIENT_STATUS:
        return errno.EAGAIN
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    return own if own is not None and own not in TRANSIENT else errno.EINVAL


def _number_of_one(exc: BaseException) -> int | None:
    number = getattr(exc, "errno", None)
    if isinstance(number, int) and number > 0:
        return number
    if isinstance(exc, TimeoutError):
        return errno.ETIMEDOUT
    if isinstance(exc, PermissionError):
        return errno.EACCES
    return errno.ENOTSUP if isinstance(exc, NotImplementedError) else None


def _is_lost_connection(exc: BaseException) -> bool:
    """Whether a connection was not made or broke: a parser's code below it is no status."""
    if isinstance(exc, TimeoutError):
        return False
    names = {kind.__name__ for kind in type(exc).mro()}
    return bool(_LOST_CONNECTIONS & names) and _status(exc) is None


def status_of(exc: BaseException) -> int | None:
    """Return the HTTP status that an error came from; None if it says none."""
    return next((status for link in _chain(exc) if (status := _status(link))), None)


def _status(exc: BaseException) -> int | None:
    """Return the HTTP status of one error, wherever its library keeps it."""
    response = getattr(exc, "response", None)
    if isinstance(response, dict):  # botocore
        return _as_status(response.get("ResponseMetadata", {}).get("HTTPStatusCode"))
    places = (exc, "status"), (exc, "status_code"), (response, "status_code"), (exc, "code")
    found = (_as_status(getattr(holder, name, None)) for holder, name in places)
    return next((status for status in found if status is not None), None)


def _as_status(value: Any) -> int | None:
    lowest, highest = 300, 600  # below it is no failure
    try:
        status = int(value)
    except (TypeError, ValueError):
        return None
    return status if lowest <= status < highest else None


def _code(exc: BaseException) -> str | None:
    """Return the error code in words that S3 sends beside the status."""
    response = getattr(exc, "response", None)
    error = response.get("Error") if isinstance(response, dict) else None
    code = error.get("Code") if isinstance(error, dict) else None
    return code if isinstance(code, str) else None
