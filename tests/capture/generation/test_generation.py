"""A generation is stored as one forward pass over the finished sequences would be."""

import threading

import numpy as np
import pytest
import torch
from capture_helpers import ListSink, ids, recorder
from generation_helpers import (
    Stop,
    by_hand,
    check,
    forward,
    generate,
    left_padded,
    read_tokens,
    strong,
)
from torch import nn
from transformers import MixtralConfig, MixtralForCausalLM, StoppingCriteriaList

from lazycache.errors import CaptureError

SITES = ["embed", "resid_out_*", "mlp_act_1", "logits"]
LENGTHS = (6, 4, 1)

WAYS = {
    "greedy": {},
    "sampling": {"do_sample": True, "temperature": 2.0},
    "without a cache": {"use_cache": False},
    "static cache": {"cache_implementation": "static"},
    "chunked prompt": {"prefill_chunk_size": 2},
    "returning more": {"return_dict_in_generate": True, "output_hidden_states": True},
}


@pytest.mark.parametrize("name", ["gpt2", "llama", "mistral", "qwen3"])
@pytest.mark.parametrize("way", WAYS)
def test_it_equals_one_pass_over_the_finished_sequences(name, way):
    """Left-padded prompts of different lengths: the same rows, values equal to rounding."""
    model = strong(name)
    prompts, mask = left_padded(*LENGTHS)
    if way == "returning more":
        model(prompts, output_hidden_states=True)  # transformers puts hooks of its own, for good
    torch.manual_seed(0)
    batch, out = generate(model, SITES, prompts, mask, **WAYS[way])
    assert out.shape == (3, 12)
    for row, length in enumerate(LENGTHS):
        tokens = read_tokens(prompts[row], mask[row], out[row])
        assert len(tokens) == length + 5
        check(model, batch, row, tokens, length)
    assert batch.tables["examples"].columns["length"].tolist() == [11, 9, 6]
    assert len(batch.tables["tokens"].columns["step"]) == 26


@pytest.mark.parametrize("use_cache", [True, False])
def test_what_is_fed_after_the_end_of_an_example_is_no_row(use_cache):
    """Examples that end at different times keep their end token, and nothing of the padding."""
    model = strong("llama")
    prompts, mask = left_padded(*LENGTHS)
    _, free = generate(model, "resid_out_1", prompts, mask)
    ends = [int(free[0, 7]), int(free[1, 9])]
    batch, out = generate(model, SITES, prompts, mask, eos_token_id=ends, use_cache=use_cache)
    lengths = []
    for row, length in enumerate(LENGTHS):
        tokens = read_tokens(prompts[row], mask[row], out[row], ends=ends)
        check(model, batch, row, tokens, length)
        lengths.append(len(tokens))
    assert batch.tables["examples"].columns["length"].tolist() == lengths
    assert len(set(np.subtract(lengths, LENGTHS))) > 1, "examples end at different times"


def test_an_end_that_only_a_criterion_of_the_users_knows_is_an_end_too():
    """Padding that is the end token cannot be told by its id: the criteria are asked."""
    model, prompts = strong("llama"), ids(3, 4)
    stop = StoppingCriteriaList([Stop(6, 10, 8)])
    batch, _ = generate(
        model, "resid_out_1", prompts, stopping_criteria=stop, pad_token_id=2, eos_token_id=2
    )
    assert batch.tables["examples"].columns["length"].tolist() == [6, 9, 8]


def test_without_an_end_token_examples_go_on_until_the_last_is_done():
    """Nothing is padded then: what a finished example reads on is its own, and stays."""
    model, prompts = strong("llama"), ids(3, 4)
    stop = StoppingCriteriaList([Stop(6, 9, 8)])
    batch, out = generate(
        model, SITES, prompts, stopping_criteria=stop, eos_token_id=None, pad_token_id=None
    )
    assert out.shape == (3, 9)
    for row in range(3):
        check(model, batch, row, out[row, :-1].tolist(), 4)


