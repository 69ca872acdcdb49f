"""A card says what a dataset is, and what it says of reading is true."""

import re

import duckdb
import numpy as np
import pytest
import torch
from dataset_helpers import gpt2
from sharing_helpers import SITES, corpus
from typer.testing import CliRunner

import lazycache as lc
from lazycache.care.card import card
from lazycache.errors import DatasetExistsError
from lazycache.views.cli import app


def _blocks(text, language):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def _extract(url, dtype="float32"):
    lc.extract(gpt2(), corpus(12), url, SITES, dtype=dtype, progress=False)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_what_a_card_says_of_reading_works(tmp_path, monkeypatch, dtype):
    """Its SQL in DuckDB, its Python with Polars and pandas: the values that lazycache reads."""
    _extract(tmp_path / "acts", dtype)
    text = card(tmp_path / "acts", write=True)
    assert (tmp_path / "acts" / "README.md").read_text() == text
    monkeypatch.chdir(tmp_path / "acts")
    cache = lc.open(".")
    values = cache["resid_out_0"].rows.load()
    (query,) = _blocks(text, "sql")
    found = duckdb.connect().execute(query).fetchall()
    mine = "SELECT example, position, token_id, unit(resid_out_0, 0) FROM tokens ORDER BY 4 DESC"
    assert found == cache.sql(f"{mine} LIMIT 5").fetchall()
    every = query.replace("(value, 0) AS unit_0", "(value, 15)").split("ORDER BY")[0]
    last = duckdb.connect().execute(f"{every} ORDER BY example, position").fetchall()
    mine = "SELECT unit(resid_out_0, 15) FROM tokens ORDER BY example, position"
    assert [row[-1:] for row in last] == cache.sql(mine).fetchall()
    first, decode, *readers = _blocks(text, "python")
    assert "resid_out_0" in first
    assert len(readers) == 2
    for reader in readers:
        scope = {}
        exec(compile(decode + reader, "card", "exec"), scope)
        assert scope["values"].shape == tuple(values.shape)
        assert np.array_equal(scope["values"].astype("f4"), values.float().numpy())


def test_the_macros_of_a_card_decode_every_kind_of_number(tmp_path):
    """Infinities, NaN, zeros of both signs, the least and greatest numbers of each dtype."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        info = torch.finfo(dtype)
        some = [1.5, -2.25, float("inf"), -float("inf"), 0.0, -0.0, info.max, info.tiny, -info.min]
        numbers = torch.tensor([*some, info.smallest_normal / 4, float("nan")]).to(dtype)
        name = str(dtype).removeprefix("torch.")
        _extract(tmp_path / name, name)
        (query,) = _blocks(card(tmp_path / name), "sql")
        connection = duckdb.connect()
        connection.execute(query.split("SELECT")[0])
        macro = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}[name]
        raw = numbers.view(torch.uint8).numpy().tobytes()
        asked = ", ".join(f"{macro}($1, {i})" for i in range(len(numbers)))
        found = torch.tensor(connection.execute(f"SELECT {asked}", [raw]).fetchone())
        bits = [x.float().view(torch.int32)[:-1] for x in (found, numbers)]
        assert torch.equal(*bits)
        assert found[-1].isnan()


def test_a_card_lists_what_there_is_and_renders_nothing_foreign(tmp_path):
    """Sites, shapes, rows, columns, values, runs; names and notes of others are code, in a line."""
    url = tmp_path / "acts"
    model = gpt2()
    lc.extract(model, corpus(12), url, SITES, progress=False, run="<b>`x`|run</b>")
    cache = lc.open(url)
    cache["note"] = "x"
    cache.persist()
    text = card(url)
    assert "| `resid_out_0` | row of `tokens` | 16 | float32 | 43 | 2.75 kB |" in text
    assert "| `pattern_0` | row of `tokens` | 2 × width | float32 |" in text
    assert "| `head_out_1` | row of `tokens` | 2 × 16 | float32 |  | computed when read |" in text
    assert "# 43 tokens of 12 examples, 5 sites" in text
    assert "`label string`" in text
    assert "## Values beside the sites\n\n`note`" in text
    assert "### Run `<b>'x'\\|run</b>`" in text
    assert "- model: `transformers.models.gpt2.modeling_gpt2.GPT2LMHeadModel`" in text
    assert card(url) == text


def test_a_card_is_no_foreign_file_and_replaces_none(tmp_path):
    """A dataset with a card is captured to, replaced and removed; a README of others is left."""
    url = tmp_path / "acts"
    _extract(url)
    card(url, write=True)
    _extract(url)  # goes on with it
    lc.extract(gpt2(), corpus(3), url, SITES, overwrite=True, progress=False)
    assert not (url / "README.md").exists()
    card(url, write=True)
    lc.ActivationCache({"x": torch.ones(2)}).save(url, overwrite=True)
    assert not (url / "README.md").exists()
    (url / "README.md").write_text("mine")
    with pytest.raises(DatasetExistsError, match="did not write"):
        card(url, write=True)
    assert (url / "README.md").read_text() == "mine"


def test_the_commands_do_what_the_functions_do(tmp_path):
    """`lazycache copy`, `export` and `card`, with what they print."""
    _extract(tmp_path / "acts")

    def run(*arguments):
        done = CliRunner().invoke(app, [str(one) for one in arguments])
        assert done.exit_code == 0, done.output
        return done.output

    url = tmp_path / "acts"
    out = run("copy", url, tmp_path / "part", "-s", "resid_*", "--where", "position = 0")
    assert f"{tmp_path}/part: version 1, 4 files" in out
    assert list(lc.open(tmp_path / "part")) == ["resid_out_0", "resid_out_1"]
    out = run("export", url, tmp_path / "plain", "--format", "npy", "-s", "resid_out_0")
    assert "npy, sites: 1, 12 examples, 43 tokens" in out
    assert (tmp_path / "plain" / "resid_out_0.npy").exists()
    assert run("card", url, "--write") == card(url) == (url / "README.md").read_text()
