"""The `lazycache` command: the library's verbs, one command each."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Annotated, TextIO

import typer
from rich.markup import escape

import lazycache
from lazycache.errors import LazycacheError, QueryError
from lazycache.mapping.activation_cache import ActivationCache
from lazycache.options import ExtractOptions
from lazycache.progress import bytes_text
from lazycache.types import RAGGED
from lazycache.views.answers import print_answer
from lazycache.views.arguments import (
    at_least_one,
    check_capture,
    check_device,
    check_dtype_option,
    check_length,
    pool_of,
    positions_of,
)
from lazycache.views.care_commands import COMMANDS as CARE_COMMANDS
from lazycache.views.model_sites import print_sites
from lazycache.views.question_commands import COMMANDS
from lazycache.views.render import (
    console,
    counted,
    errors,
    harmless,
    sites_table,
    stored_bytes,
)
from lazycache.views.sharing_commands import COMMANDS as SHARING_COMMANDS
from lazycache.views.verify_commands import COMMANDS as VERIFY_COMMANDS

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="The activation database: capture a model, read it lazily, ask it in SQL.",
)

Url = Annotated[str, typer.Argument(help="Folder or URL of a dataset.")]
Model = Annotated[str, typer.Argument(help="Folder or name of a transformers model.")]
Gguf = Annotated[str | None, typer.Option(help="GGUF file inside the model's folder.")]
Form = Annotated[
    str,
    typer.Option("--format", help="table (first rows), csv, json (an object a line) or parquet."),
]


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print it.")] = False) -> None:
    if version:
        console.print(f"lazycache {lazycache.__version__}")
        raise typer.Exit


@app.command()
def demo(
    url: Annotated[str, typer.Argument(help="Where to store it.")] = "lazycache-demo",
) -> None:
    """Capture a real model over real text, then tour what was stored."""
    from lazycache.views.demo import run_demo

    run_demo(url)


@app.command()
def capture(
    model: Model,
    corpus: Annotated[
        Path, typer.Argument(help="Text file (a paragraph an example) or .jsonl with text.")
    ],
    url: Annotated[
        str | None, typer.Argument(help="Folder or URL to write the dataset to.")
    ] = None,
    site: Annotated[
        list[str] | None, typer.Option("--site", "-s", help="Site name or pattern; repeatable.")
    ] = None,
    add_to: Annotated[
        str | None, typer.Option(help="Add the sites to the rows of this dataset instead.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Most examples in a batch [64].")] = None,
    batch_tokens: Annotated[
        int | None, typer.Option(help="Most tokens in a batch, padding included [8192].")
    ] = None,
    max_length: Annotated[int | None, typer.Option(help="Cut examples to so many tokens.")] = None,
    positions: Annotated[
        str | None,
        typer.Option(help="all (the default), first, last, last-K, or a position number."),
    ] = None,
    pool: Annotated[
        str | None, typer.Option(help="mean, sum or max of each example's rows: one row for it.")
    ] = None,
    model_dtype: Annotated[str | None, typer.Option(help="dtype to run the model in.")] = None,
    dtype: Annotated[str | None, typer.Option(help="dtype to store; default: as it comes.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
    gguf_file: Gguf = None,
    text_column: Annotated[str, typer.Option(help="What a .jsonl calls the text.")] = "text",
    run: Annotated[str, typer.Option(help="Name of the run.")] = "main",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say rows, bytes and time, and write nothing.")
    ] = False,
    check_disk: Annotated[
        bool, typer.Option("--check-disk/--no-check-disk", help="Refuse what does not fit.")
    ] = True,
    progress: Annotated[
        bool, typer.Option("--progress/--no-progress", help="Show a bar on a terminal.")
    ] = True,
    overwrite: Annotated[bool, typer.Option(help="Replace a dataset that is there.")] = False,
) -> None:
    """Run a model over a corpus and store its activations. Run again, it resumes."""
    from lazycache.views.corpus import read_corpus
    from lazycache.views.pretrained import load_model, load_tokenizer

    check_capture(url=url, add_to=add_to, sites=site)
    pooled = pool_of(pool)
    at_least_one("--batch-size", batch_size)
    at_least_one("--batch-tokens", batch_tokens)
    at_least_one("--max-length", max_length)
    chosen = None if positions is None else positions_of(positions)
    check_dtype_option("--model-dtype", model_dtype)
    check_dtype_option("--dtype", dtype)
    check_device(device)
    data = read_corpus(corpus, text_column=text_column)
    tokenizer = load_tokenizer(model, gguf_file=gguf_file)
    network = load_model(model, gguf_file=gguf_file, dtype=model_dtype, device=device)
    check_length(max_length, network, tokenizer)
    options: ExtractOptions = {
        "tokenizer": tokenizer,
        "batch_size": batch_size,
        "batch_tokens": batch_tokens,
        "max_length": max_length,
        "dtype": dtype,
        "pool": pooled,
        "run": run,
        "check_disk": check_disk,
        "progress": progress,
        "overwrite": overwrite,
        "add_to": add_to,
    }
    if chosen is not None:
        options["positions"] = chosen
    if dry_run:
        found = lazycache.extract(network, data, url, site or (), dry_run=True, **options)
        console.print(str(found), markup=False, soft_wrap=True)
        return
    console.print(_summary(lazycache.extract(network, data, url, site or (), **options)))


@app.command()
def sites(model: Model, gguf_file: Gguf = None) -> None:
    """List what can be captured from a model: names, modules, shapes, bytes per token and layer."""
    from lazycache.views.pretrained import load_model

    network = load_model(model, gguf_file=gguf_file, dtype=None, device="meta", weights=False)
    print_sites(lazycache.sites(network))


@app.command()
def ls(url: Url) -> None:
    """List the sites of a dataset."""
    console.print(sites_table(lazycache.open(url)))


@app.command()
def info(url: Url) -> None:
    """Say what a dataset is: rows, bytes, commits, and where it came from."""
    cache = lazycache.open(url)
    console.print(_summary(cache))
    for run in cache.snapshot.runs.values():
        console.print(f"\n[bold]run {escape(run.name)}[/]")
        for key, value in run.info.items():
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            console.print(harmless(f"  {key}: {text}"), markup=False, soft_wrap=True)


@app.command()
def head(
    url: Url,
    site: Annotated[str, typer.Argument(help="A site of the dataset.")],
    rows: Annotated[int, typer.Option("--rows", "-n", help="How many.")] = 5,
    form: Form = "table",
) -> None:
    """Print the first rows of a site: whose they are, and their values."""
    at_least_one("-n", rows)
    cache = lazycache.open(url)
    spec = cache.sites.get(cache[site].site)
    if spec is None or site not in cache.sites or spec.layout == RAGGED:
        raise QueryError(
            f"{site!r} is a part of a site, or its rows differ in width: they make no table. In "
            f"Python: lc.open({url!r})[{site!r}][0].load() is the first example."
        )
    home = spec.table
    shown = "row, example" if home == "examples" else "row, example, position, token"
    known = cache.snapshot.columns(home)
    wanted = [c for c in shown.split(", ") if c == "row" or c in known]
    quoted = '"' + site.replace('"', '""') + '"'
    result = cache.sql(
        f"SELECT {', '.join(wanted)}, {quoted} FROM {home} "  # noqa: S608  # quoted above
        f"WHERE {quoted} IS NOT NULL ORDER BY row LIMIT $n",
        {"n": rows},
    )
    print_answer(result, form=form, most=rows)


for command in (*COMMANDS, *CARE_COMMANDS, *VERIFY_COMMANDS, *SHARING_COMMANDS):
    app.command()(command)


def _summary(cache: ActivationCache) -> str:
    """One paragraph about a dataset."""
    snapshot = cache.snapshot
    size = stored_bytes(cache)
    return (
        f"[bold]{escape(cache.url)}[/]: {counted(snapshot.rows('tokens'), 'token')} of "
        f"{counted(snapshot.rows('examples'), 'example')} × {counted(len(cache), 'site')} = "
        f"{bytes_text(size)} in {counted(snapshot.version, 'commit')} "
        f"(version {snapshot.version}, {escape(snapshot.identity.uuid)})"
    )


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,  # noqa: ARG001  # of the library: python calls it with these
    lineno: int,  # noqa: ARG001
    file: TextIO | None = None,  # noqa: ARG001
    line: str | None = None,  # noqa: ARG001
) -> None:
    """Show a warning in a line, without the source line that python adds."""
    errors.print(f"[bold yellow]{category.__name__}[/]: ", end="")
    errors.print(harmless(str(message)), markup=False, soft_wrap=True)


def main() -> None:
    """Run the command; an error of ours is one clear line, not a traceback."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            app()
    except LazycacheError as exc:
        errors.print(f"[bold red]{type(exc).__name__}[/]: ", end="")
        # what it says may be of the dataset: tokens, names
        lines = map(harmless, str(exc).split("\n"))
        errors.print("\n".join(lines), markup=False, soft_wrap=True)
        sys.exit(1)
