"""Arguments and options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

from lazycache.views import completion

Url = Annotated[str, typer.Argument(help="Folder or URL of a dataset.")]
Site = Annotated[
    str, typer.Argument(help="A site of the dataset.", autocompletion=completion.sites)
]
Unit = Annotated[
    str | None,
    typer.Argument(help="Number of a unit, from 0; 3,17 is unit 17 of head 3."),
]
Sites = Annotated[
    list[str] | None,
    typer.Option(
        "--site",
        "-s",
        help="Site name or pattern; repeatable. Default: all.",
        autocompletion=completion.sites,
    ),
]
Run = Annotated[
    str,
    typer.Argument(
        help="Name of a run; `lazycache info URL` lists them.", autocompletion=completion.runs
    ),
]
Where = Annotated[str | None, typer.Option(help="Condition in SQL on the rows.")]
Number = Annotated[int, typer.Option("-k", help="How many.")]
Around = Annotated[int, typer.Option(help="Tokens shown on each side; 0 for none.")]
Form = Annotated[
    str | None,
    typer.Option(
        "--format",
        help="table (first rows; the default), csv, json (an object a line) or parquet.",
        autocompletion=completion.forms,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, one document.")]
JsonLines = Annotated[bool, typer.Option("--json", help="Print JSON, an object a line.")]
Output = Annotated[
    str, typer.Option("--output", "-o", help="File; - is standard output.", show_default=False)
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the file that is there.")]
Progress = Annotated[
    bool, typer.Option("--progress/--no-progress", help="Show a bar on a terminal.")
]
Model = Annotated[str, typer.Argument(help="Folder or name of a transformers model.")]
Gguf = Annotated[str | None, typer.Option(help="GGUF file inside the model's folder.")]
