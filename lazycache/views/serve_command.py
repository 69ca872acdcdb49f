"""The command that shows a dataset in a browser."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from lazycache.views.commands import Command, Example
from lazycache.views.options import Url, Where

if TYPE_CHECKING:
    from collections.abc import Callable

NEEDED = frozenset({"starlette", "uvicorn", "jinja2"})
"""What the extra `view` installs for the explorer."""


def serve(
    url: Url,
    port: Annotated[
        int | None,
        typer.Option(help="Default: the first free one from 8765; 0: any.", min=0, max=65535),
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            help="Where to listen; on others than this machine, who has the link may read."
        ),
    ] = "127.0.0.1",
    browse: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    token: Annotated[
        str | None, typer.Option(help="What the link ends in. Default: random.", show_default=False)
    ] = None,
    no_token: Annotated[
        bool, typer.Option("--no-token", help="Let every program of this machine in.")
    ] = False,
    where: Where = None,
    seconds: Annotated[float, typer.Option(help="How long a query may run.", min=0.1)] = 10.0,
    rows: Annotated[int, typer.Option(help="Rows of an answer that are shown.", min=1)] = 500,
) -> None:
    """Look at a dataset in the browser: sites, units, examples and SQL."""
    if token is not None and (no_token or not token):
        raise typer.BadParameter("--token needs a text, and goes without --no-token.")
    run, limits = _explorer(seconds, rows)

    import lazycache

    cache = lazycache.open(url, where=where, progress=False)
    run(
        cache,
        host=host,
        port=port,
        token="" if no_token else token,
        limits=limits,
        ready=lambda link: _say(link, browse=browse),
    )


def _explorer(seconds: float, rows: int) -> tuple[Callable[..., None], object]:
    """Return what runs the explorer, and its limits.

    Raises:
        CaptureError: its parts are not installed.
    """
    from lazycache.errors import CaptureError

    try:
        from lazycache.serve.limits import Limits
        from lazycache.serve.running import serve as run
    except ModuleNotFoundError as exc:
        if exc.name not in NEEDED:
            raise
        raise CaptureError(
            f"The explorer needs {exc.name}, which is not installed. "
            'Install it with: pip install "lazycache[view]"'
        ) from exc
    return run, Limits(seconds=seconds, rows=rows)


def _say(link: str, *, browse: bool) -> None:
    """Print the link, and open it."""
    typer.echo(f"Explorer: {link}\nCtrl-C ends it.")
    if browse:
        import webbrowser

        with suppress(webbrowser.Error):  # the link is there to be copied
            webbrowser.open(link)


COMMANDS = (
    Command(
        serve,
        "Read",
        (
            Example("Look at a dataset in the browser", "lazycache serve acts --open"),
            Example(
                "One in a bucket, some rows of it",
                'lazycache serve s3://bucket/acts --where "position > 0"',
            ),
            Example(
                "From another machine: ssh -L 8765:localhost:8765 HOST, and there",
                "lazycache serve acts --port 8765",
            ),
        ),
    ),
)
"""What the command line takes from here."""
