"""The front door: capture, open and extract work together, and mistakes are caught early."""

import copy
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel

import lazycache as lc
from lazycache.errors import (
    CommitConflictError,
    CorruptShardError,
    FormatVersionError,
    UnsupportedDtypeError,
)


@pytest.fixture(scope="module")
def model():
    """A small GPT-2 with random weights."""
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(
            n_layer=2,
            n_head=2,
            n_embd=16,
            vocab_size=50,
            n_positions=32,
            bos_token_id=0,
            eos_token_id=0,
        )
    ).eval()


CORPUS = [[1, 2, 3], [4, 5, 6, 7, 8], [9], [10, 11, 12, 13]]


def hooks(model):
    """How many hooks are on a model: transformers leaves some of its own."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_extract_gives_each_example_at_its_index_whatever_the_batches_were(model, tmp_path):
    """`x[i]` is the i-th input and equals an unpadded forward pass of it, to rounding."""
    cache = lc.extract(model, CORPUS, tmp_path, ["resid_out_1", "logits"], batch_size=2)
    x = cache["resid_out_1"]
    assert x.shape == (4, 5, 16)
    assert x.lengths.tolist() == [3, 5, 1, 4]
    for i, ids in enumerate(CORPUS):
        with torch.no_grad():
            alone = model(torch.tensor([ids]), output_hidden_states=True)
        torch.testing.assert_close(cache["logits"][i].load(), alone.logits[0])
    found = cache.sql("SELECT example, position, token_id FROM tokens ORDER BY 1, 2").fetchall()
    assert found == [(i, j, t) for i, ids in enumerate(CORPUS) for j, t in enumerate(ids)]


def test_extract_again_adds_nothing_and_a_longer_corpus_adds_the_rest(model, tmp_path):
    """Committed examples are skipped; the dataset holds every example once."""
    first = lc.extract(model, CORPUS[:3], tmp_path, "embed")
    again = lc.extract(model, CORPUS[:3], tmp_path, "embed")
    assert again.snapshot.version == first.snapshot.version == 1
    longer = lc.extract(model, CORPUS, tmp_path, "embed")
    assert longer["embed"].lengths.tolist() == [3, 5, 1, 4]
    assert torch.equal(longer["embed"][:3].rows.load(), first["embed"].rows.load())


def test_a_sized_iterable_of_mappings_is_a_corpus(model, tmp_path):
    """What looks like a `datasets.Dataset` (sized, iterable, dicts with lists) is taken as one."""

    class Rows:
        column_names = ("input_ids", "attention_mask", "label")

        def __len__(self):
            return len(CORPUS)

        def __iter__(self):
            for i, ids in enumerate(CORPUS):
                padded = ids + [0] * (8 - len(ids))
                mask = [1] * len(ids) + [0] * (8 - len(ids))
                yield {"input_ids": padded, "attention_mask": mask, "label": i % 2}

    cache = lc.extract(model, Rows(), tmp_path, "embed")
    assert cache["embed"].lengths.tolist() == [3, 5, 1, 4]
    found = cache.sql("SELECT label FROM examples ORDER BY example").fetchall()
    assert found == [(0,), (1,), (0,), (1,)]


def test_extract_stores_columns_and_counts_on_in_another_run(model, tmp_path):
    """User columns are in `examples`; the counted ids of a second run follow the first's."""
    data = [{"input_ids": [1, 2], "label": "a"}, {"input_ids": [3], "label": "b"}]
    lc.extract(model, data, tmp_path, "embed")
    cache = lc.extract(model, [[4, 5, 6]], tmp_path, "embed", run="second")
    found = cache.sql("SELECT run, example, length, label FROM examples ORDER BY row").fetchall()
    assert sorted(found) == [("main", 0, 2, "a"), ("main", 1, 1, "b"), ("second", 2, 3, None)]
    assert cache["embed"].lengths.tolist() == [2, 1, 3]


def test_capture_commits_when_the_block_raises_and_takes_its_hooks_away(model, tmp_path):
    """An error inside the block is raised again; whole forward passes before it are stored."""
    before = hooks(model)
    with pytest.raises(KeyError, match="mine"), lc.capture(model, tmp_path, "resid_out_*"):
        model(torch.tensor([[1, 2, 3]]))
        raise KeyError("mine")
    assert lc.open(tmp_path).snapshot.rows("tokens") == 3
    assert hooks(model) == before


