"""The scripts in `examples/` run as they stand."""

import copy
import functools
import importlib
import os
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
import pytest
import torch
from nbclient import NotebookClient

import lazycache as lc

EXAMPLES = Path(__file__).parent.parent / "examples"

OTHERWISE = (
    "probe",
    "s3_server",
    "sae_features",
    "sae_model",
    "share_over_s3",
    "torchrun_capture",
    "train_sae",
)
"""What is not run with a folder as its argument."""

_DEMO_MODEL = functools.cache(lc.demo_model)

SCRIPTS = sorted(path.stem for path in EXAMPLES.glob("*.py") if path.stem not in OTHERWISE)


@pytest.fixture
def one_model(monkeypatch):
    """The small model is loaded once for the examples that run in this process."""
    monkeypatch.setattr(lc, "demo_model", _DEMO_MODEL)
    monkeypatch.syspath_prepend(EXAMPLES)


@pytest.mark.slow
@pytest.mark.usefixtures("one_model")
@pytest.mark.parametrize("script", SCRIPTS)
def test_an_example_runs_and_leaves_a_dataset(script, tmp_path, monkeypatch, capsys):
    """Each example ends without an error or a warning and leaves datasets in the folder given."""
    monkeypatch.setattr(sys, "argv", [f"{script}.py", str(tmp_path / "acts")])
    runpy.run_path(str(EXAMPLES / f"{script}.py"), run_name="__main__")
    said = capsys.readouterr()
    assert said.err == ""
    assert list((tmp_path / "acts").rglob("lazycache.json"))
    assert "LazyTensor(" in said.out or "RaggedTensor(" in said.out


@pytest.mark.slow
def test_an_example_runs_in_a_process_of_its_own(tmp_path):
    """As a reader starts it: with a folder, from any directory, quietly."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / "any_network.py", tmp_path / "acts"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "LazyTensor(" in done.stdout


def test_examples_are_short_and_in_the_table():
    """Each example has less than 80 lines, and the folder's page says what it shows."""
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for path in sorted(EXAMPLES.glob("*.py")):
        assert len(path.read_text(encoding="utf-8").splitlines()) < 80, path.name
    names = {path.name for path in EXAMPLES.iterdir() if path.suffix in {".py", ".ipynb"}}
    assert set(re.findall(r"^\| \[`?([a-z0-9_.]+)`?\]", page, re.MULTILINE)) == names


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom_and_shows_what_it_stored(tmp_path):
    """Who runs all cells meets no error, and every cell that shows something still does."""
    stored = nbformat.read(EXAMPLES / "first_look.ipynb", as_version=4)
    fresh = nbformat.from_dict(copy.deepcopy(stored))
    for cell in fresh.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        NotebookClient(fresh, timeout=120, resources={"metadata": {"path": home}}).execute()
    assert [_kinds(cell) for cell in fresh.cells] == [_kinds(cell) for cell in stored.cells]
    assert any("image/png" in kinds for cell in stored.cells for kinds in _kinds(cell))


def _kinds(cell):
    """Return what each output of a cell can be shown as; what a stream prints is no output."""
    shown = [output for output in cell.get("outputs", []) if output.output_type != "stream"]
    return [sorted(output.get("data", {output.output_type: None})) for output in shown]


@pytest.mark.slow
def test_a_dataset_is_shared_over_s3(s3):
    """One process captures into a bucket of a real server, another reads one slice: one request."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / "share_over_s3.py", s3.url()],
        env=os.environ | s3.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    (asked,) = re.findall(r"that took 1 requests for ([0-9,]+) bytes", done.stdout)
    needed, block = 10 * 9 * 384 * 4, 4096  # the cache of what was read keeps whole blocks
    assert needed <= int(asked.replace(",", "")) < needed + 2 * block


@pytest.mark.slow
@pytest.mark.usefixtures("one_model")
def test_a_probe_learns_from_batches_what_the_library_solves(tmp_path, monkeypatch, capsys):
    """Words of code and of prose are told apart in a module that was never seen, by context."""
    probe = importlib.import_module("probe")
    monkeypatch.setattr(probe, "HELD_OUT", "heapq")
    monkeypatch.setattr(probe, "SITES", ["resid_out_3"])
    right = probe.main(str(tmp_path), ("textwrap",), epochs=3)
    assert list(right) == ["resid_out_3"]
    assert right["resid_out_3"] > 0.75
    assert "LazyTensor(" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("one_model")
def test_an_autoencoder_is_trained_in_two_parts_and_its_features_are_asked(tmp_path, monkeypatch):
    """Stopped after a checkpoint it ends bit-equal; its features are a site, found by SQL."""
    example = importlib.import_module("train_sae")
    folders = [str(tmp_path / name) for name in ("whole", "parts")]
    small = {"pages": 2, "features": 48, "epochs": 4, "every": 2}
    example.capture(folders[0], small["pages"]).close()
    shutil.copytree(*folders)
    losses = example.main(folders[0], **small)
    assert len(losses) > 7
    assert losses[-1] < 0.9 * losses[0]
    with monkeypatch.context() as patch:
        steps = iter(range(5))
        step = torch.optim.Adam.step
        # the sixth step finds no number left
        patch.setattr(torch.optim.Adam, "step", lambda adam: (next(steps), step(adam)))
        with pytest.raises(StopIteration):
            example.main(folders[1], **small)
    assert example.main(folders[1], str(tmp_path / "loss.png"), **small) == losses
    assert (tmp_path / "loss.png").stat().st_size > 10_000
    whole, parts = (lc.open(folder)["sae"] for folder in folders)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)

    cache = importlib.import_module("sae_features").main(folders[0], rare=1.0)
    encode = importlib.import_module("sae_model").encoder(cache)
    features = encode(cache["resid_out_3"].rows.load())
    assert cache.sites["features"].table == "tokens"
    assert torch.equal(cache["features"].rows.load(), features)
    assert int((features > 0).sum(1).max()) <= 24
    asked = cache.sql("SELECT unit(features, 7) FROM tokens ORDER BY row").fetchall()
    assert [value for (value,) in asked] == features[:, 7].tolist()


def test_every_benchmark_can_be_loaded():
    """No benchmark names what the package no longer has; peers are asked for when they run."""
    root = Path(__file__).parent.parent
    names = [f"benchmarks.{path.stem}" for path in sorted((root / "benchmarks").glob("*.py"))]
    code = f"import importlib\nfor name in {names}: importlib.import_module(name)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False
    )
    assert len(names) > 6
    assert (done.returncode, done.stderr) == (0, "")
