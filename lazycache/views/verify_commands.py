"""The command that checks a dataset: verify."""

from __future__ import annotations

from typing import Annotated

import typer

import lazycache
from lazycache.views.arguments import at_least_one, check_device, check_dtype_option
from lazycache.views.render import console, harmless


def verify(
    url: Annotated[str, typer.Argument(help="Folder or URL of a dataset.")],
    site: Annotated[
        list[str] | None, typer.Option("--site", "-s", help="Site name or pattern; repeatable.")
    ] = None,
    against_model: Annotated[
        str | None,
        typer.Option(help="Folder or name of the model: examples are run again and compared."),
    ] = None,
    gguf_file: Annotated[str | None, typer.Option(help="GGUF file inside its folder.")] = None,
    model_dtype: Annotated[str | None, typer.Option(help="dtype to run the model in.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
    k: Annotated[int, typer.Option("-k", help="Examples of each run that are run again.")] = 100,
    progress: Annotated[
        bool, typer.Option("--progress/--no-progress", help="Show a bar on a terminal.")
    ] = True,
) -> None:
    """Check all files against the log: checksums, rows, statistics. Exit code 1 if one is wrong.

    Example: lazycache verify acts -s 'resid_out_*'
    """
    at_least_one("-k", k)
    check_dtype_option("--model-dtype", model_dtype)
    check_device(device)
    model = None
    if against_model is not None:
        from lazycache.views.pretrained import load_model

        model = load_model(against_model, gguf_file=gguf_file, dtype=model_dtype, device=device)
    report = lazycache.verify(url, sites=site, against_model=model, k=k, progress=progress)
    # what it says may be of the dataset: names
    lines = map(harmless, str(report).split("\n"))
    console.print("\n".join(lines), markup=False, soft_wrap=True, highlight=False)
    if not report.ok:
        raise typer.Exit(1)


COMMANDS = (verify,)
"""What the command line takes from here."""
