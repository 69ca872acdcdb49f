"""Sites that are added to stored rows later: the same rows and bits, and nothing written twice."""

import copy

import pytest
import torch
from dataset_helpers import content, files, gpt2, hooks, ragged_corpus
from torch import nn

import lazycache as lc
from lazycache.errors import CommitConflictError

DATA = ragged_corpus(60)


@pytest.fixture(scope="module")
def model():
    """A small GPT-2 with random weights."""
    return gpt2()


@pytest.fixture
def stored(model, tmp_path):
    """A dataset of one site in several commits, and its folder."""
    url = tmp_path / "acts"
    lc.extract(model, DATA, url, "resid_out_0", batch_size=4, commit_bytes=4000)
    assert lc.open(url).snapshot.version > 3
    return url


def test_a_site_that_is_added_later_has_the_bits_of_the_first_run(model, stored, tmp_path):
    """Values, rows and order are those of a dataset that had both sites from the beginning."""
    before = files(stored)
    shards = {path: (stored / path).read_bytes() for path in before if path.startswith("data")}
    cache = lc.extract(model, DATA, sites=["mlp_act_1", "logits"], add_to=stored)
    whole = lc.extract(
        model, DATA, tmp_path / "b", ["resid_out_0", "mlp_act_1", "logits"], batch_size=4
    )
    assert content(cache) == content(whole)
    assert torch.equal(cache["mlp_act_1"].rows.load(), whole["mlp_act_1"].rows.load())
    assert {path: (stored / path).read_bytes() for path in shards} == shards
    new = set(files(stored)) - set(before)
    assert {path.split("/")[1] for path in new if path.startswith("data/")} == {
        "mlp_act_1",
        "logits",
    }
    assert not [path for path in new if path.startswith("tables/")]
    query = "SELECT count(*), count(unit(logits, 3)) FROM tokens"
    assert cache.sql(query).fetchone() == whole.sql(query).fetchone()


def test_stored_tokens_are_enough_where_all_are_stored(model, stored):
    """Without a corpus the model runs on what the dataset holds, and gives the same."""
    with_corpus = lc.extract(model, DATA, sites="resid_out_1", add_to=stored)
    found = content(with_corpus)["resid_out_1"]
    again = lc.extract(model, None, sites="resid_mid_1", add_to=str(stored) + "/")
    assert content(again)["resid_out_1"] == found
    assert again["resid_mid_1"].lengths.tolist() == again["resid_out_1"].lengths.tolist()


@pytest.mark.parametrize(
    "positions",
    ["last", "first", "last-2", 0, slice(2, 4), [0, 1], lambda ids, mask: mask & (ids > 20)],
)
def test_the_selected_positions_of_the_run_are_those_that_get_values(model, tmp_path, positions):
    """A run that kept some tokens gets values for these; the corpus is read again for the rest."""
    data = [example for example in DATA if len(example) > 1]
    url = tmp_path / "acts"
    lc.extract(model, data, url, "resid_out_0", batch_size=4, positions=positions)
    with pytest.raises(lc.CaptureError, match=r"not every token is stored.*Give the corpus"):
        lc.extract(model, None, sites="mlp_act_0", add_to=url)
    added = lc.extract(model, data, sites="mlp_act_0", add_to=url)
    whole = lc.extract(
        model,
        data,
        tmp_path / "b",
        ["resid_out_0", "mlp_act_0"],
        batch_size=4,
        positions=positions,
    )
    assert content(added) == content(whole)


def test_a_pooled_or_transformed_site_is_added_to_the_examples(model, stored, tmp_path):
    """What is added may be reduced as in a capture of its own."""
    added = lc.extract(model, None, sites="mlp_act_0", add_to=stored, pool="mean", dtype="float16")
    whole = lc.extract(
        model, DATA, tmp_path / "b", "mlp_act_0", batch_size=4, pool="mean", dtype="float16"
    )
    assert content(added)["mlp_act_0"] == content(whole)["mlp_act_0"]
    assert added.sites["mlp_act_0"].table == "examples"


def test_head_out_is_added_as_z_and_its_matrix(model, stored):
    """Arrays that reads need are kept with the run whose rows they are for."""
    cache = lc.extract(model, None, sites="head_out_1", add_to=stored)
    assert "z_1" in cache
    assert cache.snapshot.array("main", "head_out_1.weight") is not None


