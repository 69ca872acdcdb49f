"""Text of a dataset on a screen: nothing that a terminal obeys, and no markup."""

import io
import json
import re
import warnings

import numpy as np
import pyarrow as pa
import pytest
import torch
from hostile_datasets import change, op_of
from typer.testing import CliRunner
from writer_helpers import new_store, new_writer

import lazycache as lc
from lazycache.care.card import card
from lazycache.errors import LazycacheError, QueryError
from lazycache.types import RowBatch, SiteBlock, TableBlock
from lazycache.views.cli import app
from lazycache.views.forms import TableAnswer, csv_to

EVIL = "\x1b[2J\u202e<script>\x07\x9b31m\n`|*"
SITE = "<script>alert(1)</script>"
ORDERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
ROWS = 6


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """Tokens, columns, keys and provenance that are orders to a terminal; a site that is markup."""
    url = tmp_path_factory.mktemp("shown") / "acts"
    writer = new_writer(new_store(url))
    positions = np.arange(ROWS, dtype=np.int32)
    texts = {"token": [f"{EVIL}{i}" for i in range(ROWS)], "label": [EVIL] * ROWS}
    tables = {
        "tokens": TableBlock(ROWS, {"example": positions * 0, "position": positions, **texts}),
        "examples": TableBlock(1, {"example": np.array([0]), "length": np.array([ROWS])}),
    }
    values = SiteBlock("tokens", torch.arange(ROWS * 4.0).reshape(ROWS, 4))
    writer.write(RowBatch(tables, {"a": values, SITE: values}))
    writer.close()
    with lc.open(url) as cache:
        cache["note"] = {EVIL: EVIL}
        cache.persist()
    info = {"model": {"name_or_path": EVIL, "half": "\ud800"}, EVIL: EVIL}
    change(url, 1, lambda entry: op_of(entry, "run").update(info=info))
    return url


def test_what_python_shows_holds_no_orders(url):
    """Reprs, errors of SQL with a text in them, the card and the report spell characters out."""
    with lc.open(url) as cache:
        hits = cache.top_k(SITE, 0, k=3)
        x = cache["a"]
        shown = [cache, x, hits, hits[0], cache["note"], x.group_by("label").mean()]
        shown += [cache.sql("SELECT token, label FROM tokens"), cache.snapshot.runs]
        texts = [repr(one) for one in shown]
        with pytest.raises(QueryError, match="Could not convert") as refused:
            cache.sql("SELECT CAST(token AS INT) FROM tokens").fetchall()
        with pytest.raises(LazycacheError) as unknown:
            _ = cache[f"nosuch{EVIL}"]
        assert "<script>" not in hits._repr_html_()
    texts += [str(refused.value), str(unknown.value), card(url, write=True), str(lc.verify(url))]
    assert [text for text in texts if ORDERS.search(text)] == []


COMMANDS = {
    "info": ["info"],
    "ls": ["ls"],
    "head": ["head", "{url}", "a"],
    "sql": ["sql", "{url}", "SELECT token, label FROM tokens"],
    "json": ["sql", "{url}", "SELECT token, label FROM tokens", "--format", "json"],
    "error": ["sql", "{url}", "SELECT CAST(label AS INT) FROM tokens"],
    "card": ["card"],
    "verify": ["verify"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_what_a_command_prints_holds_no_orders(url, name):
    """No escape sequence, no change of direction; JSON still says the same."""
    command, *arguments = COMMANDS[name]
    given = [one.format(url=url) for one in arguments] or [str(url)]
    done = CliRunner().invoke(app, [command, *given])
    said = done.output + ("" if done.exception is None else str(done.exception))
    assert said
    assert ORDERS.search(said.replace("\n", "")) is None
    if name == "json":
        rows = [json.loads(line) for line in done.output.splitlines()]
        assert rows == [{"token": f"{EVIL}{i}", "label": EVIL} for i in range(ROWS)]


@pytest.mark.parametrize("is_terminal", [True, False])
def test_csv_is_harmless_on_a_terminal_and_exact_in_a_pipe(is_terminal):
    """What goes on to another program is not changed."""
    stream = io.StringIO()
    csv_to(TableAnswer(pa.table({"token": [EVIL]})), stream, is_shown=is_terminal)
    assert (EVIL in stream.getvalue()) == (not is_terminal)
    assert bool(ORDERS.search(stream.getvalue().replace("\r\n", ""))) == (not is_terminal)


NONSENSE = [True, [{}], {"config": [1], "tokenizer": 2, "versions": "x", "items": []}]
KEYS = ["model", "sites", "batches", "corpus", "subset", "transform", "first_example", "adds_to"]


def test_provenance_of_any_shape_ends_nothing(tmp_path):
    """What a run says in a form that nobody expects counts as not said, or is an error of ours."""
    torch.manual_seed(0)
    model, url = (
        torch.nn.Sequential(torch.nn.Embedding(9, 4), torch.nn.Linear(4, 3)),
        tmp_path / "x",
    )
    corpus = [[1, 2, 3], [4, 5, 6]]
    lc.extract(model, corpus, url, ["1"], batch_size=2, progress=False)
    record = url / "_log" / f"{1:020d}.json"
    whole, refused = record.read_bytes(), 0
    for key in KEYS:
        for nonsense in NONSENSE:
            change(url, 1, lambda e, k=key, n=nonsense: op_of(e, "run")["info"].update({k: n}))
            for ask in (
                lambda: lc.verify(url, against_model=model, k=1),
                lambda: card(url),
                lambda: lc.extract(model, corpus, url, ["1"], batch_size=2, progress=False),
                lambda: lc.extract(model, None, None, ["0"], add_to=url, dry_run=True),
            ):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    try:
                        ask()
                    except LazycacheError:
                        refused += 1
            for later in (url / "_log").glob("*"):
                if later != record:
                    later.unlink()
            record.write_bytes(whole)
    assert refused > len(KEYS)
