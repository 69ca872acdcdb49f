"""What a cache shows of itself: keys in groups, rows, bytes, norms by layer; no row is read."""

import math
import re
import shutil

import pytest
import torch

import lazycache as lc
from lazycache.mapping import overview as module
from lazycache.mapping.overview import overview
from lazycache.mapping.overview_faces import as_html, as_text
from lazycache.samples import pattern_cache

NAMES = [f"resid_out_{i}" for i in range(3)]


class Layers(torch.nn.Module):
    """An embedding and three layers, each of which doubles what it is given."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(7, 64)
        self.layers = torch.nn.ModuleList(torch.nn.Linear(64, 64, bias=False) for _ in range(3))
        for layer in self.layers:
            torch.nn.init.eye_(layer.weight)
            layer.weight.data *= 2

    def forward(self, input_ids):
        """Return what the last layer gives."""
        x = self.embed(input_ids)
        for layer in self.layers:
            x = layer(x)
        return x


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """A hundred rows of four sites: enough that statistics are stored."""
    place = tmp_path_factory.mktemp("overview") / "acts"
    sites = ["embed", *(f"layers.{i}" for i in range(3))]
    lc.extract(
        Layers(), [[1, 2, 3, 4] * 15, [5] * 40], place, sites, batch_size=1, progress=False
    ).close()
    return place


@pytest.fixture
def cache(url):
    """The same, opened."""
    with lc.open(url) as found:
        yield found


class Printer:
    """What IPython gives to `_repr_pretty_`."""

    def __init__(self):
        self.said = ""

    def text(self, said):
        """Take text."""
        self.said += said


def test_layers_are_one_line_with_their_norms(cache):
    """Norms are those of the values; a repr reads statistics, and no row."""
    embed, layers = overview(cache).groups
    assert (embed.name, embed.rows, embed.nbytes, embed.norms) == ("embed:out", 100, 25_600, ())
    assert layers.name == "layers.0:out … layers.2:out (3)"
    assert (layers.table, layers.what, layers.row) == ("tokens", "float32", "[64]")
    assert (layers.rows, layers.nbytes, layers.bounded) == (100, 76_800, False)
    assert cache.io.bytes == 0
    assert 0 < cache.io.statistics_bytes < 20_000
    wanted = [cache[key].rows.load().norm(dim=1).square().mean().sqrt() for key in layers.keys]
    assert layers.norms == pytest.approx([float(norm) for norm in wanted])


def test_a_terminal_and_a_notebook_show_the_same(cache, url):
    """IPython gets the table, Python's `repr` stays the list of keys."""
    printer = Printer()
    cache._repr_pretty_(printer, cycle=False)
    first, second, *lines = printer.said.splitlines()
    assert first == f"ActivationCache of {url}, version 1"
    assert re.fullmatch(r"  run main, 2 examples, 100 tokens, [\d.]+ kB", second)
    assert lines[:3] == [
        "  key                              of      dtype     row  rows     bytes",
        "  embed:out                        tokens  float32  [64]   100  25.60 kB",
        "  layers.0:out … layers.2:out (3)  tokens  float32  [64]   100  76.80 kB",
    ]
    assert lines[3] == "  norm (RMS) by layer"
    assert re.fullmatch(r"  layers\.\*:out         ▃▅█ [\d.]+ to [\d.]+", lines[4])
    assert repr(cache).startswith("ActivationCache(`embed:out`, `layers.0:out`, ")
    html = cache._repr_html_()
    for said in (str(url), "layers.0:out … layers.2:out (3)", "76.80 kB", "<svg", "float32"):
        assert said in html
    printer.said = ""
    cache._repr_pretty_(printer, cycle=True)
    assert printer.said == repr(cache)


def test_chosen_rows_are_counted_and_the_condition_is_said(cache):
    """Statistics are of all rows, so that there are no norms of some."""
    found = overview(cache.where("position < ?", [2]))
    assert [(group.rows, group.nbytes, group.norms) for group in found.groups] == [
        (4, 1024, ()),
        (4, 3072, ()),
    ]
    assert found.places[0].conditions == ("position < ?",)
    assert "  where position < ?" in as_text(found)


def test_joined_datasets_and_values_in_memory_stand_beside_each_other(cache, url):
    """Rows, bytes and norms are of both datasets; values say what they are."""
    once = overview(cache).groups[1].norms
    with lc.open(url) as other:
        cache.cat(other)
        cache["x_1"], cache["x_2"] = torch.ones(2, 3), torch.ones(2, 3)
        cache["label\x1b"] = ["<b>"]
        found = overview(cache)
    assert [(g.rows, g.nbytes) for g in found.groups] == [
        *((200, 51_200), (200, 153_600), (None, 48), (None, 3)),
    ]
    assert found.groups[1].norms == pytest.approx(once)
    assert [place.url for place in found.places] == [str(url)] * 2
    said = as_text(found)
    assert "x_1 … x_2 (2)" in said
    assert "\x1b" not in said + as_html(found) + repr(cache) + str(cache)
    empty = overview(lc.ActivationCache())
    assert as_text(empty) == "ActivationCache in memory, 0 keys"
    assert "0 keys" in as_html(empty)


def test_of_a_log_that_is_long_rows_are_bounds(cache, monkeypatch):
    """What would take long to count is not counted, and is marked."""
    monkeypatch.setattr(module, "FEW_FILES", 3)
    found = overview(cache, norms=False)
    assert [(g.rows, g.nbytes, g.bounded) for g in found.groups] == [
        (100, 25_600, True),
        (100, 76_800, True),
    ]
    assert found.places[0].nbytes is None
    assert "≤ 76.80 kB" in as_text(found)


def test_rows_of_their_own_width_are_sums_of_what_is_stored():
    """A ragged site has its bytes, and no norm."""
    cache = pattern_cache()
    (group,) = (one for one in overview(cache).groups if one.keys == ("pattern_0",))
    assert group.row == f"[{cache['pattern_0'].shape[1]}, keys]"
    assert group.nbytes == cache["pattern_0"].nbytes > 0
    assert group.norms == ()


def test_a_closed_or_damaged_dataset_still_shows_its_keys(url, tmp_path):
    """Only the norms are missing."""
    bad = tmp_path / "bad"
    shutil.copytree(url, bad)
    damaged = list((bad / "stats").rglob("*.parquet"))
    for path in damaged:
        path.write_bytes(bytes(path.stat().st_size))
    assert len(damaged) == 4
    with lc.open(bad) as cache:
        assert [group.norms for group in overview(cache).groups] == [(), ()]
    assert "layers.2:out (3)" in as_text(overview(cache))


def test_the_norms_of_the_stream_come_first():
    """Where there is a residual stream, no other statistics are read; not of too many sites."""
    assert module._with_norms({("resid_out_*", "t"): [1] * 3, ("mlp_out_*", "t"): [1] * 3}) == {
        ("resid_out_*", "t")
    }
    many = [1] * (module.NORM_SITES + 1)
    assert module._with_norms({("a_*", "t"): many, ("b_*", "t"): [1, 2], ("c", ""): [1, 2]}) == {
        ("b_*", "t")
    }
    assert module.span([math.nan, 0.123456, 1234.5]) == "0.123 to 1,230"
