"""The demo: it captures what is missing, refuses what is not its own, and its figures are true."""

import re
import subprocess
import sys

import pytest
import torch

import lazycache as lc
from lazycache.views.corpus import python_documentation
from lazycache.views.demo import NEURON, NEURON_SITE, SITES, run_demo

CHARACTERS = 6000


def test_a_whole_demo_is_toured_again_and_not_captured(dataset, capsys):
    """The second run says that everything is there, adds nothing and tours it."""
    before = lc.open(dataset).snapshot.version
    run_demo(str(dataset), characters=CHARACTERS)
    out = capsys.readouterr().out
    assert f"{dataset} exists already: nothing to capture." in out
    assert "Capturing" not in out
    assert "A question in SQL" in out
    assert lc.open(dataset).snapshot.version == before


def test_an_interrupted_demo_is_completed(dataset, minilm, tmp_path, capsys):
    """What an interrupted run left stays, and the rest is captured: nothing is missing."""
    model, tokenizer = minilm
    corpus, url = python_documentation(CHARACTERS), tmp_path / "demo"
    calls = 0

    def interrupt(*_):
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt

    handle = model.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        lc.extract(model, corpus, url, SITES, tokenizer=tokenizer, batch_size=8, max_length=256)
    handle.remove()
    assert 0 < lc.open(url).snapshot.rows("examples") < len(corpus)
    run_demo(str(url), characters=CHARACTERS)
    out = capsys.readouterr().out
    assert "(the 8 paragraphs of an interrupted run stay)" in out
    assert "exists already" not in out
    whole, other = lc.open(url), lc.open(dataset)
    assert whole.snapshot.rows("examples") == len(corpus)
    assert whole.snapshot.rows("tokens") == other.snapshot.rows("tokens")
    for example in (0, len(corpus) - 1):
        torch.testing.assert_close(
            whole["resid_out_5"][example].load(),
            other["resid_out_5"][example].load(),
            rtol=1e-4,
            atol=1e-5,
        )


def _plain(url, minilm):
    model = torch.nn.Sequential(torch.nn.Embedding(9, 2))
    with lc.capture(model, url, "0"):
        model(torch.tensor([[1]]))


def _other_text(url, minilm):
    lc.extract(minilm[0], ["Paris."], url, SITES, tokenizer=minilm[1], max_length=256)


def _fewer_sites(url, minilm):
    corpus = python_documentation(CHARACTERS)[:2]
    lc.extract(minilm[0], corpus, url, "embed", tokenizer=minilm[1], max_length=256)


@pytest.mark.parametrize(
    ("make", "found"),
    [(_plain, "sites such as 0:out"), (_other_text, "other text"), (_fewer_sites, "sites were")],
)
def test_another_dataset_is_refused_and_not_touched(make, found, minilm, tmp_path):
    """A dataset that the demo did not make stays as it is; the message offers another folder."""
    make(tmp_path / "acts", minilm)
    before = lc.open(tmp_path / "acts").snapshot.version
    with pytest.raises(lc.DatasetExistsError, match="lazycache demo FOLDER") as caught:
        run_demo(str(tmp_path / "acts"), characters=CHARACTERS)
    assert found in str(caught.value)
    assert lc.open(tmp_path / "acts").snapshot.version == before


def test_the_corpus_is_the_same_in_every_process():
    """The text depends on Python's version alone: not on hash seeds, not on the machine."""
    code = (
        "import hashlib, json; from lazycache.views.corpus import python_documentation as d;"
        "print(hashlib.sha256(json.dumps(d(20_000)).encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1
    texts = [entry["text"] for entry in python_documentation(20_000)]
    assert len(set(texts)) == len(texts)


def test_the_figures_of_the_tour_are_those_of_the_values(dataset, capsys):
    """Slice, statistics and top token of the tour equal what torch computes from the rows."""
    run_demo(str(dataset), characters=CHARACTERS)
    out = capsys.readouterr().out
    cache = lc.open(dataset)
    values = cache[NEURON_SITE].rows.load()[:, NEURON].double()
    mean, std, most = values.mean(), values.std(correction=0), values.max()
    assert f"Neuron {NEURON} is usually {mean:.2f} ± {std:.2f}, and {most:.2f} at most: " in out
    assert f"at most: {(most - mean) / std:.0f} standard deviations up." in out
    assert f"1,536 neurons over {len(values):,} tokens in " in out
    slice_ = cache["resid_out_5"][3, :4].load()
    first = [round(value, 4) for value in slice_[0, :4].tolist()]
    assert "→ [4, 384] torch.float32, " in out
    assert f"6.14 kB of {len(values) * 384 * 4 / 1e6:.3g} MB touched; first numbers {first}" in out
    tokens = [token for (token,) in cache.sql("SELECT token FROM tokens ORDER BY row").fetchall()]
    best = values.argmax()
    line = out[out.index("activation  ") :].splitlines()[1]
    activation, *rest = re.split(r"\s{2,}", line.strip())
    assert activation == f"{values[best]:.4g}"
    assert tokens[best] in rest


def test_the_top_tokens_of_the_neuron_need_no_explanation(dataset, capsys):
    """The neuron of the tour fires most on words that draw a conclusion."""
    run_demo(str(dataset), characters=CHARACTERS)
    out = capsys.readouterr().out
    rows = out[out.index("activation  ") :].splitlines()[1:11]
    assert len(rows) == 10
    top = re.split(r"\s{2,}", rows[0].strip())
    assert {"therefore", "thus", "hence", "so", "means"} & set(top)