def test_attention_patterns_are_added_too(model, stored, tmp_path):
    """Rows of their own width find their places."""
    added = lc.extract(model, None, sites="pattern_1", add_to=stored)
    whole = lc.extract(model, DATA, tmp_path / "b", "pattern_1", batch_size=4)
    one, other = added["pattern_1"], whole["pattern_1"]
    for i in (0, 7, 59):
        assert torch.equal(one[i].load(), other[i].load())


def test_only_the_rows_of_the_named_run_get_values(model, stored):
    """Rows of other runs lack the site; they are missing, not zero."""
    lc.extract(model, [[1, 2, 3]], stored, "resid_out_0", run="second")
    cache = lc.extract(model, None, sites="embed", add_to=stored, run="second")
    assert cache.snapshot.covered("embed") == 3
    query = "SELECT run, count(*), count(unit(embed, 0)) FROM tokens GROUP BY run ORDER BY run"
    tokens = sum(map(len, DATA))
    assert cache.sql(query).fetchall() == [("main", tokens, 0), ("second", 3, 3)]
    cache = lc.extract(model, None, sites="embed", add_to=stored)
    assert cache.sql(query).fetchall() == [("main", tokens, tokens), ("second", 3, 3)]


def test_an_interrupted_addition_goes_on_where_it_stopped(model, stored, tmp_path):
    """What was committed is not run again, and the result is that of an uninterrupted one."""
    calls = []

    def stop(*_):
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt

    before = hooks(model)
    hook = model.register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        lc.extract(model, None, sites=["embed", "resid_out_1"], add_to=stored)
    assert hooks(model) == before + 1
    part = lc.open(stored).snapshot.covered("embed")
    assert 0 < part < sum(map(len, DATA))
    calls.clear()
    calls += [1] * 100
    cache = lc.extract(model, None, sites=["embed", "resid_out_1"], add_to=stored)
    assert len(calls) == 100 + 15 - 7
    hook.remove()
    whole = lc.extract(
        model, DATA, tmp_path / "b", ["embed", "resid_out_0", "resid_out_1"], batch_size=4
    )
    assert content(cache) == content(whole)
    version = cache.snapshot.version
    again = lc.extract(model, None, sites=["embed", "resid_out_1"], add_to=stored)
    assert again.snapshot.version == version


def test_rows_that_were_stored_in_another_order_get_their_own_values(model, tmp_path):
    """Rows of an own loop, in any order and batches, get the values of their tokens."""
    url = tmp_path / "acts"
    with torch.no_grad(), lc.capture(model, url, "resid_out_0") as run:
        for number in (5, 2, 9, 0):
            run.annotate(example=[number])
            model(torch.tensor([DATA[number]]))
            run.commit()
    cache = lc.extract(model, DATA[:10], sites="logits", add_to=url, batch_size=3)
    assert cache.snapshot.covered("logits") == sum(len(DATA[i]) for i in (5, 2, 9, 0))
    for place, number in enumerate((0, 2, 5, 9)):
        with torch.no_grad():
            alone = model(torch.tensor([DATA[number]])).logits[0]
        torch.testing.assert_close(cache["logits"][place].load(), alone)


def test_another_corpus_is_refused_by_the_first_example_that_differs(model, stored):
    """A changed token, a length, a missing example: each is named, and nothing is written."""
    before = files(stored)
    changed = copy.deepcopy(DATA)
    changed[17][3] = 49
    with pytest.raises(lc.CaptureError, match=r"Example 17 .* position 3 it has token 49"):
        lc.extract(model, changed, sites="embed", add_to=stored)
    longer = copy.deepcopy(DATA)
    longer[4] = longer[4] + [1]
    with pytest.raises(lc.CaptureError, match=r"Example 4 .*it has \d tokens, the model read \d"):
        lc.extract(model, longer, sites="embed", add_to=stored)
    with pytest.raises(lc.CaptureError, match="lacks example 58, which is stored, and 1 more"):
        lc.extract(model, DATA[:58], sites="embed", add_to=stored)
    assert files(stored) == before


