"""What a capture will take, said before it: rows, bytes and time, and whether the disk has room."""

import shutil

import pytest
import torch
from dataset_helpers import files, gpt2, hooks, ragged_corpus
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration

import lazycache as lc
from lazycache.capture.corpus.estimate import Estimate
from lazycache.errors import LazycacheError

DATA = ragged_corpus(70)
SITES = ["resid_out_*", "mlp_act_0", "logits"]


@pytest.fixture(scope="module")
def model():
    """A small GPT-2 with random weights."""
    return gpt2()


def sizes(cache):
    """Rows and bytes of each site that were stored."""
    return {
        name: (cache.snapshot.covered(name), cache.snapshot.covered(name) * site.row_bytes)
        for name, site in cache.sites.items()
    }


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"positions": "last"},
        {"positions": slice(0, 1)},
        {"dtype": "bfloat16"},
        {"pool": "mean"},
        {"units": {"mlp_act_0": [1, 2, 5]}},
        {"transform": {"logits": lambda rows: rows[:, :3].double()}},
        {"batch_tokens": 30},
    ],
    ids=lambda options: ",".join(options) or "none",
)
def test_an_estimate_of_a_whole_corpus_is_exact(model, tmp_path, options):
    """Rows and bytes of every site and table are those that the run then stores."""
    found = lc.extract(model, DATA, tmp_path / "a", SITES, dry_run=True, **options)
    assert isinstance(found, Estimate)
    assert not (tmp_path / "a").exists()
    cache = lc.extract(model, DATA, tmp_path / "a", SITES, **options)
    assert {site.name: (site.rows, site.nbytes) for site in found.sites} == sizes(cache)
    for site in found.sites:
        stored = cache.sites[site.name]
        assert (site.table, site.dtype, site.shape) == (stored.table, stored.dtype, stored.shape)
    assert found.tables == {name: cache.snapshot.rows(name) for name in cache.snapshot.tables}
    assert (found.examples, found.tokens) == (70, sum(map(len, DATA)))
    tables = sum(p.stat().st_size for p in (tmp_path / "a" / "tables").rglob("*.parquet"))
    assert tables / 3 < found.table_bytes < tables * 3
    values = sum(n for _, n in sizes(cache).values())
    assert found.nbytes == found.table_bytes + found.index_bytes + values
    shards = list((tmp_path / "a" / "data").rglob("*.parquet"))
    stored = sum(p.stat().st_size for p in shards)
    assert 0 < stored - values - found.index_bytes < 3000 * len(shards)  # headers and footers
    assert found.seconds > 0
    assert found.fits


def test_patterns_are_judged_by_the_squares_of_the_lengths(model, tmp_path):
    """Rows that are as wide as their example is long grow with the square."""
    found = lc.extract(model, DATA, tmp_path, "pattern_0", dry_run=True)
    heads, squares = 2, sum(len(ids) ** 2 for ids in DATA)
    assert [(site.shape, site.nbytes) for site in found.sites] == [((2, -1), heads * squares * 4)]


def test_a_large_corpus_is_judged_by_a_sample(model, tmp_path):
    """Items spread over the corpus stand for it, and the table says so."""
    data = ragged_corpus(9000)
    found = lc.extract(model, data, tmp_path, "embed", dry_run=True)
    tokens = sum(map(len, data))
    assert found.examples == 9000
    assert not found.is_whole
    assert abs(found.tokens - tokens) / tokens < 0.02
    assert "a sample of the corpus" in repr(found)


def test_what_is_stored_already_is_not_counted(model, tmp_path):
    """Of a run that is continued the estimate is of the rest."""
    lc.extract(model, DATA[:50], tmp_path, "embed")
    found = lc.extract(model, DATA, tmp_path, "embed", dry_run=True)
    assert found.examples == 20
    assert found.sites[0].rows == sum(map(len, DATA[50:]))
    done = lc.extract(model, DATA[:50], tmp_path / "b", "embed")
    assert len(done) == 1
    nothing = lc.extract(model, DATA[:50], tmp_path / "b", "embed", dry_run=True)
    assert (nothing.examples, nothing.nbytes, nothing.sites) == (0, 0, ())


def test_a_stream_is_judged_by_its_first_items_and_a_generator_refused(model, tmp_path):
    """What can be read again is read; a generator would lose its items to the dry run."""

    class Stream:
        def __iter__(self):
            return iter(ragged_corpus(2500))

    found = lc.extract(model, Stream(), tmp_path, "embed", dry_run=True)
    assert (found.examples, found.is_open) == (2000, True)
    assert "the first 2,000 examples" in repr(found)
    with pytest.raises(lc.CaptureError, match="use up this generator"):
        lc.extract(model, (ids for ids in DATA), tmp_path, "embed", dry_run=True)


def test_the_estimate_is_a_readable_table(model, tmp_path):
    """A line for each site with its bytes, the sum, the time and the free disk."""
    found = lc.extract(model, DATA, tmp_path, SITES, dry_run=True)
    lines = repr(found).splitlines()
    assert lines[0] == f"{tmp_path}: 70 examples, 280 tokens"
    assert [line.split()[0] for line in lines[2:6]] == [
        "mlp_act_0",
        "resid_out_0",
        "resid_out_1",
        "logits",
    ]
    assert lines[5].split()[1:5] == ["tokens", "float32", "[50]", "280"]
    assert lines[5].endswith("56 kB")
    assert "tokens/s" in repr(found)
    assert "free" in repr(found)
    assert "nothing was written" in repr(found)
    assert max(map(len, lines)) < 120


