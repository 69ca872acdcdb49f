"""Attention of one example with its tokens, and the mean attention that some tokens get."""

import base64
import re
import zlib

import numpy as np
import pytest
import rows_helpers
import torch
from dataset_helpers import gpt2, ragged_corpus
from transformers import T5Config, T5ForConditionalGeneration

import lazycache as lc
from lazycache import samples
from lazycache.errors import QueryError, SiteNotFoundError
from lazycache.query.attending import attention_maps, mean_attentions
from lazycache.types import TOKENS, SiteBlock

LENGTHS = (3, 1, 5, 2, 4, 2, 6)


@pytest.fixture(scope="module", autouse=True)
def closed():
    """What this file made and opened is closed."""
    yield
    rows_helpers.forget()


@pytest.fixture(scope="module")
def model():
    """A small GPT-2 that makes its probabilities."""
    return gpt2(attn_implementation="eager")


@pytest.fixture(scope="module")
def url(model, tmp_path_factory):
    """Patterns of seven examples of 1 to 7 tokens, in batches with padding."""
    url = tmp_path_factory.mktemp("attention") / "acts"
    lc.extract(model, ragged_corpus(7), url, ["pattern_*", "z_0"], batch_size=4, progress=False)
    return url


def asked(model, ids):
    """The probabilities of each layer for one example: [heads, query, key]."""
    with torch.no_grad():
        found = model(input_ids=torch.tensor([ids]), output_attentions=True).attentions
    return [layer[0] for layer in found]


def test_a_map_has_what_the_model_gave_of_its_example(model, url):
    """Values of every example, layer and head, whatever batch and padding it came in."""
    cache = lc.open(url)
    for example, ids in enumerate(ragged_corpus(7)):
        for layer, wanted in enumerate(asked(model, ids)):
            found = cache.attention(example, layer)
            assert torch.allclose(found.values, wanted, atol=1e-6)
            assert torch.equal(cache.attention(example, layer, head=1).values, found.values[1])
            assert found.positions.tolist() == list(range(len(ids)))
    last = cache.attention(3, -1)
    assert (last.site, last.head, len(last.tokens)) == ("pattern_1", None, 4)
    one = cache.attention(3, "pattern_L1H1")
    assert (one.site, one.head) == ("pattern_1", 1)
    assert torch.equal(one.values, last.values[1])


def test_tokens_are_those_of_the_keys_also_where_rows_were_chosen(tmp_path):
    """A chosen row has the tokens of its whole example; its own token and position beside it."""
    made = rows_helpers.make(LENGTHS, runs=1)
    words = made.tokens[made.tokens.example == 4].token.tolist()
    whole = made.shared.attention(4, 0)
    assert whole.tokens == whole.queries == tuple(words)
    some = made.shared.where("position IN (1, 3)").attention(4, 0)
    assert some.tokens == tuple(words)
    assert some.queries == (words[1], words[3])
    assert some.positions.tolist() == [1, 3]
    assert torch.equal(some.values, whole.values[:, [1, 3]])
    table = some.df()
    assert len(table) == 2 * 2 * 4
    row = table[(table["head"] == 1) & (table["query"] == 3) & (table["key"] == 2)].iloc[0]
    assert (row.query_token, row.key_token) == (words[3], words[2])
    assert row.value == whole.values[1, 3, 2].item()


def test_a_single_head_says_its_number_in_its_table():
    """`head` of the table of head 1 is 1."""
    table = samples.pattern_cache().attention(1, 0, head=1).df()
    assert set(table["head"]) == {1}
    assert table["value"].tolist() == torch.eye(3).flatten().tolist()


def test_keys_of_last_positions_are_known_by_their_place(model, tmp_path):
    """Captured at the last position, a map has one query, all keys, and no text of the others."""
    cache = lc.extract(
        model, ragged_corpus(7), tmp_path / "a", "pattern_0", positions="last", progress=False
    )
    found = cache.attention(5, 0)
    assert found.values.shape == (2, 1, 6)
    assert found.positions.tolist() == [5]
    assert torch.allclose(found.values[:, 0], asked(model, ragged_corpus(7)[5])[0][:, -1])
    with pytest.raises(QueryError, match=r"attends to .* tokens, of which 1 were stored"):
        cache.mean_attention(0, "position = 0")


