"""Examples that are not recorded at all."""

import capture_helpers as h
import numpy as np
import pytest
import torch

from lazycache.errors import CaptureError

IDS = h.ids(3, 4)
MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [0, 0, 1, 1]])


@pytest.fixture
def sink():
    return h.ListSink()


def test_examples_that_are_left_out_have_no_row(sink):
    """Neither in a table nor in a site, of tokens or examples; the others keep their identity."""
    model = h.make("bert-base")
    record = h.recorder(model, ["resid_out_0", "pooler"], sink, where=lambda _: [True, False, True])
    with record, torch.no_grad():
        record.annotate(label=["a", "b", "c"])
        out = model(IDS, attention_mask=MASK, output_hidden_states=True)
    keep = MASK == 1
    keep[1] = False
    assert torch.equal(sink.values("resid_out_0"), out.hidden_states[1][keep])
    assert torch.equal(sink.values("pooler:out"), out.pooler_output[[0, 2]])
    assert sink.column("tokens", "example") == [0, 0, 0, 2, 2]
    assert sink.column("tokens", "position") == [0, 1, 2, 0, 1]
    assert sink.column("examples", "example") == [0, 2]
    assert sink.column("examples", "label") == ["a", "c"]
    assert sink.column("examples", "length") == [3, 2]
    assert (record.passes.examples, record.passes.rows, record.next_example) == (2, 5, 3)


def test_the_function_sees_inputs_ids_and_columns(sink):
    """The inputs of the model by name, the ids that the examples have, and what was annotated."""
    model, seen = h.make("llama"), []

    def where(batch):
        seen.append(batch)
        return torch.tensor([True, True, False])

    with h.recorder(model, "embed", sink, where=where, columns={"split": "x"}) as record:
        record.annotate(example=[7, 5, 9], label=[1, 2, 3])
        model(IDS, attention_mask=MASK)
        model(IDS)
    assert torch.equal(seen[0]["input_ids"], IDS)
    assert torch.equal(seen[0]["attention_mask"], MASK)
    assert seen[0]["example"] == [7, 5, 9]
    assert (seen[0]["label"], seen[0]["split"]) == ([1, 2, 3], ["x"] * 3)
    assert seen[1]["example"] == [8, 9, 10]
    assert sink.column("examples", "example") == [7, 5, 8, 9]


@pytest.mark.parametrize(
    "answer", [True, np.True_, [True] * 3, np.ones(3, bool), torch.tensor(True)]
)
def test_one_answer_may_be_for_all(sink, answer):
    """A bool speaks for the whole batch."""
    model = h.make("gpt2")
    with h.recorder(model, "embed", sink, where=lambda _: answer):
        model(IDS)
    assert sink.column("examples", "example") == [0, 1, 2]


def test_a_batch_that_is_left_out_is_not_written(sink):
    """It is no failure: the forward pass counts, its ids are gone, the sink sees nothing."""
    model = h.make("gpt2")
    with h.recorder(model, "embed", sink, where=lambda batch: batch["example"][0] > 2) as record:
        model(IDS)
        model(IDS)
    assert len(sink.batches) == 1
    assert sink.column("examples", "example") == [3, 4, 5]
    assert (record.passes.forwards, record.passes.dropped, record.passes.examples) == (2, 0, 3)


def test_positions_need_not_fit_examples_that_are_left_out(sink):
    """An example that is too short for a position may be left out for that."""
    model = h.make("gpt2")
    options = {"positions": [3], "where": lambda batch: batch["attention_mask"].sum(1) == 4}
    with h.recorder(model, "embed", sink, **options):
        model(IDS, attention_mask=MASK)
    assert sink.column("tokens", "example") == [1]


def test_gradients_of_examples_that_are_left_out(sink):
    """A pass of which nothing is kept waits for no gradient; of another the kept rows come."""
    model = h.make("gpt2")
    options = {"where": lambda batch: [batch["example"][0] == 0, False, False]}
    with h.recorder(model, "resid_out_0:grad", sink, **options) as record:
        model(IDS).logits.sum().backward()
        model(IDS)
    assert (record.passes.forwards, len(sink.batches)) == (2, 1)
    assert sink.values("resid_out_0:grad").shape == (4, h.HIDDEN)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (None, "where returned NoneType"),
        ([True], "where returned list .*or 3 of them"),
        ([1, 0, 1], "True or False is needed"),
        (torch.ones(3), "where returned Tensor"),
        (torch.ones(3, 1).bool(), r"Tensor \[3, 1\]"),
        ("yes", "where returned str 'yes'"),
    ],
)
def test_other_answers_stop_before_the_model_runs(sink, answer, says):
    """Numbers are no truths, and there is one for each example."""
    record = h.recorder(h.make("gpt2"), "embed", sink, where=lambda _: answer)
    with pytest.raises(CaptureError, match=says), record:
        record._model(IDS)
    assert sink.batches == []


def test_what_cannot_be_asked_is_refused_at_construction(sink):
    """A column name is no function."""
    with pytest.raises(CaptureError, match="where='label' cannot be called"):
        h.recorder(h.make("gpt2"), "embed", sink, where="label")