def test_a_dry_run_takes_its_hooks_away_and_puts_the_flags_back(model, tmp_path):
    """The model is as it was, also where a batch fails."""
    before = hooks(model)
    model.train()
    lc.extract(model, DATA, tmp_path, "embed", dry_run=True)
    assert model.training
    assert hooks(model) == before

    def fail(*_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        lc.extract(model, DATA, tmp_path, "embed", dry_run=True, transform={"embed": fail})
    assert model.training
    assert hooks(model) == before
    model.eval()
    assert files(tmp_path) == []


def test_images_are_estimated_and_captured(tmp_path):
    """A model of pixels has a row per image."""
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 4))

    class Images(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, pixel_values):
            return self.net(pixel_values)

    data = [{"pixel_values": torch.full((1, 8, 8), float(i)), "label": i} for i in range(9)]
    found = lc.extract(Images(), data, tmp_path, "net.0", dry_run=True, batch_size=2)
    assert [(s.rows, s.nbytes) for s in found.sites] == [(9, 9 * 2 * 36 * 4)]
    cache = lc.extract(Images(), data, tmp_path, "net.0", batch_size=2)
    with torch.no_grad():
        wanted = net[0](torch.stack([item["pixel_values"] for item in data]))
    torch.testing.assert_close(cache["net.0:out"].load(), wanted)
    assert cache.sql("SELECT label FROM examples ORDER BY example").fetchall() == [
        (i,) for i in range(9)
    ]
    changed = [*data[:3], {**data[3], "pixel_values": torch.zeros(1, 8, 8)}, *data[4:]]
    with pytest.raises(lc.CaptureError, match="Example 3"):
        lc.extract(Images(), changed, tmp_path, "net.0", batch_size=2)


def test_a_disk_that_is_too_small_is_named_before_anything_is_written(model, tmp_path, monkeypatch):
    """The first batch tells what the run takes; check_disk=False begins all the same."""
    room = 50_000
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 0, room))
    before = hooks(model)
    found = lc.extract(model, DATA, tmp_path / "a", SITES, dry_run=True)
    assert not found.fits
    assert "more than fit on the disk" in repr(found)
    with pytest.raises(lc.CaptureError, match=r"about 1\d\d kB.*50 kB left.*check_disk=False"):
        lc.extract(model, DATA, tmp_path / "a", SITES)
    assert not (tmp_path / "a").exists()
    assert hooks(model) == before
    cache = lc.extract(model, DATA, tmp_path / "a", SITES, check_disk=False)
    with pytest.raises(lc.CaptureError, match="kB left"):
        lc.extract(model, None, sites=["mlp_act_1", "resid_mid_*"], add_to=tmp_path / "a")
    assert lc.open(tmp_path / "a").snapshot.version == cache.snapshot.version
    assert lc.extract(model, DATA, tmp_path / "b", "embed").snapshot.rows("examples") == 70


def test_a_dataset_that_is_replaced_counts_as_free(model, tmp_path, monkeypatch):
    """What overwrite=True removes makes room; a run that does not fit leaves it alone."""
    lc.extract(model, DATA, tmp_path, "logits")
    before = files(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 0, 5000))
    with pytest.raises(lc.CaptureError, match="left"):
        lc.extract(model, DATA, tmp_path, SITES, overwrite=True)
    assert files(tmp_path) == before
    cache = lc.extract(model, DATA, tmp_path, "resid_out_0", overwrite=True)
    assert list(cache) == ["resid_out_0"]


def test_a_full_disk_during_an_extract_is_one_clear_error(model, small_disk):
    """When the estimate was ignored the caller still hears of the disk; what is whole stays."""
    before = hooks(model)
    data = ragged_corpus(6000)
    with pytest.raises(LazycacheError, match=r"[Nn]o space|full"):
        lc.extract(model, data, small_disk / "a", SITES, check_disk=False, commit_bytes=100_000)
    assert hooks(model) == before
    cache = lc.open(small_disk / "a", check=True)
    assert 0 < cache.snapshot.rows("examples") < 6000
    assert cache["logits"].rows.load().shape == (cache.snapshot.rows("tokens"), 50)


def test_an_encoder_decoder_model_is_estimated_and_captured(tmp_path):
    """Both stacks get their rows; ids of the decoder come with the corpus."""
    config = T5Config(
        d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, vocab_size=40, use_cache=False
    )
    torch.manual_seed(0)
    t5 = T5ForConditionalGeneration(config).eval()
    data = [{"input_ids": [5, 6, 7, 1][: 2 + i % 3], "decoder_input_ids": [0, 9, 8][: 1 + i % 3]}
            for i in range(12)]  # fmt: skip
    sites = ["encoder.resid_out_0", "decoder.resid_out_0", "logits"]
    found = lc.extract(t5, data, tmp_path, sites, dry_run=True, batch_size=4)
    cache = lc.extract(t5, data, tmp_path, sites, batch_size=4)
    assert {site.name: site.table for site in found.sites} == {
        "encoder.resid_out_0": "tokens",
        "decoder.resid_out_0": "decoder_tokens",
        "logits": "decoder_tokens",
    }
    assert {site.name: (site.rows, site.nbytes) for site in found.sites} == sizes(cache)
    for i in (0, 2, 11):
        batch = {name: torch.tensor([ids]) for name, ids in data[i].items()}
        with torch.no_grad():
            wanted = t5(**batch).logits[0]
        torch.testing.assert_close(cache["logits"][i].load(), wanted)
    with pytest.raises(lc.CaptureError, match="encoder-decoder"):
        lc.extract(t5, data, sites="encoder.embed", add_to=tmp_path)