def test_a_decoder_looks_at_the_tokens_of_the_encoder(tmp_path):
    """Cross patterns: keys are rows of `tokens`, queries rows of `decoder_tokens`."""
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=50, d_model=16, d_kv=4, d_ff=20, num_layers=1, num_heads=4, dropout_rate=0.0
    )
    model = T5ForConditionalGeneration(config).eval()
    model.set_attn_implementation("eager")
    ids = torch.randint(3, 50, (3, 6), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    inputs = {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": ids[:, :3]}
    with lc.capture(model, tmp_path / "a", ["*pattern_0"]), torch.no_grad():
        out = model(**inputs, output_attentions=True)
    cache = lc.open(tmp_path / "a")
    (wanted,) = out.cross_attentions
    found = cache.attention(1, "decoder.cross_pattern_0")
    assert torch.allclose(found.values, wanted[1, :, :, :4])
    token = int(ids[1, 2])
    mean = cache.mean_attention("decoder.cross_pattern_0", "token_id = ?", to_params=[token])
    meant = ((ids == token) & (mask == 1))[:, None, None].double()
    assert torch.allclose(mean, (wanted * meant).sum(-1).mean((0, 2)))
    with pytest.raises(SiteNotFoundError, match=r"Nearest: .*decoder\.pattern_0"):
        cache.attention(1, 0)


def reference(made, meant, chosen):
    """The mean by hand, example after example, in float64."""
    x, total, count = made.shared["pattern_0"], torch.zeros(2, dtype=torch.float64), 0
    tokens = made.tokens.assign(x1=made.x[:, 1].tolist())
    groups = tokens.groupby(["r", "example"], sort=True)
    for values, (_, rows) in zip(x, groups, strict=True):
        keys = torch.tensor(meant(rows).to_numpy(dtype=bool))
        queries = torch.tensor(chosen(rows).to_numpy(dtype=bool))
        total += values.load().double()[:, queries][..., keys].sum((1, 2))
        count += int(queries.sum())
    return total / count


CONDITIONS = {
    "a token": ("token = 'w1'", lambda rows: rows.token == "w1"),
    "a place": ("position = 0", lambda rows: rows.position == 0),
    "an example": ("label = 'a'", lambda rows: rows.label == "a"),
    "both": ("label = 'b' AND token <> 'w0'", lambda r: (r.label == "b") & (r.token != "w0")),
    "a site": ("unit(x, 1) > 0", lambda rows: rows.x1 > 0),
    "none": ("position > 99", lambda rows: rows.position > 99),
}


@pytest.mark.parametrize("to", CONDITIONS)
@pytest.mark.parametrize("where", [None, "position > 0", "score = 0.5 OR position = 1"])
@pytest.mark.parametrize("runs", [1, 2])
def test_the_mean_is_that_of_a_plain_loop(to, where, runs, monkeypatch):
    """Any keys, any queries, one run or two, in blocks of a few examples."""
    monkeypatch.setattr(mean_attentions, "BLOCK_ROWS", 4)
    made = rows_helpers.make(LENGTHS, runs=runs)
    text, meant = CONDITIONS[to]
    chosen = {
        None: lambda rows: rows.position >= 0,
        "position > 0": lambda rows: rows.position > 0,
    }.get(where, lambda rows: (rows.score == 0.5) | (rows.position == 1))
    wanted = reference(made, meant, chosen)
    found = made.shared.mean_attention(0, text, where=where)
    assert found.dtype == torch.float64
    assert torch.allclose(found, wanted, rtol=1e-12, atol=1e-15)


def test_layers_heads_and_restricted_caches(url):
    """Several layers are stacked; one head is a number; a chosen cache keeps its keys."""
    cache = lc.open(url)
    both = cache.mean_attention("*", "position = 0")
    each = [cache.mean_attention(layer, "position = 0") for layer in (0, 1)]
    assert torch.equal(both, torch.stack(each))
    assert torch.equal(cache.mean_attention([1], "position = 0"), both[1:])
    assert cache.mean_attention("pattern_L1H1", "position = 0") == both[1, 1]
    late = cache.where("position > 2")
    assert torch.equal(
        late.mean_attention(0, "position = 0"),
        cache.mean_attention(0, "position = ?", to_params=[0], where="position > 2"),
    )
    assert torch.allclose(cache.mean_attention("*", "true"), torch.ones(2, 2).double())


def test_only_nan_among_the_keys_that_are_meant_is_seen():
    """NaN and infinity of other keys do not matter; of these keys they do."""
    values = torch.zeros(6, 1, 3)
    widths = np.array([2, 2, 3, 3, 3, 1], dtype=np.int32)
    values[:, 0, 0] = 0.5
    values[2, 0, 1] = torch.nan
    values[3, 0, 2] = torch.inf
    flat = torch.cat([row[:, :n].flatten() for row, n in zip(values, widths, strict=True)])
    block = SiteBlock(TOKENS, flat, shape=(1, -1), widths=widths)
    cache = samples._written({"pattern_0": block})
    assert cache.mean_attention(0, "position = 0").tolist() == [0.5]
    assert cache.mean_attention(0, "position = 2").tolist() == [torch.inf]
    assert cache.mean_attention(0, "position = 1").isnan().all()
    assert "nan" not in repr(cache.attention(1, 0))


def test_a_question_reads_no_more_than_its_example(url):
    """Of the dataset, one example is read; of the mean, each pattern once."""
    cache = lc.open(url)
    cache.attention(6, 0)
    assert cache.io.bytes <= 2 * 7 * 7 * 4 + 4 * 28 * 2
    cache.io.reset()
    cache.mean_attention(0, "position = 0")
    assert cache.io.bytes <= sum(2 * n * n * 4 for n in range(1, 8)) + 4 * 28 * 2


@pytest.mark.parametrize(
    ("ask", "error", "said"),
    [
        (lambda c: c.attention(99, 0), QueryError, "Ids, column `example` in SQL, are from 0"),
        (lambda c: c.attention("0", 0), QueryError, "by its id, a number, not '0'"),
        (lambda c: c.attention(0, 7), SiteNotFoundError, "capture the site pattern_L"),
        (lambda c: c.attention(0, "z_0"), QueryError, "'z_0' is no attention pattern"),
        (lambda c: c.attention(0, 0, head=5), SiteNotFoundError, "heads are 0 to 1"),
        (lambda c: c.attention(0, 0, head=-1), QueryError, "heads are numbers from 0"),
        (lambda c: c.attention(0, "pattern_L0H0", 1), QueryError, "leave head= away"),
        (lambda c: c.mean_attention(0, "tokn = 'a'"), QueryError, "tokn"),
        (lambda c: c.mean_attention(0, "1; DROP"), QueryError, "no expression|not one"),
        (lambda c: c.mean_attention("x*", "true"), SiteNotFoundError, "no attention pattern"),
        (lambda c: c.mean_attention([], "true"), QueryError, "no layer is named"),
        (
            lambda c: c.mean_attention(0, "true", where="position > 99"),
            QueryError,
            "no query of pattern_0 is chosen",
        ),
    ],
    ids=[
        "example", "id", "layer", "site", "head", "negative head", "head twice", "column",
        "statement", "pattern", "no layer", "no query",
    ],
)  # fmt: skip
def test_what_cannot_be_asked_says_what_can(url, ask, error, said):
    """Names what was asked, what there is and what to do."""
    with pytest.raises(error, match=said):
        ask(lc.open(url))


def test_an_id_of_several_runs_is_refused():
    """Ids are unique within a run: with two runs of the same ids, the run has to be chosen."""
    cache = rows_helpers.make((2, 3), runs=1).shared
    twice = rows_helpers.make((2, 3), runs=1, seed=1).open()
    both = lc.ActivationCache(stored=[*cache.datasets, *twice.datasets])
    with pytest.raises(QueryError, match="2 runs or datasets have an example 1"):
        both.attention(1, 0)


def pixels(picture):
    """How opaque each pixel of a PNG without filters is; its palette has one colour."""
    width, height = (int.from_bytes(picture[i : i + 4], "big") for i in (16, 20))
    at = picture.index(b"IDAT")
    size = int.from_bytes(picture[at - 4 : at], "big")
    lines = np.frombuffer(zlib.decompress(picture[at + 4 : at + 4 + size]), np.uint8)
    assert zlib.crc32(picture[at : at + 4 + size]) == int.from_bytes(
        picture[at + 4 + size : at + 8 + size], "big"
    )
    colours, opacity = (picture.index(name) + 4 for name in (b"PLTE", b"tRNS"))
    assert len(set(re.findall(b"(?s)...", picture[colours : colours + 768]))) == 1
    steps = np.frombuffer(picture[opacity : opacity + 256], np.uint8)
    return steps[lines.reshape(height, 1 + width)[:, 1:]]


def test_the_picture_is_bluer_where_there_is_more_and_runs_nothing():
    """A PNG a head; tokens are text, whatever they say; many tokens are drawn without labels."""
    values = torch.tensor([[[0.0, 1.0], [0.5, float("nan")]]])
    tokens = ["<script>x</script>", "&\n"]
    found = attention_maps.AttentionMap(
        values,
        site="p<b>",
        example=0,
        head=None,
        keys=tokens,
        queries=tokens,
        positions=np.arange(2),
    )
    html = found._repr_html_()
    assert "<script" not in html
    assert "<b>" not in html
    assert "&lt;script&gt;" in html
    assert "&amp;⏎" in html
    (data,) = re.findall(r"base64,([^\"]+)", html)
    opaque = pixels(base64.b64decode(data))
    assert opaque.tolist() == [[0, 255], [180, 0]]
    assert "\n  " in repr(found)
    assert "&\\n" in repr(found)
    wide = np.random.default_rng(0).random((1, 200))
    assert "text-anchor" not in attention_maps.heat_map(
        wide, queries=["q"], keys=["k"] * 200, title="t"
    )
