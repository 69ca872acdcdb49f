"""The commands that hand a dataset on: copy, export and card."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import lazycache
from lazycache.views.render import console

Source = Annotated[str, typer.Argument(help="Folder or URL of a dataset.")]
Sites = Annotated[
    list[str] | None,
    typer.Option("--site", "-s", help="Site name or pattern; repeatable. Default: all."),
]
Where = Annotated[str | None, typer.Option(help="Condition in SQL on the rows.")]
Progress = Annotated[
    bool, typer.Option("--progress/--no-progress", help="Show a bar on a terminal.")
]


def copy(
    src: Source,
    dst: Annotated[str, typer.Argument(help="Folder or URL to copy it to.")],
    site: Sites = None,
    where: Where = None,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on with an earlier copy.")
    ] = True,
    progress: Progress = True,
) -> None:
    """Copy a dataset, whole or in part, and check it meanwhile. Run again, it goes on.

    Example: lazycache copy acts s3://bucket/acts -s 'resid_out_*' --where "label = 'x'"
    """
    done = lazycache.copy(src, dst, sites=site, where=where, progress=progress, resume=resume)
    console.print(str(done), markup=False, soft_wrap=True)


def export(
    src: Source,
    out: Annotated[Path, typer.Argument(help="New folder to write the files to.")],
    form: Annotated[
        str, typer.Option("--format", help="parquet, arrow, hf, npy or safetensors.")
    ] = "parquet",
    site: Sites = None,
    where: Where = None,
    progress: Progress = True,
) -> None:
    """Write a dataset as files that other tools read.

    Example: lazycache export acts acts-npy --format npy -s 'resid_out_*'
    """
    done = lazycache.export(src, out, form, sites=site, where=where, progress=progress)
    console.print(str(done), markup=False, soft_wrap=True)


def card(
    url: Source,
    write: Annotated[
        bool, typer.Option("--write", help="Write it to the dataset, as its README.md.")
    ] = False,
) -> None:
    """Describe a dataset in Markdown: sites, rows, runs, and how anything reads it.

    Example: lazycache card acts --write
    """
    from lazycache.care.card import card as describe

    print(describe(url, write=write), end="")  # noqa: T201  # Markdown, as it is


COMMANDS = (copy, export, card)
