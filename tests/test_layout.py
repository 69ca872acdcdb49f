"""`layout=`: how rows lie in the files, which changes what a read costs and nothing else."""

import zlib

import pytest
import torch
from dataset_helpers import content, gpt2, ragged_corpus

import lazycache as lc
from lazycache.errors import CaptureError

SITES = ("resid_out_0", "mlp_act_*", "pattern_1")


def tiles(cache) -> dict[str, list[int | None]]:
    """The tiles of the shards of each site, in row order."""
    return {name: [shard.ref.tile for shard in cache.snapshot.shards(name)] for name in cache.sites}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """120 examples, stored in rows."""
    return lc.extract(gpt2(), ragged_corpus(120), tmp_path_factory.mktemp("rows"), SITES)


@pytest.fixture(scope="module")
def tiled(tmp_path_factory):
    """The same in tiles of 16 units: of 64, since 16 are one tile and patterns are ragged."""
    place = tmp_path_factory.mktemp("tiles")
    return lc.extract(gpt2(), ragged_corpus(120), place, SITES, layout="tile:16")


def test_tiles_hold_the_same_values(rows, tiled):
    """Every table and site is the same; sites that cannot be cut are stored in rows."""
    assert tiles(tiled) == {
        "mlp_act_0": [16], "mlp_act_1": [16], "resid_out_0": [None], "pattern_1": [None],
    }  # fmt: skip
    assert content(tiled) == content(rows)
    assert torch.equal(tiled["pattern_1"][7].load(), rows["pattern_1"][7].load())


QUESTIONS = {
    "mean": lambda x: x.mean((0, 1)),
    "std": lambda x: x.std((0, 1)),
    "max of a unit": lambda x: x[..., 37].max(),
    "units": lambda x: x[5:40, -1, [3, 60, 3]].load(),
    "an example": lambda x: x[17].load(),
    "arithmetic": lambda x: (x[..., 5:21] * 2).rows.load(),
    "quantile": lambda x: x.quantile(0.25, (0, 1)),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_every_question_has_the_same_answer(rows, tiled, question):
    """Aggregates, selections and arithmetic, bit for bit."""
    ask = QUESTIONS[question]
    found, expected = ask(tiled["mlp_act_0"]), ask(rows["mlp_act_0"])
    assert torch.equal(found, expected)


def test_sql_and_rankings_have_the_same_answer(rows, tiled):
    """Predicates on a unit, the order of one, and the rows of the greatest values."""
    for query in (
        "SELECT row FROM tokens WHERE unit(mlp_act_0, 40) > 0.05",
        "SELECT row, unit(mlp_act_1, 63) FROM tokens ORDER BY unit(mlp_act_1, 63) LIMIT 9",
        "SELECT sum(unit(mlp_act_0, 3) - unit(mlp_act_1, 60)) FROM tokens",
    ):
        assert tiled.sql(query).fetchall() == rows.sql(query).fetchall()
    found, expected = (c.top_k("mlp_act_0", unit=20, k=40) for c in (tiled, rows))
    assert [(hit.row, hit.value) for hit in found] == [(hit.row, hit.value) for hit in expected]


def test_statistics_answer_without_a_tile(tiled):
    """Numbers of whole sites are those of the rows: no value is read."""
    tiled.io.reset()
    tiled["mlp_act_0"].mean((0, 1))
    assert tiled.io.bytes == 0


def test_a_run_goes_on_and_is_added_to_in_other_layouts(tmp_path, rows):
    """Shards of a site in rows and in tiles of two widths; what is added later, in its own."""
    data = ragged_corpus(120)
    lc.extract(gpt2(), data[:40], tmp_path, SITES)
    lc.extract(gpt2(), data[:80], tmp_path, SITES, layout={"mlp_act_*": "tile:16"})
    layout = {"mlp_act_0": "tile:24", "mlp_act_1": "row"}
    cache = lc.extract(gpt2(), data, tmp_path, SITES, layout=layout)
    assert tiles(cache)["mlp_act_0"] == [None, 16, 24]
    assert tiles(cache)["mlp_act_1"] == [None, 16, None]
    values = cache["mlp_act_0"].rows.load()
    for shard in cache.snapshot.shards("mlp_act_0"):
        (chunk,) = shard.ref.chunks
        part = values[shard.row_start : shard.row_start + chunk.rows].numpy()
        assert zlib.crc32(part) == chunk.value_crc  # of rows, whatever their layout
    added = lc.extract(gpt2(), None, add_to=tmp_path, sites="mlp_in_0", layout="tile:8")
    assert tiles(added)["mlp_in_0"] == [8, 8, 8]  # a shard for each commit that has the rows
    assert content(added)["resid_out_0"] == content(cache)["resid_out_0"]


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        pytest.param("tiles", "layout 'tiles' is not known", id="no layout"),
        pytest.param({"mlp_act_*": 64}, "layout 64 is not known", id="a number"),
        pytest.param({"mlp_out_*": "tile:4"}, "fits none of the captured sites", id="no site"),
        pytest.param({"mlp_*": "row", "*_0": "row"}, "two patterns fit mlp_act_0", id="two"),
        pytest.param({"pattern_1": "tile:4"}, "cannot be applied to pattern_1", id="ragged"),
        pytest.param(64, "a mapping of site name", id="no mapping"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(tmp_path, layout, said):
    """The error names the argument and the site; there is no dataset then."""
    with pytest.raises(CaptureError, match=said):
        lc.capture(gpt2(), tmp_path / "acts", SITES, layout=layout)
    assert not (tmp_path / "acts").exists()


def test_too_many_tiles_are_refused_with_the_batch(tmp_path):
    """A width is known when the first row comes: nothing of its batch is stored."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 5000))
    with pytest.raises(CaptureError, match=r"5,000 tiles of 1; 4,096 are the most"):
        with lc.capture(model, tmp_path, "0", layout="tile:1"):
            model(torch.ones(3, 2))
    assert len(lc.open(tmp_path)) == 0
