"""The commands that look after a dataset: verify, compact, gc, remove-run and seal."""

from __future__ import annotations

from typing import Annotated

import typer

import lazycache
from lazycache.progress import bytes_text
from lazycache.views.arguments import at_least_one
from lazycache.views.commands import Command, Example
from lazycache.views.documents import print_document
from lazycache.views.options import Json, Progress, Run, Sites, Url


def compact(
    url: Url,
    site: Sites = None,
    shard_bytes: Annotated[
        int | None, typer.Option(help="Bytes that a merged shard has at most [256 MiB].")
    ] = None,
    layout: Annotated[
        str | None, typer.Option(help="row, or tile:64: a few units of many rows are few bytes.")
    ] = None,
    progress: Progress = True,
    json: Json = False,
) -> None:
    """Merge small files into large ones.

    Rows keep their numbers, and who reads or writes meanwhile is not disturbed.
    """
    from lazycache.care.compacting import SHARD_BYTES
    from lazycache.views.render import console, counted

    at_least_one("--shard-bytes", shard_bytes)
    done = lazycache.compact(
        url,
        sites=site or None,
        shard_bytes=shard_bytes or SHARD_BYTES,
        layout=layout,
        progress=progress,
    )
    if json:
        print_document(done)
    elif not done.commits:
        console.print("Nothing to merge.")
    else:
        console.print(
            f"Merged {counted(done.replaced, 'file')} into {done.written:,} of "
            f"{bytes_text(done.bytes)}: version {done.version}. `lazycache gc` deletes the old "
            "ones.",
            markup=False,
        )


def gc(
    url: Url,
    grace_seconds: Annotated[
        float | None,
        typer.Option(help="How long ago files must have been replaced, or left [a day]."),
    ] = None,
    keep_versions: Annotated[
        int, typer.Option(help="How many of the newest versions stay readable.")
    ] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Delete nothing.")] = False,
    progress: Progress = True,
    json: Json = False,
) -> None:
    """Delete files that nobody needs any more.

    Exit code 1 if their age cannot be told: nothing is deleted then.
    """
    from lazycache.care.collecting import GRACE_SECONDS
    from lazycache.views.render import console, counted, harmless

    done = lazycache.gc(
        url,
        grace_seconds=GRACE_SECONDS if grace_seconds is None else grace_seconds,
        keep_versions=keep_versions,
        dry_run=dry_run,
        progress=progress,
    )
    if json:
        print_document(done)
    if done.refused is not None:
        raise typer.Exit(1)  # the warning has said why
    if json:
        return
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
    json: Json = False,
) -> None:
    """Remove a run with all of its rows.

    The rows behind them move up. Asks first.
    """
    from lazycache.care.removing import remove_run as remove
    from lazycache.views.render import console, harmless

    if not yes:
        typer.confirm(f"Remove run {harmless(run)} of {harmless(url)}?", abort=True, err=json)
    version = remove(url, run)
    if json:
        print_document({"url": url, "run": run, "version": version})
        return
    console.print(
        f"Removed run {harmless(run)}: version {version}. `lazycache gc` deletes its files.",
        markup=False,
    )


def seal(url: Url, run: Run, json: Json = False) -> None:
    """Say that a run is complete: nobody adds to it any more."""
    from lazycache.care.removing import seal as seal_run
    from lazycache.views.render import console, harmless

    version = seal_run(url, run)
    if json:
        print_document({"url": url, "run": run, "version": version})
        return
    console.print(f"Run {harmless(run)} is sealed: version {version}.", markup=False)


COMMANDS = (
    Command(
        compact,
        "Care",
        (
            Example("Merge the files of many commits", "lazycache compact acts"),
            Example(
                "Make single neurons cheap to read",
                "lazycache compact acts -s 'mlp_act_*' --layout tile:64",
            ),
        ),
    ),
    Command(
        gc,
        "Care",
        (
            Example("What would go", "lazycache gc acts --dry-run"),
            Example("Delete it, also what is young", "lazycache gc acts --grace-seconds 0"),
        ),
    ),
    Command(
        seal, "Care", (Example("Nobody adds to run main any more", "lazycache seal acts main"),)
    ),
    Command(
        remove_run,
        "Care",
        (Example("Remove a run without being asked", "lazycache remove-run acts main --yes"),),
    ),
)
"""What the command line takes from here."""
