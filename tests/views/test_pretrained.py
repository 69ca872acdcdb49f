"""Models by folder or name: what is missing is said at once, and the hub is asked last."""

import logging

import pytest
import torch
from views_helpers import minilm_folder

from lazycache.errors import CaptureError
from lazycache.views.pretrained import load_model, load_tokenizer


@pytest.fixture
def no_transformers(monkeypatch):
    """Nothing may be loaded."""
    monkeypatch.setattr(
        "lazycache.views.pretrained._transformers", lambda: pytest.fail("it was asked to load")
    )


@pytest.mark.parametrize(
    "name", ["./gone", "../gone", "~/gone-x", "/gone/x", "a/b/c", "here/x", "gone/"]
)
def test_a_folder_that_is_missing_is_said_at_once(name, tmp_path, monkeypatch, no_transformers):
    """What can only be a path is not looked for on the hub."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    with pytest.raises(CaptureError, match=f"There is no folder '{name}'"):
        load_model(name, gguf_file=None, dtype=None, device="cpu")


@pytest.mark.parametrize("name", ["no-such-model", "owner/no-such-model", "bad name!"])
def test_offline_an_unknown_name_makes_no_noise(name, caplog, capfd):
    """Offline, one message says that the model is not here; nothing is tried, nothing printed."""
    with caplog.at_level(logging.WARNING), pytest.raises(CaptureError, match="HF_HUB_OFFLINE"):
        load_tokenizer(name, gguf_file=None)
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


class Loader:
    """A loader that knows what is on this machine and what the hub has."""

    def __init__(self, local=(), hub=()):
        self.local, self.hub, self.asked = local, hub, []

    def from_pretrained(self, name, *, local_files_only=False, **_):
        self.asked.append("local" if local_files_only else "hub")
        if name in self.local or (name in self.hub and not local_files_only):
            return name
        raise OSError(f"no {name}\nand a page of text")


@pytest.mark.parametrize(
    ("loader", "asked"),
    [(Loader(local=["m"]), ["local"]), (Loader(hub=["m"]), ["local", "hub"])],
)
def test_the_hub_is_asked_last(loader, asked, monkeypatch):
    """A model that is on this machine is loaded without a question to the hub."""
    monkeypatch.delenv("HF_HUB_OFFLINE")
    _patch(monkeypatch, loader)
    assert load_tokenizer("m", gguf_file=None) == "m"
    assert loader.asked == asked


def test_what_nobody_has_is_one_line(monkeypatch):
    """The message of transformers is kept, on one line."""
    monkeypatch.delenv("HF_HUB_OFFLINE")
    _patch(monkeypatch, Loader())
    with pytest.raises(CaptureError, match="Cannot load the model 'm': no m and a page of text"):
        load_tokenizer("m", gguf_file=None)


def _patch(monkeypatch, loader):
    class Transformers:
        AutoTokenizer = loader

    monkeypatch.setattr("lazycache.views.pretrained._transformers", lambda: Transformers)


def test_a_wrong_gguf_file_names_those_that_there_are(tmp_path, no_transformers):
    """A file that the folder lacks is answered with its GGUF files, or with what else it has."""
    (tmp_path / "config.txt").touch()
    with pytest.raises(CaptureError, match=r"no GGUF file at all. There are: config.txt"):
        load_tokenizer(str(tmp_path), gguf_file="x.gguf")
    (tmp_path / "model.Q4.gguf").touch()
    with pytest.raises(CaptureError, match=r"no file 'x.gguf'. Nearest: model.Q4.gguf"):
        load_tokenizer(str(tmp_path), gguf_file="x.gguf")
    with pytest.raises(CaptureError, match=r"no config.json. There are: model.Q4.gguf"):
        load_tokenizer(str(tmp_path), gguf_file=None)


def test_a_file_is_no_folder(tmp_path, no_transformers):
    """A path to a file is answered with how to give it."""
    (tmp_path / "m.gguf").touch()
    with pytest.raises(CaptureError, match=r"is a file\. Give the folder"):
        load_tokenizer(str(tmp_path / "m.gguf"), gguf_file=None)


def test_a_folder_is_loaded_in_the_dtype_that_is_asked_for():
    """Weights come in the dtype that is named, or in their own."""
    folder = str(minilm_folder())
    model = load_model(folder, gguf_file=None, dtype="bfloat16", device="cpu")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    with pytest.raises(CaptureError, match="No dtype 'foo'"):
        load_model(folder, gguf_file=None, dtype="foo", device="cpu")
