"""The commands that hand a dataset on: copy, export and card."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import lazycache
from lazycache.views import completion
from lazycache.views.commands import Command, Example
from lazycache.views.documents import print_document
from lazycache.views.options import Json, Progress, Sites, Where

Source = Annotated[str, typer.Argument(help="Folder or URL of a dataset.")]


def copy(
    src: Source,
    dst: Annotated[str, typer.Argument(help="Folder or URL to copy it to.")],
    site: Sites = None,
    where: Where = None,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on with an earlier copy.")
    ] = True,
    progress: Progress = True,
    json: Json = False,
) -> None:
    """Copy a dataset, whole or in part.

    Everything is checked meanwhile. Run again, it goes on where it stopped.
    """
    done = lazycache.copy(src, dst, sites=site, where=where, progress=progress, resume=resume)
    _print_report(done, json=json)


def export(
    src: Source,
    out: Annotated[Path, typer.Argument(help="New folder to write the files to.")],
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="parquet, arrow, hf, npy or safetensors.",
            autocompletion=completion.exports,
        ),
    ] = "parquet",
    site: Sites = None,
    where: Where = None,
    progress: Progress = True,
    json: Json = False,
) -> None:
    """Write a dataset as files that other tools read."""
    done = lazycache.export(src, out, form, sites=site, where=where, progress=progress)
    _print_report(done, json=json)


def card(
    url: Source,
    write: Annotated[
        bool, typer.Option("--write", help="Write it to the dataset, as its README.md.")
    ] = False,
    json: Json = False,
) -> None:
    """Describe a dataset in Markdown.

    Sites, rows, runs, and how anything reads it, also without lazycache.
    """
    from lazycache.care.card import card as describe

    text = describe(url, write=write)
    if json:
        print_document({"url": url, "card": text, "written": write})
        return
    print(text, end="")  # noqa: T201  # Markdown, as it is


def _print_report(done: object, *, json: bool) -> None:
    from lazycache.views.render import console

    if json:
        print_document(done)
        return
    console.print(str(done), markup=False, soft_wrap=True)


COMMANDS = (
    Command(
        copy,
        "Share",
        (
            Example("To a bucket", "lazycache copy acts s3://bucket/acts"),
            Example(
                "Two sites of some rows",
                "lazycache copy acts part -s 'resid_out_[4-5]' --where 'position > 0'",
            ),
        ),
    ),
    Command(
        export,
        "Share",
        (
            Example("As numpy arrays", "lazycache export acts npy --format npy -s 'resid_out_*'"),
            Example("As a dataset of Hugging Face", "lazycache export acts hf --format hf"),
        ),
    ),
    Command(
        card,
        "Share",
        (
            Example("Look at it", "lazycache card acts"),
            Example("Put it into the dataset as README.md", "lazycache card acts --write"),
        ),
    ),
)
"""What the command line takes from here."""
