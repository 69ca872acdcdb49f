"""The explorer as a server of this machine: the owner of uvicorn."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import secrets
import socket
from collections.abc import Callable
from contextlib import suppress

import uvicorn

from lazycache.errors import QueryError, StorageError
from lazycache.mapping.activation_cache import ActivationCache
from lazycache.serve.access import LOOPBACK
from lazycache.serve.app import make_app
from lazycache.serve.limits import Limits
from lazycache.serve.rendering import link
from lazycache.serve.warming import warming

HOST = "127.0.0.1"
"""Where it listens by default: nobody else reaches it there."""

PORT, PORTS = 8765, 20
"""The first port that is tried where none is asked for, and how many."""

TOKEN_BYTES = 24
"""Random bytes of a token."""

PATIENCE_S = 2
"""How long an answer that is on its way may take when the explorer ends."""


def serve(
    cache: ActivationCache,
    *,
    host: str = HOST,
    port: int | None = None,
    token: str | None = None,
    limits: Limits | None = None,
    ready: Callable[[str], None] = print,
) -> None:
    """Show a dataset to browsers until Ctrl-C; then close it.

    Args:
        cache: One opened dataset.
        host: Where to listen. On anything but this machine itself whoever has the link may ask.
        port: Where to listen; None: the first free one from 8765.
        token: What the link ends in; None: a random one; "": none, on this machine alone.
        limits: How much a question may take; None for the default.
        ready: Called with the link when it answers.

    Raises:
        QueryError: no token, but a host that others reach.
        StorageError: the port is taken, or there is no such host.
        NoDatasetError: the cache is not over one dataset.
    """
    check_open_to(host, token)
    secret = secrets.token_urlsafe(TOKEN_BYTES) if token is None else token or None
    url = cache.stored.url
    app = make_app(cache, url=url, token=secret, limits=limits, hosts=names_of(host))
    with bound(host, port) as listening:
        server = _Server(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,  # nobody else says who asks
                lifespan="off",
                ws="none",
                http="h11",
                loop="asyncio",
                timeout_graceful_shutdown=PATIENCE_S,
            ),
            cache,
        )
        # it listens already: who opens the link now waits for the server, no longer
        ready(address(host, listening.getsockname()[1], secret))
        warming(cache)
        with suppress(KeyboardInterrupt):  # how it is ended
            server.run(sockets=[listening])


class _Server(uvicorn.Server):
    """A server that ends what is asked of its dataset before it waits for the answers."""

    def __init__(self, config: uvicorn.Config, cache: ActivationCache) -> None:
        super().__init__(config)
        self._cache = cache

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End it: queries that still run get an error page."""
        await asyncio.to_thread(self._cache.close)
        await super().shutdown(sockets)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a host.

    Example:
        >>> is_loopback("localhost"), is_loopback("127.0.0.1"), is_loopback("0.0.0.0")
        (True, True, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return host.lower() in LOOPBACK


def check_open_to(host: str, token: str | None) -> None:
    """Refuse to show a dataset to everybody.

    Raises:
        QueryError: there is no token, and others reach the host.
    """
    if not token and token is not None and not is_loopback(host):
        raise QueryError(
            f"Without a token everybody who reaches {host} could read the dataset: leave "
            "--no-token away, or listen on 127.0.0.1."
        )


def names_of(host: str) -> frozenset[str] | None:
    """Return the names by which a browser may ask for a host; None: any.

    Example:
        >>> sorted(names_of("127.0.0.1")), names_of("0.0.0.0")
        (['127.0.0.1', '::1', 'localhost'], None)
    """
    try:
        if ipaddress.ip_address(host).is_unspecified:
            return None
    except ValueError:  # a name
        pass
    return LOOPBACK | {host.lower()}


def address(host: str, port: int, token: str | None) -> str:
    """Return the link that opens an explorer.

    Example:
        >>> address("127.0.0.1", 8765, "abc"), address("::1", 80, None)
        ('http://127.0.0.1:8765/?token=abc', 'http://[::1]:80/')
    """
    # of all addresses of a machine, the name that others know
    name = socket.gethostname() if names_of(host) is None else host
    shown = f"[{name}]" if ":" in name else name
    return f"http://{shown}:{port}{link('/', token=token)}"


def bound(host: str, port: int | None) -> socket.socket:
    """Return a socket that listens.

    Raises:
        StorageError: the port is taken or not allowed, all that are tried are, or there is no such
            host.
    """
    tried = range(PORT, PORT + PORTS) if port is None else [port]
    for one in tried:
        try:
            return _listening(host, one)
        except OSError as exc:
            if exc.errno == errno.EADDRINUSE:
                continue
            raise StorageError(f"Cannot listen on {host}:{one}: {exc.strerror or exc}.") from exc
    what = f"Port {port} is" if port is not None else f"Ports {PORT} to {PORT + PORTS - 1} are"
    raise StorageError(
        f"{what} taken on {host}. Name another one: --port 0 takes any that is free."
    )


def _listening(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listening = socket.socket(family, kind, protocol)
    try:
        # a port that was left a moment ago; one that somebody listens on stays taken
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(place)
        listening.listen()
    except BaseException:
        listening.close()
        raise
    return listening