def test_another_model_or_selection_is_refused_by_what_differs(model, stored):
    """The values of another model or of other rows are not filed under these."""
    before = files(stored)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.transformer.wte.weight.mul_(2)
    with pytest.raises(lc.CaptureError, match="the model's weights was"):
        lc.extract(other, None, sites="embed", add_to=stored)
    with pytest.raises(lc.CaptureError, match="positions was all, is last"):
        lc.extract(model, DATA, sites="embed", add_to=stored, positions="last")
    with pytest.raises(lc.CaptureError, match="max_length was 32, is 5"):
        lc.extract(model, DATA, sites="embed", add_to=stored, max_length=5)
    with pytest.raises(lc.CaptureError, match="has resid_out_0 for all of its rows already"):
        lc.extract(model, None, sites=["embed", "resid_out_0"], add_to=stored)
    with pytest.raises(lc.CaptureError, match=r"no run 'mian'.*main"):
        lc.extract(model, None, sites="embed", add_to=stored, run="mian")
    with pytest.raises(lc.SiteNotFoundError, match="resid_out_1"):
        lc.extract(model, None, sites="resid_ot_1", add_to=stored)
    assert files(stored) == before


def test_an_addition_is_continued_only_as_it_was_begun(model, stored):
    """The half of a site in float16 does not get another half in float32."""
    calls = []

    def stop(*_):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt

    hook = model.register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        lc.extract(model, None, sites="embed", add_to=stored, dtype="float16")
    hook.remove()
    with pytest.raises(lc.CaptureError, match="dtype was float16, is None"):
        lc.extract(model, None, sites="embed", add_to=stored)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"overwrite": True}, "overwrite does not go with add_to"),
        ({"where": lambda _: True}, "where does not go with add_to"),
        ({"heads": {"z_0": [0]}}, "heads does not go"),
        ({"columns": {"a": 1}}, "columns does not go"),
        ({"keep": ["a"]}, "keep does not go"),
        ({"resume": False}, "resume=False does not go"),
        ({"pool": "median"}, "pool"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_tokens": -1}, "batch_tokens=-1"),
        ({"dtype": "int8"}, "int8"),
        ({"url": "elsewhere"}, "Leave url out"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_written(
    model, stored, options, message
):
    """Each option that an addition cannot have is named."""
    before = files(stored)
    with pytest.raises(lc.CaptureError, match=message):
        lc.extract(model, None, sites="embed", add_to=stored, **options)
    assert files(stored) == before


def test_adding_to_nothing_or_without_a_place_is_refused(model, tmp_path):
    """There must be a dataset, and one place."""
    with pytest.raises(lc.DatasetNotFoundError):
        lc.extract(model, DATA, sites="embed", add_to=tmp_path / "nowhere")
    with pytest.raises(lc.CaptureError, match="Say where to"):
        lc.extract(model, DATA, sites="embed")
    with pytest.raises(lc.CaptureError, match="no corpus"):
        lc.extract(model, None, tmp_path / "new", "embed")
    assert not list(tmp_path.iterdir())


def test_rows_without_token_ids_are_refused(tmp_path):
    """Images and embeddings have nothing that they could be known by."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval()
    with torch.no_grad(), lc.capture(net, tmp_path, "1"):
        net(torch.ones(2, 2, 2))
    with pytest.raises(lc.CaptureError, match="no sequences of tokens"):
        lc.extract(net, None, sites="0", add_to=tmp_path)


def test_a_dry_run_says_what_an_addition_takes(model, stored):
    """Rows and bytes are exact, since the stored lengths are known; nothing is written."""
    before = files(stored)
    estimate = lc.extract(model, None, sites="mlp_act_1", add_to=stored, dry_run=True)
    tokens = sum(map(len, DATA))
    assert (estimate.examples, estimate.tokens) == (60, tokens)
    assert [site.nbytes for site in estimate.sites] == [tokens * 64 * 4]
    assert files(stored) == before


def test_two_additions_of_one_site_do_not_both_count(model, stored):
    """The one that commits last hears of the other; every row has its value once."""
    other = copy.deepcopy(model)
    calls = []

    def meanwhile(rows):
        calls.append(1)
        if len(calls) == 3:
            lc.extract(other, None, sites="embed", add_to=stored)
        return rows

    with pytest.raises(CommitConflictError, match="just added site 'embed' to the same rows"):
        lc.extract(model, None, sites="embed", add_to=stored, transform={"embed": meanwhile})
    cache = lc.open(stored)
    assert cache.snapshot.covered("embed") == cache.snapshot.rows("tokens")