def test_several_sequences_of_a_prompt_are_examples_of_their_own():
    """Columns that were given for the prompts repeat; ids count on."""
    model = strong("llama")
    prompts, mask = left_padded(4, 2)
    torch.manual_seed(0)
    batch, out = generate(
        model,
        SITES,
        prompts,
        mask,
        annotated={"label": ["a", "b"]},
        do_sample=True,
        temperature=3.0,
        num_return_sequences=3,
    )
    examples = batch.tables["examples"].columns
    assert examples["label"] == ["a", "a", "a", "b", "b", "b"]
    assert examples["example"].tolist() == [0, 1, 2, 3, 4, 5]
    assert len({tuple(row) for row in out.tolist()}) > 2
    for row in range(6):
        tokens = read_tokens(prompts[row // 3], mask[row // 3], out[row])
        check(model, batch, row, tokens, [4, 2][row // 3])


def test_ids_have_to_fit_the_sequences():
    """Ids for the prompts alone are an error that says how many are needed; nothing is stored."""
    model, sink = strong("llama"), ListSink()
    with pytest.raises(CaptureError, match="2 example ids were given for 4 examples"):
        with recorder(model, "resid_out_1", sink) as rec:
            rec.annotate(example=[5, 6])
            model.generate(ids(2, 3), num_return_sequences=2, do_sample=True, max_new_tokens=2)
    assert sink.batches == []
    batch, _ = generate(
        model,
        "resid_out_1",
        ids(2, 3),
        annotated={"example": [9, 8, 7, 6], "label": list("abcd")},
        do_sample=True,
        num_return_sequences=2,
    )
    assert batch.tables["examples"].columns["example"].tolist() == [9, 8, 7, 6]
    assert batch.tables["examples"].columns["label"] == list("abcd")


def test_a_mask_that_is_annotated_goes_before_that_of_the_call():
    """The user says which tokens of the prompts are real."""
    model, prompts = strong("llama"), ids(2, 4)
    said = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    batch, _ = generate(model, "resid_out_1", prompts, annotated={"mask": said})
    assert batch.tables["examples"].columns["length"].tolist() == [7, 9]


@pytest.mark.parametrize("way", ["dynamic", "static"])
def test_padding_that_only_the_ids_tell(way):
    """Of ids alone generate makes a mask itself; where that cannot be seen, it is asked for."""
    model = strong("llama")
    prompts, _ = left_padded(4, 2)
    if way == "dynamic":
        batch, _ = generate(model, SITES, prompts, None)
        assert batch.tables["examples"].columns["length"].tolist() == [9, 7]
        return
    sink = ListSink()
    with pytest.raises(CaptureError, match="attention_mask of the prompts"):
        with recorder(model, "resid_out_1", sink):
            model.generate(prompts, cache_implementation="static", max_new_tokens=2)
    assert sink.batches == []
    batch, _ = generate(model, SITES, ids(2, 4), None, cache_implementation="static")
    assert batch.tables["examples"].columns["length"].tolist() == [9, 9]


def test_a_prompt_of_embeddings_has_no_token_ids():
    """What was never given as ids is not made up; positions and steps are there."""
    model = strong("llama")
    embeds = model.get_input_embeddings()(ids(1, 4)).detach()
    sink = ListSink()
    with torch.no_grad(), recorder(model, "resid_out_1", sink):
        out = model.generate(inputs_embeds=embeds, max_new_tokens=3)
    columns = sink.batches[0].tables["tokens"].columns
    assert "token_id" not in columns
    assert columns["step"].tolist() == [0, 0, 0, 0, 1, 2]
    whole = forward(model, "resid_out_1", [*ids(1, 4)[0].tolist(), *out[0, :2].tolist()])
    stored = sink.batches[0].sites["resid_out_1"].values
    assert torch.allclose(stored, whole["resid_out_1"], rtol=1e-4, atol=1e-4)


POSITIONS = [
    "first",
    "last",
    "last-2",
    3,
    [0, 5, -1],
    slice(-3, None),
    slice(1, None, 2),
    lambda input_ids, mask: mask & (input_ids % 2 == 0),
]


@pytest.mark.parametrize(
    "positions", POSITIONS, ids=lambda chosen: "callable" if callable(chosen) else str(chosen)
)
def test_positions_are_those_of_the_finished_sequences(positions):
    """The last token is the last one that the model read, whatever the pass it came in."""
    model = strong("llama")
    prompts, mask = left_padded(6, 4)
    whole, _ = generate(model, SITES, prompts, mask)
    batch, _ = generate(model, SITES, prompts, mask, options={"positions": positions})
    columns, start, wanted = whole.tables["tokens"].columns, 0, []
    for length in whole.tables["examples"].columns["length"].tolist():
        rows = np.arange(start, start + length)
        if callable(positions):
            wanted += rows[columns["token_id"][rows] % 2 == 0].tolist()
        else:
            words = {"first": 0, "last": -1, "last-2": -2}
            at = words.get(positions, positions) if isinstance(positions, str) else positions
            wanted += np.sort(np.atleast_1d(rows[at])).tolist()
        start += length
    for name, values in columns.items():
        assert batch.tables["tokens"].columns[name].tolist() == values[wanted].tolist(), name
    for name, block in whole.sites.items():
        assert torch.equal(batch.sites[name].values, block.values[wanted]), name
    lengths = batch.tables["examples"].columns["length"].tolist()
    assert lengths == whole.tables["examples"].columns["length"].tolist()


def test_a_position_that_an_example_never_reached_is_an_error():
    """It is raised by generate, at its end, and nothing is stored."""
    model, sink = strong("llama"), ListSink()
    with pytest.raises(CaptureError, match="positions=20"):
        with recorder(model, "resid_out_1", sink, positions=20):
            model.generate(ids(1, 3), max_new_tokens=3)
    assert sink.batches == []


@pytest.mark.parametrize("pool", ["mean", "max"])
def test_pooling_is_over_all_kept_rows_of_the_generation(pool):
    """One row per example, of prompt and answer together, cast after it was pooled."""
    model = strong("llama")
    prompts, mask = left_padded(6, 4)
    whole, _ = generate(model, "resid_out_1", prompts, mask)
    options = {"pool": pool, "dtype": torch.float16}
    batch, _ = generate(model, "resid_out_1", prompts, mask, options=options)
    block = batch.sites["resid_out_1"]
    assert block.table == "examples"
    rows = whole.sites["resid_out_1"].values.split([11, 9])
    wanted = [part.mean(0) if pool == "mean" else part.amax(0) for part in rows]
    assert block.values.dtype == torch.float16
    assert torch.equal(block.values, torch.stack(wanted).half())


def test_what_is_done_to_rows_is_done_in_each_pass():
    """transform, units and dtype give what they give of the whole."""
    model = strong("llama")
    prompts, mask = left_padded(6, 4)
    whole, _ = generate(model, "resid_out_1", prompts, mask)
    options = {
        "transform": {"resid_out_1": lambda rows: rows * 2},
        "units": {"resid_out_1": [3, 1]},
        "dtype": torch.bfloat16,
        "positions": slice(1, None),
    }
    batch, _ = generate(model, "resid_out_1", prompts, mask, options=options)
    kept = whole.tables["tokens"].columns["position"] >= 1
    wanted = (whole.sites["resid_out_1"].values[torch.from_numpy(kept)] * 2)[:, [3, 1]]
    assert torch.equal(batch.sites["resid_out_1"].values, wanted.bfloat16())


def test_where_is_asked_once_about_the_prompts():
    """Examples that it leaves out have no row, and their sequences are generated all the same."""
    model = strong("llama")
    prompts, mask = left_padded(6, 4, 5)
    asked = []

    def where(batch):
        asked.append(batch["input_ids"].shape)
        return [label == "yes" for label in batch["label"]]

    batch, out = generate(
        model,
        SITES,
        prompts,
        mask,
        annotated={"label": ["yes", "no", "yes"]},
        options={"where": where},
    )
    assert asked == [(3, 6)]
    assert batch.tables["examples"].columns["example"].tolist() == [0, 2]
    for row in (0, 2):
        check(
            model, batch, row, read_tokens(prompts[row], mask[row], out[row]), LENGTHS[0] - row // 2
        )


def test_if_where_takes_nothing_nothing_is_stored():
    """A generation of which no example is recorded gives no batch."""
    model, sink = strong("llama"), ListSink()
    with torch.no_grad(), recorder(model, "resid_out_1", sink, where=lambda _: False) as rec:
        model.generate(ids(2, 3), max_new_tokens=3)
    assert sink.batches == []
    assert rec.passes.dropped == 0


def test_a_module_that_is_called_twice_has_rows_of_calls():
    """Calls of all passes: call 0 of the whole generation, then call 1."""
    model = strong("llama")
    model.model.layers[1].mlp.act_fn = model.model.layers[0].mlp.act_fn
    prompts, mask = left_padded(4, 2)
    batch, out = generate(model, "model.layers.0.mlp.act_fn:out@*", prompts, mask)
    [block] = batch.sites.values()
    calls = batch.tables["calls"]
    assert block.table == "calls"
    assert calls.columns["call"].tolist() == [0] * 16 + [1] * 16
    tokens = [read_tokens(prompts[row], mask[row], out[row]) for row in range(2)]
    parts = [
        next(iter(forward(model, "model.layers.0.mlp.act_fn:out@*", each).values())).chunk(2)
        for each in tokens
    ]
    wanted = torch.cat([part[call] for call in range(2) for part in parts])
    assert torch.allclose(block.values, wanted, rtol=1e-4, atol=1e-4)


def test_other_families_of_caches_work_too():
    """A mixture of experts, whose modules flatten the batch: rows by raw path and by name."""
    torch.manual_seed(0)
    size = {"num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 20}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = MixtralConfig(**size, **heads, vocab_size=50, num_local_experts=4, pad_token_id=0)
    model = MixtralForCausalLM(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(8 if weight.ndim > 1 else 1)
    prompts, mask = left_padded(4, 2)
    batch, out = generate(model, ["router_*", "resid_out_1"], prompts, mask)
    assert batch.sites["router_0"].values.shape == (16, 4)
    for row in range(2):
        check(model, batch, row, read_tokens(prompts[row], mask[row], out[row]), [4, 2][row])


def test_each_thread_has_a_generation_of_its_own():
    """Two threads that generate at once each have a generation of their own."""
    model, sink, errors = strong("llama"), ListSink(), []

    def work(length):
        try:
            with torch.no_grad():
                model.generate(ids(2, length, seed=length), max_new_tokens=4)
                by_hand(model, ids(1, length, seed=length), None, 2)
        except CaptureError as exc:
            errors.append(exc)

    with recorder(model, "resid_out_1", sink) as rec:
        threads = [threading.Thread(target=work, args=(length,)) for length in (3, 5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert errors == []
    found = sorted(batch.tables["tokens"].rows for batch in sink.batches)
    assert found == [4, 6, 2 * 6, 2 * 8]
    assert rec.passes.dropped == 0
    for batch in sink.batches:
        tokens = batch.tables["tokens"].columns
        own = tokens["token_id"][tokens["example"] == tokens["example"][0]].tolist()
        whole = forward(model, "resid_out_1", own)["resid_out_1"]
        assert torch.allclose(batch.sites["resid_out_1"].values[: len(own)], whole, atol=1e-3)


def test_a_generate_of_the_users_own_is_forward_passes():
    """A model that is not of transformers has no generation: each call is examples of its own."""

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(10, 4)

        def forward(self, input_ids):
            return self.embed(input_ids)

        def generate(self, input_ids):
            return [self(input_ids[:, : n + 1]) for n in range(3)]

    model, sink = Own(), ListSink()
    with recorder(model, "embed", sink):
        model.generate(ids(1, 3) % 10)
    assert [batch.tables["tokens"].rows for batch in sink.batches] == [1, 2, 3]