def test_commit_makes_rows_visible_while_the_capture_runs(model, tmp_path):
    """`run.commit()` returns the version under which a reader sees the rows."""
    with lc.capture(model, tmp_path, "embed") as run:
        model(torch.tensor([[1, 2, 3]]))
        assert run.commit() == 1
        model(torch.tensor([[4, 5]]))
        assert lc.open(tmp_path).snapshot.rows("tokens") == 3
    assert lc.open(tmp_path).snapshot.rows("tokens") == 5
    assert lc.open(tmp_path, snapshot=1).snapshot.rows("tokens") == 3
    with pytest.raises(lc.errors.SelectionError, match="0 to 2"):
        lc.open(tmp_path, snapshot=3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_values_are_stored_bit_for_bit_in_the_dtype_of_the_model(tmp_path, dtype):
    """What a hook sees is what `load` returns, in every floating dtype."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(8, 8)).to(dtype)
    inputs = torch.randn(5, 8).to(dtype)
    with torch.no_grad(), lc.capture(net, tmp_path, "0"):
        wanted = net(inputs)
    stored = lc.open(tmp_path)["0:out"].load()
    assert stored.dtype == dtype
    assert torch.equal(stored, wanted)


def test_a_capture_of_an_image_model_has_a_row_per_example(tmp_path):
    """A CNN has no tokens: its sites are columns of `examples`."""
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 4))
    images = torch.arange(3 * 64.0).reshape(3, 1, 8, 8)
    with torch.no_grad(), lc.capture(net, tmp_path, ["0", "3"]) as run:
        run.annotate(label=["x", "y", "z"])
        wanted = net(images)
    cache = lc.open(tmp_path)
    assert cache["0:out"].shape == (3, 2, 6, 6)
    assert torch.equal(cache["3:out"].load(), wanted)
    query = "SELECT label, unit(\"3:out\", 2) FROM examples WHERE label = 'y'"
    assert cache.sql(query).fetchall() == [("y", wanted[1, 2].item())]


def test_datasets_live_in_memory_too(model):
    """`memory://` holds a dataset like a folder does."""
    cache = lc.extract(model, CORPUS, "memory://front-door", "resid_out_*")
    assert list(cache) == ["resid_out_0", "resid_out_1"]
    count = lc.open("memory://front-door").sql("SELECT count(*) FROM tokens").fetchone()
    assert count == (13,)


def test_rows_that_a_predicate_removes_are_not_read(model, tmp_path):
    """`cache.io` counts exactly the rows and bytes of the unit that survive the predicate."""
    cache = lc.extract(model, CORPUS, tmp_path, ["mlp_act_1"])
    cache.io.reset()
    found = cache.sql("SELECT unit(mlp_act_1, 7) FROM tokens WHERE position = 0").fetchall()
    assert len(found) == 4
    assert (cache.io.rows, cache.io.bytes) == (4, 4 * 4)
    cache.io.reset()
    assert cache.sql("SELECT count(*), max(position) FROM tokens").fetchone() == (13, 4)
    assert cache.io.rows == cache.io.bytes == cache.io.requests == 0


def test_plain_parquet_readers_read_every_file_and_agree(model, tmp_path):
    """pyarrow, DuckDB and Polars read each file of a dataset by path and agree with it."""
    texts = [{"input_ids": ids, "label": f"l{i}"} for i, ids in enumerate(CORPUS)]
    cache = lc.extract(model, texts, tmp_path, ["embed", "mlp_act_1"], chunk_rows=4, batch_size=2)
    paths = sorted(str(p) for p in tmp_path.rglob("*.parquet"))
    assert len(paths) == 4
    for path in paths:
        arrow = pq.read_table(path, page_checksum_verification=True)
        with duckdb.connect() as plain:
            by_duckdb = plain.sql("FROM read_parquet($path)", params={"path": path}).fetchall()
        by_polars = pl.read_parquet(path).rows()
        assert by_duckdb == by_polars == list(zip(*arrow.to_pydict().values(), strict=True))
        site = Path(path).parent.name
        if site in cache:
            raw = b"".join(arrow["value"].to_pylist())
            stored = torch.frombuffer(bytearray(raw), dtype=torch.float32).reshape(13, -1)
            assert torch.equal(stored, cache[site].rows.load())
        else:
            names = ", ".join(arrow.column_names)
            assert by_duckdb == cache.sql(f"SELECT {names} FROM {site} ORDER BY row").fetchall()


FORK = """
import json, os, sys, torch, lazycache as lc
import lazycache.capture.passes, lazycache.query.sql.connection, lazycache.writer.writer

ready, go = os.pipe(), os.pipe()

def together():
    os.write(ready[1], b"x")
    os.read(go[0], 1)

{work}

children = []
for number in range(3):
    children.append(os.fork())
    if children[-1] == 0:
        work(number)
        os._exit(0)
for _ in children:
    os.read(ready[0], 1)
os.write(go[1], b"xxx")
sys.exit(any([os.waitpid(child, 0)[1] for child in children]))
"""


def in_three_processes(work):
    """Do `work(number)` in three processes that were forked from one; return what they print.

    They wait for each other in `together()`.
    """
    command = [sys.executable, "-c", FORK.format(work=textwrap.dedent(work))]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, timeout=60)
    return done.stdout.splitlines()


def test_several_processes_query_one_dataset_at_once(model, tmp_path):
    """The index is shared by processes that read at the same time."""
    lc.extract(model, CORPUS, tmp_path, "embed")
    answers = in_three_processes(f"""
        def work(number):
            together()
            query = "SELECT sum(unit(embed, 3)) FROM tokens"
            found = json.dumps(lc.open({str(tmp_path)!r}).sql(query).fetchall())
            os.write(1, (found + "\\n").encode())
    """)
    assert len(answers) == 3
    assert len(set(answers)) == 1
    total = json.loads(answers[0])[0][0]
    assert np.isclose(total, lc.open(tmp_path)["embed"].rows[:, 3].load().sum().item())


def test_an_unknown_site_names_the_nearest_and_writes_nothing(model, tmp_path):
    """A typo in a site is an error before the folder is touched."""
    with pytest.raises(lc.SiteNotFoundError, match="resid_out_1"):
        lc.capture(model, tmp_path / "new", "resid_ot_1")
    with pytest.raises(lc.SiteNotFoundError, match="layers 0 to 1"):
        lc.extract(model, CORPUS, tmp_path / "new", "resid_out_7")
    assert not (tmp_path / "new").exists()


def test_a_site_that_the_model_lacks_is_explained(tmp_path):
    """An encoder has no logits, and the error says so."""
    config = BertConfig(
        num_hidden_layers=1,
        hidden_size=8,
        num_attention_heads=2,
        intermediate_size=8,
        vocab_size=20,
    )
    with pytest.raises(lc.SiteNotFoundError, match="BertModel"):
        lc.capture(BertModel(config), tmp_path / "new", "logits")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [([], "empty"), (iter(()), "empty"), ([[]], "no tokens"), ("text", "list of texts")],
)
def test_a_corpus_without_content_is_refused_before_anything_is_written(
    model, tmp_path, data, message
):
    """An empty corpus, an example without tokens and a bare string are errors at once."""
    with pytest.raises(lc.CaptureError, match=message):
        lc.extract(model, data, tmp_path / "new", "embed")
    assert not (tmp_path / "new").exists()


def test_an_example_without_tokens_later_keeps_what_was_committed(model, tmp_path):
    """A bad example in the middle of a stream is named; earlier batches are stored."""
    data = [[1, 2]] * 300 + [[]]
    with pytest.raises(lc.CaptureError, match="Item 300"):
        lc.extract(model, data, tmp_path, "embed", batch_size=2)
    cache = lc.open(tmp_path)
    assert cache.snapshot.rows("examples") > 0
    assert cache["embed"].lengths.tolist() == [2] * cache.snapshot.rows("examples")


def test_a_dtype_that_cannot_be_stored_is_named(tmp_path):
    """Complex values are refused with what can be stored; nothing is committed."""

    class Complex(nn.Module):
        def forward(self, x):
            return torch.complex(x, x)

    net = nn.Sequential(Complex())
    with pytest.raises(UnsupportedDtypeError, match=r"complex64.*"), lc.capture(net, tmp_path, "0"):
        net(torch.ones(2, 3))
    assert lc.open(tmp_path).snapshot.version == 0


def test_an_existing_dataset_is_not_touched_unless_asked(model, tmp_path):
    """A second capture is refused, appends with resume, replaces with overwrite."""
    lc.extract(model, CORPUS, tmp_path, "embed")
    before = files(tmp_path)
    with pytest.raises(lc.DatasetExistsError, match="resume=True"):
        lc.capture(model, tmp_path, "embed")
    with pytest.raises(lc.DatasetExistsError, match="13 tokens"):
        lc.extract(model, CORPUS, tmp_path, "embed", resume=False)
    assert files(tmp_path) == before
    cache = lc.extract(model, CORPUS[:1], tmp_path, "resid_out_0", overwrite=True)
    assert list(cache) == ["resid_out_0"]
    assert len(files(tmp_path)) == 5


def test_a_folder_with_other_files_is_refused_and_kept(model, tmp_path):
    """Neither capture nor overwrite touches a folder that holds something else."""
    (tmp_path / "thesis.tex").write_text("x")
    for options in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(lc.DatasetExistsError, match=r"thesis\.tex"):
            lc.capture(model, tmp_path, "embed", **options)
    with pytest.raises(lc.DatasetNotFoundError, match=r"thesis\.tex"):
        lc.open(tmp_path)
    assert files(tmp_path) == ["thesis.tex"]


def test_a_run_is_continued_only_as_it_was_captured(model, tmp_path):
    """Other sites or positions under the same run name are refused with the difference."""
    lc.extract(model, CORPUS, tmp_path, "embed")
    with pytest.raises(lc.CaptureError, match=r"sites.*resid_out_0"):
        lc.extract(model, CORPUS, tmp_path, ["embed", "resid_out_0"])
    with pytest.raises(lc.CaptureError, match="positions was all, is last"):
        lc.extract(model, CORPUS, tmp_path, "embed", positions="last")
    torch.manual_seed(0)
    other = GPT2LMHeadModel(GPT2Config(**{**model.config.to_dict(), "n_head": 4}))
    with pytest.raises(lc.CaptureError, match=r"config\.n_head was 2, is 4"):
        lc.extract(other, CORPUS, tmp_path, "embed")
    assert lc.open(tmp_path).snapshot.version == 1


def test_another_corpus_under_the_same_ids_is_refused(model, tmp_path):
    """Extract never answers a new corpus with the activations of an old one."""
    lc.extract(model, CORPUS, tmp_path, "embed")
    with pytest.raises(lc.CaptureError, match=r"Example 1 .*tokens differ"):
        lc.extract(model, [CORPUS[0], [7, 7, 7]], tmp_path, "embed")
    assert lc.open(tmp_path).snapshot.version == 1


def test_other_weights_do_not_continue_a_run(model, tmp_path):
    """A model of equal configuration with other weights is another model."""
    lc.extract(model, CORPUS[:2], tmp_path, "embed")
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.transformer.wte.weight.mul_(2)
    with pytest.raises(lc.CaptureError, match="weights"):
        lc.extract(other, CORPUS, tmp_path, "embed")


def test_a_resumed_extract_equals_an_uninterrupted_one(model, tmp_path):
    """What is left after an interruption runs in the batches that it would have run in."""
    data = [[1 + i % 40] * (1 + i % 7) for i in range(60)]

    def failing():
        yield from data[:30]
        raise OSError("the disk with the corpus is gone")

    with pytest.raises(OSError, match="corpus is gone"):
        lc.extract(model, failing(), tmp_path / "a", "resid_out_1", batch_size=4)
    assert lc.open(tmp_path / "a").snapshot.rows("examples") == 30
    resumed = lc.extract(model, data, tmp_path / "a", "resid_out_1", batch_size=4)
    whole = lc.extract(model, data, tmp_path / "b", "resid_out_1", batch_size=4)
    assert resumed.snapshot.rows("examples") == 60
    assert resumed["resid_out_1"].lengths.tolist() == whole["resid_out_1"].lengths.tolist()
    torch.testing.assert_close(resumed["resid_out_1"].padded(), whole["resid_out_1"].padded())


def test_a_kill_and_resume_with_one_corpus_gives_equal_bits(model, tmp_path):
    """Interrupted between batches and resumed over the same corpus, every bit is the same."""
    data = [[1 + i % 40] * (1 + i % 7) for i in range(60)]

    class StopError(Exception):
        pass

    calls = []

    def stop_at_six(*_):
        calls.append(1)
        if len(calls) > 6:
            raise StopError

    hook = model.register_forward_pre_hook(stop_at_six)
    with pytest.raises(StopError):
        lc.extract(model, data, tmp_path / "a", "resid_out_1", batch_size=4)
    hook.remove()
    assert lc.open(tmp_path / "a").snapshot.rows("examples") == 24
    resumed = lc.extract(model, data, tmp_path / "a", "resid_out_1", batch_size=4)
    whole = lc.extract(model, data, tmp_path / "b", "resid_out_1", batch_size=4)
    assert torch.equal(resumed["resid_out_1"].padded(), whole["resid_out_1"].padded())


def test_overwrite_keeps_the_old_dataset_until_there_is_something_new(model, tmp_path):
    """A capture that fails before its first batch has not removed what it was to replace."""
    lc.extract(model, CORPUS, tmp_path, "embed")
    before = files(tmp_path)
    for bad in ({"dtype": "int8"}, {"columns": {"length": 1}}, {"tokenizer": object()}):
        with (
            pytest.raises(lc.CaptureError),
            lc.capture(model, tmp_path, "embed", overwrite=True, **bad),
        ):
            model(torch.tensor([[1, 2]]))
    with pytest.raises(KeyError), lc.capture(model, tmp_path, "embed", overwrite=True):
        raise KeyError
    assert files(tmp_path) == before


@pytest.mark.parametrize("name", ["", "a\nb", 5, None, "x" * 501])
def test_a_bad_run_name_is_refused_at_once(model, tmp_path, name):
    """A name that the log would refuse is refused before anything runs."""
    with pytest.raises(lc.CaptureError, match="run="):
        lc.capture(model, tmp_path / "new", "embed", run=name)
    assert not (tmp_path / "new").exists()


def test_whole_numbers_of_a_column_may_become_fractions(model, tmp_path):
    """A column that begins with integers takes floats later; both are exact."""
    data = [{"input_ids": [1], "score": 1}, {"input_ids": [2], "score": 0.5}]
    cache = lc.extract(model, data, tmp_path, "embed", batch_size=1)
    assert cache.sql("SELECT score FROM examples ORDER BY example").fetchall() == [(1.0,), (0.5,)]


def test_two_writers_of_one_run_do_not_merge_their_examples(model, tmp_path):
    """The second to commit the same ids hears of it; the first one's rows are as they were."""
    first = lc.capture(model, tmp_path, "embed", resume=True)
    second = lc.capture(model, tmp_path, "embed", resume=True)
    with pytest.raises(CommitConflictError, match="run='name'"), second:
        with first:
            model(torch.tensor([[1, 2, 3]]))
            model(torch.tensor([[4]]))
    cache = lc.open(tmp_path)
    assert cache["embed"].lengths.tolist() == [3, 1]


def test_a_capture_sees_what_was_committed_after_it_was_made(model, tmp_path):
    """Ids count on from the dataset as it is when the block is entered."""
    made_early = lc.capture(model, tmp_path, "embed", resume=True)
    with lc.capture(model, tmp_path, "embed", resume=True):
        model(torch.tensor([[1, 2]]))
    with made_early:
        model(torch.tensor([[3]]))
    assert lc.open(tmp_path)["embed"].lengths.tolist() == [2, 1]
    with pytest.raises(lc.CaptureError, match="once"), made_early:
        pytest.fail("a capture is entered once")


def test_processes_that_start_together_share_one_new_dataset(tmp_path):
    """Of several processes that find no dataset one makes it, and all of them write to it."""
    in_three_processes(f"""
        def work(number):
            model = torch.nn.Sequential(torch.nn.Embedding(10, 4))
            url = {str(tmp_path / "acts")!r}
            run = lc.capture(model, url, "0", run=f"r{{number}}", resume=True)
            together()
            with run:
                for _ in range(5):
                    model(torch.tensor([[1, 2, 3]]))
    """)
    cache = lc.open(tmp_path / "acts")
    found = cache.sql("SELECT run, count(*) FROM tokens GROUP BY run ORDER BY run").fetchall()
    assert found == [("r0", 15), ("r1", 15), ("r2", 15)]
    assert cache["0:out"].shape == (15, 3, 4)


def test_a_folder_with_hidden_files_only_is_as_good_as_empty(model, tmp_path):
    """What desktops and notebooks leave behind does not keep a dataset away."""
    (tmp_path / ".DS_Store").write_text("x")
    lc.extract(model, CORPUS, tmp_path, "embed")
    lc.extract(model, CORPUS[:1], tmp_path, "embed", overwrite=True)
    assert (tmp_path / ".DS_Store").exists()


def test_a_block_that_records_nothing_says_so(model, tmp_path):
    """A block in which the model was never called is an error; one that resumes is not."""
    with pytest.raises(lc.CaptureError, match=r"[Nn]othing was recorded"):
        with lc.capture(model, tmp_path / "a", "embed"):
            pass
    with lc.capture(model, tmp_path / "a", "embed", resume=True):
        pass
    assert lc.open(tmp_path / "a").snapshot.version == 0


def test_examples_without_a_kept_token_keep_their_place(model, tmp_path):
    """`x[i]` is the i-th input, also where no token of some inputs was selected."""
    cache = lc.extract(model, CORPUS, tmp_path, "embed", positions=slice(3, None))
    x = cache["embed"]
    assert x.shape == (4, 2, 16)
    assert x.lengths.tolist() == [0, 2, 0, 1]
    found = cache.sql("SELECT example, length FROM examples ORDER BY example").fetchall()
    assert found == [(0, 3), (1, 5), (2, 1), (3, 4)]
    assert x[2].load().shape == (0, 16)


def test_annotate_outside_of_the_block_says_so(model, tmp_path):
    """What belongs into the block is refused outside of it; nothing is committed by asking."""
    run = lc.capture(model, tmp_path / "new", "embed")
    with pytest.raises(lc.CaptureError, match="with block"):
        run.annotate(label=["x"])
    assert run.commit() == 0
    assert run.progress.rows == 0


def test_a_site_keeps_its_dtype_in_the_whole_dataset(model, tmp_path):
    """Another run with another dtype of the same site is refused; what is there stays."""
    lc.extract(model, CORPUS, tmp_path, "embed")
    with pytest.raises(lc.CaptureError, match=r"embed.*bfloat16"):
        lc.extract(model, CORPUS, tmp_path, "embed", run="half", dtype="bfloat16")
    cache = lc.open(tmp_path)
    assert cache.snapshot.rows("tokens") == 13
    assert cache["embed"].dtype == torch.float32


def test_a_repeated_example_id_is_refused(model, tmp_path):
    """Ids are unique within a run, also against what an earlier capture committed."""
    with lc.capture(model, tmp_path, "embed") as run:
        run.annotate(example=[7])
        model(torch.tensor([[1, 2]]))
        with pytest.raises(lc.CaptureError, match="7"):
            run.annotate(example=[7])
    with lc.capture(model, tmp_path, "embed", resume=True) as run:
        with pytest.raises(lc.CaptureError, match="7"):
            run.annotate(example=[7])
        model(torch.tensor([[3]]))
    found = lc.open(tmp_path).sql("SELECT example FROM examples ORDER BY row").fetchall()
    assert found == [(7,), (8,)]


def test_a_read_only_place_is_named_before_the_model_runs(model, read_only_disk):
    """A folder that cannot be written is an error when the block is entered."""
    refused = pytest.raises(lc.errors.StorageError, match="disk")
    with refused, lc.capture(model, read_only_disk, "embed"):
        pytest.fail("the block must not be entered")


def test_a_full_disk_is_a_clear_error_and_keeps_what_was_committed(model, small_disk):
    """When the disk is full the caller hears of it; committed rows stay exact."""
    url = small_disk / "acts"
    batch = torch.arange(32).repeat(40, 1)
    before = hooks(model)
    full = pytest.raises(lc.errors.StorageError, match=r"[Nn]o space|full")
    with torch.no_grad(), full as raised:
        with lc.capture(model, url, "logits", queue_bytes=1 << 20) as run:
            model(batch)
            run.commit()
            for _ in range(200):
                model(batch)
    assert isinstance(raised.value, OSError)
    cache = lc.open(url, check=True)
    assert cache.snapshot.rows("tokens") >= batch.numel()
    with torch.no_grad():
        wanted = model(batch).logits.flatten(0, 1)
    assert torch.equal(cache["logits"].rows[: len(wanted)].load(), wanted)
    assert hooks(model) == before


def test_a_file_or_a_missing_folder_is_not_a_dataset(tmp_path):
    """Opening nothing, or a file, says what is there."""
    with pytest.raises(lc.DatasetNotFoundError, match="nothing is there"):
        lc.open(tmp_path / "nowhere")
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises((lc.DatasetNotFoundError, lc.errors.StorageError), match=r"file\.txt"):
        lc.open(tmp_path / "file.txt")


def test_a_newer_format_is_refused_with_advice(model, tmp_path):
    """A dataset of a newer format says which version reads it."""
    lc.extract(model, CORPUS, tmp_path, "embed")
    identity = tmp_path / "lazycache.json"
    identity.write_text(identity.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(FormatVersionError, match="Upgrade lazycache"):
        lc.open(tmp_path)
    with pytest.raises(FormatVersionError):
        lc.extract(model, CORPUS, tmp_path, "embed")


def test_a_truncated_shard_is_named_and_the_other_sites_stay_readable(model, tmp_path):
    """A shard that lost bytes is an error that names it; other sites are not affected."""
    cache = lc.extract(model, CORPUS, tmp_path, ["embed", "resid_out_0"])
    shard = next((tmp_path / "data" / "embed").iterdir())
    shard.write_bytes(shard.read_bytes()[:-100])
    cache = lc.open(tmp_path)
    with pytest.raises(CorruptShardError, match=shard.name):
        cache["embed"].rows.load()
    with pytest.raises(CorruptShardError, match=shard.name):
        cache.sql("SELECT max(unit(embed, 0)) FROM tokens").fetchall()
    assert cache["resid_out_0"].rows.load().shape == (13, 16)


def test_a_flipped_bit_is_found_when_checking_is_asked_for(model, tmp_path):
    """With `check=True` a changed byte of the values is an error naming the shard."""
    lc.extract(model, CORPUS, tmp_path, "embed")
    shard = next((tmp_path / "data" / "embed").iterdir())
    chunk = lc.open(tmp_path).snapshot.shards("embed")[0].ref.chunks[0]
    content = bytearray(shard.read_bytes())
    content[chunk.value_offset + 5] ^= 1
    shard.write_bytes(content)
    with pytest.raises(CorruptShardError, match=shard.name):
        lc.open(tmp_path, check=True)["embed"][0].load()


@pytest.mark.parametrize(
    "sizes", [{"queue_bytes": 0}, {"chunk_rows": -1}, {"shard_bytes": 0}, {"commit_seconds": 0}]
)
def test_a_size_that_is_not_positive_is_refused(model, tmp_path, sizes):
    """Sizes are checked before anything is written."""
    with pytest.raises(lc.CaptureError, match=next(iter(sizes))):
        lc.capture(model, tmp_path / "new", "embed", **sizes)
    assert not (tmp_path / "new").exists()


def test_head_out_of_a_weight_that_is_not_there_is_refused_before_anything_is_lost(model, tmp_path):
    """Its matrix cannot be read from a quantised or offloaded layer: the old dataset stays."""
    with lc.capture(model, tmp_path, "z_0"), torch.no_grad():
        model(torch.ones(1, 2, dtype=torch.long))
    other = copy.deepcopy(model)
    other.transformer.h[1].attn.c_proj.to("meta")
    with pytest.raises(lc.CaptureError, match="not loaded"):
        lc.capture(other, tmp_path, "*", overwrite=True)
    assert list(lc.open(tmp_path)) == ["z_0"]


def test_head_out_of_a_model_that_is_trained_meanwhile_is_refused(model, tmp_path):
    """One matrix is kept per run: rows of another one would be computed wrongly on read."""
    weight = model.transformer.h[0].attn.c_proj.weight
    with pytest.raises(lc.CaptureError, match=r"c_proj.*changed.*head_out_0"):
        with lc.capture(model, tmp_path, ["head_out_0", "attn_out_0"]), torch.no_grad():
            model(torch.ones(1, 3, dtype=torch.long))
            weight.mul_(2)
            model(torch.ones(1, 4, dtype=torch.long))
    cache = lc.open(tmp_path)
    assert [int(n) for n in cache["attn_out_0"].lengths] == [3]
