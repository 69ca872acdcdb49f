"""The command that checks a dataset: verify."""

from __future__ import annotations

from typing import Annotated

import typer

import lazycache
from lazycache.views.arguments import at_least_one, check_device, check_dtype_option
from lazycache.views.commands import Command, Example
from lazycache.views.documents import print_document
from lazycache.views.options import Gguf, Json, Progress, Sites, Url


def verify(
    url: Url,
    site: Sites = None,
    against_model: Annotated[
        str | None,
        typer.Option(help="Folder or name of the model: examples are run again and compared."),
    ] = None,
    gguf_file: Gguf = None,
    model_dtype: Annotated[str | None, typer.Option(help="dtype to run the model in.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
    k: Annotated[int, typer.Option("-k", help="Examples of each run that are run again.")] = 100,
    progress: Progress = True,
    json: Json = False,
) -> None:
    """Check all files against the log: checksums, rows, statistics.

    Reads everything. Exit code 1 if something is wrong.
    """
    from lazycache.views.render import console, harmless

    at_least_one("-k", k)
    check_dtype_option("--model-dtype", model_dtype)
    check_device(device)
    model = None
    if against_model is not None:
        from lazycache.views.pretrained import load_model

        model = load_model(against_model, gguf_file=gguf_file, dtype=model_dtype, device=device)
    report = lazycache.verify(url, sites=site, against_model=model, k=k, progress=progress)
    if json:
        print_document({"ok": report.ok, **{name: getattr(report, name) for name in _KEYS}})
    else:
        # what it says may be of the dataset: names
        lines = map(harmless, str(report).split("\n"))
        console.print("\n".join(lines), markup=False, soft_wrap=True, highlight=False)
    if not report.ok:
        raise typer.Exit(1)


_KEYS = (
    "url",
    "version",
    "problems",
    "more",
    "counts",
    "orphans",
    "orphan_bytes",
    "compared",
    "notes",
)

COMMANDS = (
    Command(
        verify,
        "Care",
        (
            Example("Read everything and compare it with the log", "lazycache verify acts"),
            Example("Of some sites", "lazycache verify acts -s 'resid_out_*'"),
            Example(
                "Run 20 examples again, and compare bits",
                "lazycache verify acts --against-model ./model -k 20",
            ),
            Example("For a script", "lazycache verify acts --json"),
        ),
    ),
)
"""What the command line takes from here."""
