"""The commands that change what a dataset consists of: compact, gc, remove-run and seal."""

from __future__ import annotations

from typing import Annotated

import typer

import lazycache
from lazycache.care.collecting import GRACE_SECONDS
from lazycache.care.compacting import SHARD_BYTES
from lazycache.care.removing import remove_run as remove
from lazycache.care.removing import seal as seal_run
from lazycache.progress import bytes_text
from lazycache.views.render import console, counted, harmless

Url = Annotated[str, typer.Argument(help="Folder or URL of a dataset.")]
Run = Annotated[str, typer.Argument(help="Name of a run; `lazycache info URL` lists them.")]
Progress = Annotated[
    bool, typer.Option("--progress/--no-progress", help="Show a bar on a terminal.")
]


def compact(
    url: Url,
    site: Annotated[
        list[str] | None, typer.Option("--site", "-s", help="Site name or pattern; repeatable.")
    ] = None,
    shard_bytes: Annotated[
        int, typer.Option(help="Bytes that a merged shard has at most.")
    ] = SHARD_BYTES,
    layout: Annotated[
        str | None, typer.Option(help="row, or tile:64: a few units of many rows are few bytes.")
    ] = None,
    progress: Progress = True,
) -> None:
    """Merge small files into large ones; rows keep their numbers, readers are not disturbed.

    Example: lazycache compact acts -s 'mlp_act_*' --layout tile:64
    """
    done = lazycache.compact(
        url, sites=site or None, shard_bytes=shard_bytes, layout=layout, progress=progress
    )
    if not done.commits:
        console.print("Nothing to merge.")
        return
    console.print(
        f"Merged {counted(done.replaced, 'file')} into {done.written:,} of "
        f"{bytes_text(done.bytes)}: version {done.version}. `lazycache gc` deletes the old ones.",
        markup=False,
    )


def gc(
    url: Url,
    grace_seconds: Annotated[
        float, typer.Option(help="How long ago files must have been replaced, or left.")
    ] = GRACE_SECONDS,
    keep_versions: Annotated[
        int, typer.Option(help="How many of the newest versions stay readable.")
    ] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Delete nothing.")] = False,
    progress: Progress = True,
) -> None:
    """Delete files that nobody needs any more. Exit code 1 if their age cannot be told.

    Example: lazycache gc acts --dry-run
    """
    done = lazycache.gc(
        url,
        grace_seconds=grace_seconds,
        keep_versions=keep_versions,
        dry_run=dry_run,
        progress=progress,
    )
    if done.refused is not None:
        raise typer.Exit(1)  # the warning has said why
    if dry_run:
        for path in done.paths:
            typer.echo(harmless(path))
    said = "Would delete" if dry_run else "Deleted"
    expired = f" Versions before {done.expired} cannot be opened." if done.expired else ""
    waiting = f" {counted(done.waiting, 'file')} too young yet." if done.waiting else ""
    console.print(
        f"{said} {counted(done.files, 'file')}, {bytes_text(done.bytes)}.{expired}{waiting}",
        markup=False,
    )


def remove_run(
    url: Url,
    run: Run,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove a run with all of its rows; the rows behind them move up.

    Example: lazycache remove-run acts trial-3
    """
    if not yes:
        typer.confirm(f"Remove run {harmless(run)} of {harmless(url)}?", abort=True)
    version = remove(url, run)
    console.print(
        f"Removed run {harmless(run)}: version {version}. `lazycache gc` deletes its files.",
        markup=False,
    )


def seal(url: Url, run: Run) -> None:
    """Say that a run is complete: nobody adds rows to it any more.

    Example: lazycache seal acts main
    """
    version = seal_run(url, run)
    console.print(f"Run {harmless(run)} is sealed: version {version}.", markup=False)


COMMANDS = (compact, gc, remove_run, seal)
"""What the command line takes from here."""
