"""A run is continued only as it was begun, whatever interrupts it, and ends as if nothing had."""

import copy
import re

import numpy as np
import pytest
import torch
from dataset_helpers import content, files, gpt2, hooks, ragged_corpus
from tokenizers import Tokenizer, normalizers
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

import lazycache as lc

DATA = ragged_corpus(60)
WORDS = ["[UNK]", "a", "b", "c", "d", "e"]


@pytest.fixture(scope="module")
def model():
    """A small GPT-2 with random weights."""
    return gpt2()


def tokenizer(words=WORDS, *, lower=False):
    """A tokenizer of single letters."""
    plain = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    plain.pre_tokenizer = Whitespace()
    if lower:
        plain.normalizer = normalizers.Lowercase()
    return PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="[UNK]")


class StopError(Exception):
    """What interrupts a run."""


def interrupted(model, url, sites, *, after, data=DATA, error=StopError, **options):
    """Extract until the model was called so often; take the hook away again."""
    calls = []

    def stop(*_):
        calls.append(1)
        if len(calls) > after:
            raise error

    hook = model.register_forward_pre_hook(stop)
    try:
        with pytest.raises(error):
            lc.extract(model, data, url, sites, batch_size=4, **options)
    finally:
        hook.remove()


@pytest.mark.parametrize("error", [StopError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("after", [0, 1, 7])
def test_an_interrupted_extract_ends_as_an_uninterrupted_one(model, tmp_path, error, after):
    """Content and order of every table and site are the same, and the hooks are gone."""
    before = hooks(model)
    sites = ["resid_out_*", "logits"]
    interrupted(model, tmp_path / "a", sites, after=after, error=error)
    assert hooks(model) == before
    resumed = lc.extract(model, DATA, tmp_path / "a", sites, batch_size=4)
    whole = lc.extract(model, DATA, tmp_path / "b", sites, batch_size=4)
    assert content(resumed) == content(whole)
    assert torch.equal(resumed["logits"].rows.load(), whole["logits"].rows.load())


@pytest.mark.parametrize("pool", ["mean", "sum", "max"])
def test_an_interrupted_reduced_extract_ends_as_an_uninterrupted_one(model, tmp_path, pool):
    """The same holds where examples are filtered and their rows pooled."""
    options = {"pool": pool, "where": odd, "units": {"logits": [3, 1]}}
    interrupted(model, tmp_path / "a", "logits", after=6, **options)
    resumed = lc.extract(model, DATA, tmp_path / "a", "logits", batch_size=4, **options)
    whole = lc.extract(model, DATA, tmp_path / "b", "logits", batch_size=4, **options)
    assert content(resumed) == content(whole)
    assert resumed["logits"].shape == (30, 2)


def odd(batch):
    """Keep every other example."""
    return [example % 2 == 1 for example in batch["example"]]


def even(batch):
    """Keep the others."""
    return [example % 2 == 0 for example in batch["example"]]


def double(rows):
    """Twice as much."""
    return rows * 2


@pytest.mark.parametrize(
    ("first", "then", "message"),
    [
        ({}, {"pool": "mean"}, "pool was None, is mean"),
        ({"pool": "mean"}, {"pool": "max"}, "pool was mean, is max"),
        ({"where": odd}, {"where": even}, r"where was .*\.odd, is .*\.even"),
        ({}, {"transform": {"z_0": double}}, r"transform was \{\}, is \{'z_0': .*double"),
        ({}, {"heads": {"z_0": [1]}}, r"subset was \{\}, is \{'z_0': .*'heads'"),
        ({"units": {"z_0": [0]}}, {"units": {"z_0": [1]}}, r"subset was .*\[0\].*is .*\[1\]"),
        ({"positions": [0]}, {"positions": [0, 1]}, r"positions was \[0\], is \[0, 1\]"),
        ({"positions": "last"}, {"positions": odd}, "positions was last, is callable"),
        ({}, {"dtype": "float16"}, "dtype was None, is float16"),
        ({"max_length": 5}, {"max_length": 4}, "max_length was 5, is 4"),
    ],
)
def test_a_run_is_not_continued_with_another_selection(model, tmp_path, first, then, message):
    """Each part of the selection is named with what it was and what it is."""
    lc.extract(model, DATA[:9], tmp_path, "z_0", **first)
    before = files(tmp_path)
    with pytest.raises(lc.CaptureError, match=message):
        lc.extract(model, DATA, tmp_path, "z_0", **{**first, **then})
    assert files(tmp_path) == before


def test_another_tokenizer_is_named_by_what_differs(model, tmp_path):
    """Another vocabulary or other rules are another tokenizer; another call of it is not."""
    texts = ["a b c", "b", "d a"]
    lc.extract(model, texts, tmp_path, "embed", tokenizer=tokenizer())
    again = tokenizer()
    again(["a b c", "d"], padding=False, truncation=True, max_length=2)
    cache = lc.extract(model, texts, tmp_path, "embed", tokenizer=again)
    assert cache.snapshot.version == 1
    swapped = ["[UNK]", "b", "a", "c", "d", "e"]
    with pytest.raises(lc.CaptureError, match="the tokenizer's vocabulary was"):
        lc.extract(model, texts, tmp_path, "embed", tokenizer=tokenizer(swapped))
    with pytest.raises(lc.CaptureError, match="the tokenizer's rules was"):
        lc.extract(model, texts, tmp_path, "embed", tokenizer=tokenizer(lower=True))
    with pytest.raises(lc.CaptureError, match="the tokenizer's class was"):
        lc.extract(model, DATA, tmp_path, "embed")


def test_a_corpus_that_changed_behind_what_is_captured_is_refused(model, tmp_path):
    """Items that nobody has run yet belong to the corpus too."""
    interrupted(model, tmp_path, "embed", after=5)
    before = files(tmp_path)
    changed = copy.deepcopy(DATA)
    changed[59] = [7, 7]
    with pytest.raises(lc.CaptureError, match=r"another corpus: 60 items .* not captured yet"):
        lc.extract(model, changed, tmp_path, "embed", batch_size=4)
    with pytest.raises(lc.CaptureError, match="where this one has 59"):
        lc.extract(model, DATA[:59], tmp_path, "embed", batch_size=4)
    longest = next(i for i, ids in enumerate(DATA) if len(ids) == 7)
    changed = copy.deepcopy(DATA)
    changed[longest][0] += 1
    with pytest.raises(lc.CaptureError, match=f"Example {longest} of this corpus is not the one"):
        lc.extract(model, changed, tmp_path, "embed", batch_size=4)
    assert files(tmp_path) == before
    longer = lc.extract(model, [*DATA, [1, 2]], tmp_path, "embed", batch_size=4)
    assert longer.snapshot.rows("examples") == 61


def test_the_same_corpus_may_come_in_another_form(model, tmp_path):
    """Lists, arrays, tensors and dicts with other columns are one corpus."""
    interrupted(model, tmp_path, "embed", after=5)
    forms = [
        lambda ids: {"input_ids": ids, "label": 1},
        lambda ids: np.array(ids, dtype=np.int32),
        torch.tensor,
        tuple,
    ]
    data = [forms[i % 4](ids) for i, ids in enumerate(DATA)]
    cache = lc.extract(model, data, tmp_path, "embed", batch_size=4)
    assert cache.snapshot.rows("examples") == 60


def test_a_stream_is_continued_by_its_committed_examples(model, tmp_path):
    """What can be read once has no fingerprint; its committed examples are compared."""

    def stream(change=None):
        for i, ids in enumerate(DATA):
            yield [9, 9] if i == change else ids

    interrupted(model, tmp_path, "embed", after=5, data=stream())
    done = lc.open(tmp_path).sql("SELECT example FROM examples").fetchall()
    with pytest.raises(lc.CaptureError, match=f"Example {done[0][0]} "):
        lc.extract(model, stream(change=done[0][0]), tmp_path, "embed", batch_size=4)
    cache = lc.extract(model, stream(), tmp_path, "embed", batch_size=4)
    assert cache.snapshot.rows("examples") == 60


def test_the_provenance_says_what_was_captured_from_what(model, tmp_path):
    """Model, weights, tokenizer, versions, sites, selection and corpus are in the commit."""
    texts = ["a b c", "b"]
    cache = lc.extract(
        model,
        texts,
        tmp_path,
        ["z_0", "logits"],
        tokenizer=tokenizer(),
        positions="first",
        where=odd,
        units={"logits": [3]},
        heads={"z_0": [1]},
        transform={"logits": double},
        batch_size=3,
    )
    (run,) = cache.snapshot.commits[0].runs
    info = run.info
    assert info["model"]["class"].endswith("GPT2LMHeadModel")
    assert re.fullmatch("[0-9a-f]{8}", info["model"]["weights"])
    assert re.fullmatch("[0-9a-f]{8}", info["model"]["tokenizer"]["vocabulary"])
    assert re.fullmatch("[0-9a-f]{8}", info["model"]["tokenizer"]["rules"])
    assert info["model"]["versions"]["torch"] == torch.__version__
    assert list(info["sites"]) == ["logits", "z_0"]
    assert info["subset"] == {
        "logits": {"axis": "units", "index": [3]},
        "z_0": {"axis": "heads", "index": [1]},
    }
    assert info["positions"] == "first"
    assert info["where"].endswith("odd")
    assert info["transform"]["logits"].endswith("double")
    assert info["heads"] == {"": [2, 2]}
    assert info["corpus"]["items"] == 2
    assert re.fullmatch("[0-9a-f]{8}", info["corpus"]["crc32"])
    assert info["batches"] == {"batch_size": 3, "batch_tokens": 8192, "window": 4096}


@pytest.mark.parametrize("where", ["model", "transform", "where", "positions"])
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_an_error_anywhere_takes_the_hooks_away_and_keeps_what_is_whole(
    model, tmp_path, where, error
):
    """In the model, in a function of the user: it is raised again, and earlier batches stay."""
    calls = []

    def fail_late(*args):
        calls.append(1)
        if len(calls) > 4:
            raise error
        return args[-1]

    options = {
        "model": {},
        "transform": {"transform": {"embed": fail_late}},
        "where": {"where": lambda batch: bool(fail_late(batch))},
        "positions": {"positions": lambda _, mask: fail_late(mask)},
    }[where]
    before = hooks(model)
    broken = model.transformer.h[1].mlp
    forward = broken.forward
    if where == "model":
        broken.forward = lambda x: forward(fail_late(x))
    try:
        with pytest.raises(error):
            lc.extract(model, DATA, tmp_path, "embed", batch_size=4, **options)
    finally:
        broken.__dict__.pop("forward", None)
    assert hooks(model) == before
    cache = lc.open(tmp_path, check=True)
    assert cache.snapshot.rows("examples") == 16
    assert cache.snapshot.covered("embed") == cache.snapshot.rows("tokens")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool": "median"}, "pool='median'"),
        ({"pool": 3}, "pool=3"),
        ({"transform": double}, "transform=.*mapping"),
        ({"transform": {"embed": 3}}, "transform of embed"),
        ({"transform": {"embd": double}}, "transform: 'embd' fits none.*embed"),
        ({"where": "odd"}, "where='odd'"),
        ({"heads": {"embed": [0]}}, "embed has no heads"),
        ({"heads": [0]}, "heads=.*mapping"),
        ({"units": {"embed": []}}, "units of embed"),
        ({"units": {"embed": [-1]}}, "units of embed"),
        ({"units": {"embed": [1, 1]}}, "names one twice"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 2.5}, "batch_size=2.5"),
        ({"batch_tokens": 0}, "batch_tokens=0"),
        ({"batch_tokens": "many"}, "batch_tokens='many'"),
        ({"max_length": 0}, "max_length=0"),
        ({"keep": "label"}, "keep='label'"),
    ],
)
def test_a_bad_argument_is_named_before_anything_is_written(model, tmp_path, options, message):
    """Each argument says what it may be; the folder is not even made."""
    for dry_run in (False, True):
        with pytest.raises(lc.CaptureError, match=message):
            lc.extract(model, DATA, tmp_path / "new", "embed", dry_run=dry_run, **options)
    assert not (tmp_path / "new").exists()


def test_gradients_are_refused_since_extract_has_none(model, tmp_path):
    """A site of a backward pass says what to do instead."""
    with pytest.raises(lc.CaptureError, match=r"embed:grad is a gradient.*lc\.capture"):
        lc.extract(model, DATA, tmp_path / "new", "embed:grad")
    assert not (tmp_path / "new").exists()


def test_another_function_of_the_same_name_is_refused(model, tmp_path):
    """A factory gives functions of one name: what they close over is compared."""

    def scaled(k):
        return {"embed": lambda x: x * k}

    lc.extract(model, [[1, 2]], tmp_path, "embed", transform=scaled(1), progress=False)
    with pytest.raises(lc.CaptureError, match="transform of embed was another function"):
        lc.extract(model, [[1, 2], [3]], tmp_path, "embed", transform=scaled(9), progress=False)
    lc.extract(model, [[1, 2], [3]], tmp_path, "embed", transform=scaled(1), progress=False)
    assert len(lc.open(tmp_path)["embed"]) == 2
