"""The commands that run a model: demo, sites and capture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import lazycache
from lazycache.views.arguments import (
    at_least_one,
    check_capture,
    check_device,
    check_dtype_option,
    check_length,
    pool_of,
    positions_of,
)
from lazycache.views.commands import Command, Example
from lazycache.views.options import Gguf, Json, JsonLines, Model, Progress

if TYPE_CHECKING:
    from lazycache.options import ExtractOptions


def demo(
    url: Annotated[str, typer.Argument(help="Where to store it.")] = "lazycache-demo",
) -> None:
    """Capture a real model over real text, then tour the result."""
    from lazycache.views.demo import run_demo

    run_demo(url)


def sites(model: Model, gguf_file: Gguf = None, json: JsonLines = False) -> None:
    """List what can be captured from a model.

    Names, modules, shapes, and the bytes per token of each site and layer; no weights are read.
    """
    from lazycache.views.model_sites import print_sites
    from lazycache.views.pretrained import load_model

    network = load_model(model, gguf_file=gguf_file, dtype=None, device="meta", weights=False)
    print_sites(lazycache.sites(network), json=json)


def capture(
    model: Model,
    corpus: Annotated[
        Path, typer.Argument(help="Text file (a paragraph an example) or .jsonl with text.")
    ],
    url: Annotated[
        str | None, typer.Argument(help="Folder or URL to write the dataset to.")
    ] = None,
    site: Annotated[
        list[str] | None,
        typer.Option("--site", "-s", help="Site name or pattern; repeatable: 'resid_out_*'."),
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
    progress: Progress = True,
    overwrite: Annotated[bool, typer.Option(help="Replace a dataset that is there.")] = False,
    json: Json = False,
) -> None:
    """Run a model over a corpus and store its activations.

    Run again, it goes on where it stopped; what is stored is not captured again.
    """
    from lazycache.views.corpus import read_corpus
    from lazycache.views.datasets import print_estimate, print_summary
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
        print_estimate(found, json=json)
        return
    print_summary(lazycache.extract(network, data, url, site or (), **options), json=json)


COMMANDS = (
    Command(
        demo,
        "Capture",
        (
            Example("Half a minute, no account, no download", "lazycache demo"),
            Example("Into a folder of another name", "lazycache demo acts"),
        ),
    ),
    Command(
        sites,
        "Capture",
        (
            Example("What a model has", "lazycache sites ./model"),
            Example("The same for a script, an object a line", "lazycache sites ./model --json"),
        ),
    ),
    Command(
        capture,
        "Capture",
        (
            Example(
                "What it would take: rows, bytes, time",
                "lazycache capture ./model corpus.txt acts -s 'resid_out_*' --dry-run",
            ),
            Example(
                "Store it; the same line again goes on where it stopped",
                "lazycache capture ./model corpus.txt acts -s 'resid_out_*'",
            ),
            Example(
                "One vector for each example",
                "lazycache capture ./model corpus.txt means -s resid_out_5 --pool mean",
            ),
            Example(
                "A site that turned out to be needed later",
                "lazycache capture ./model corpus.txt --add-to acts -s z_3",
            ),
        ),
    ),
)
"""What the command line takes from here."""
