"""Forward passes become batches of rows."""

import capture_helpers as h
import numpy as np
import pytest
import torch
from torch import nn

from lazycache.errors import CaptureError, UnsupportedDtypeError

IDS = h.ids(2, 4)
LLAMA_SITES = ["embed", "final_norm", "logits", "*_in_*", "*_out_*", "{queries,keys,values,z}_*"]


class InPlace(nn.Module):
    """Overwrites what its first layer gave."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(h.VOCAB, 4)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, input_ids):
        return self.relu(self.embed(input_ids)).zero_()


class Twice(nn.Module):
    """Calls one module twice, and another only if it is asked to."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(h.VOCAB, 4)
        self.shared = nn.Linear(4, 4)
        self.rare = nn.Linear(4, 4)

    def forward(self, input_ids, rare=False):
        x = self.shared(self.shared(self.embed(input_ids)))
        return self.rare(x) if rare else x


class Failing(nn.Module):
    """Raises after its first layer when it is told to."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(h.VOCAB, 4)
        self.error = None

    def forward(self, input_ids):
        x = self.embed(input_ids)
        if self.error is not None:
            raise self.error
        return x


@pytest.fixture
def sink():
    return h.ListSink()


def test_tables_are_filled(sink):
    """Examples are counted, positions and token ids are stored, user columns go to examples."""
    model = h.make("gpt2")
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    with h.recorder(model, "embed", sink, columns={"split": "a"}, next_example=5) as record:
        record.annotate(label=[0, 1])
        model(input_ids=IDS, attention_mask=mask)
        record.annotate(label=[2], split=["b"])
        model(IDS[:1])
    assert sink.column("tokens", "example") == [5] * 3 + [6] * 4 + [7] * 4
    assert sink.column("tokens", "position") == [0, 1, 2, 0, 1, 2, 3, 0, 1, 2, 3]
    assert sink.column("tokens", "token_id") == [*IDS[0, 1:], *IDS[1], *IDS[0]]
    assert sink.column("examples", "example") == [5, 6, 7]
    assert sink.column("examples", "length") == [3, 4, 4]
    assert sink.column("examples", "label") == [0, 1, 2]
    assert sink.column("examples", "split") == ["a", "a", "b"]
    assert (
        record.passes.forwards,
        record.passes.rows,
        record.passes.examples,
        record.next_example,
    ) == (2, 11, 3, 8)
    tokens = sink.batches[0].tables["tokens"].columns
    assert (tokens["example"].dtype, tokens["position"].dtype) == (np.int64, np.int32)
    assert tokens["token_id"].dtype == np.int64


def test_later_in_place_operations_change_nothing(sink):
    """Values are copied when the hook fires, so the model may overwrite its tensors."""
    torch.manual_seed(0)
    model = InPlace()
    with h.recorder(model, ["embed:out", "relu:out", "relu:in"], sink), torch.no_grad():
        model(IDS)
    expected = model.embed(IDS).flatten(0, 1)
    assert torch.equal(sink.values("embed:out"), expected)
    assert torch.equal(sink.values("relu:in"), expected)
    assert torch.equal(sink.values("relu:out"), expected.clamp(min=0))


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_values_are_plain_tensors_in_every_grad_mode(sink, mode):
    """What is recorded holds no graph, is contiguous and can be read as bytes."""
    model = h.make("llama")
    with h.recorder(model, LLAMA_SITES, sink), mode():
        model(IDS)
    for block in sink.batches[0].sites.values():
        assert not block.values.requires_grad
        assert block.values.is_contiguous()
        assert block.values.view(torch.uint8).numpy().nbytes == block.values.nbytes


def test_sites_do_not_share_memory(sink):
    """Two names of one tensor are stored as two."""
    model = h.make("llama")
    with h.recorder(model, ["embed", "resid_in_0"], sink):
        model(IDS)
    sites = sink.batches[0].sites
    assert sites["embed"].values.data_ptr() != sites["resid_in_0"].values.data_ptr()


def test_selected_positions_keep_their_identity(sink):
    """With a selection the rows of each example say which token they are."""
    model = h.make("llama")
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    with h.recorder(model, "logits", sink, positions="last"), torch.no_grad():
        model(IDS, attention_mask=mask)
        logits = model(IDS, attention_mask=mask).logits
    assert sink.column("tokens", "position") == [2, 3] * 2
    assert torch.equal(sink.values("logits")[:2], logits[[0, 1], [2, 3]])
    assert sink.column("examples", "length") == [3, 4] * 2


def test_an_empty_selection_has_no_rows(sink):
    """A slice that takes nothing gives examples without rows."""
    model = h.make("llama")
    with h.recorder(model, "embed", sink, positions=slice(9, 10)):
        model(IDS)
    assert sink.values("embed").shape == (0, h.HIDDEN)
    assert sink.batches[0].tables["tokens"].rows == 0
    assert sink.batches[0].tables["examples"].rows == 2


def test_embeddings_as_input_have_no_token_ids(sink):
    """A model that is given embeddings has positions, but no ids."""
    model = h.make("llama")
    with h.recorder(model, "embed", sink), torch.no_grad():
        embeds = model.model.embed_tokens(IDS)
        model(inputs_embeds=embeds)
    assert set(sink.batches[0].tables["tokens"].columns) == {"example", "position"}
    assert torch.equal(sink.values("embed"), embeds.flatten(0, 1))


def test_pooled_outputs_are_columns_of_examples(sink):
    """What has no token axis is stored once per example."""
    model = h.make("bert-base")
    with h.recorder(model, ["pooler", "resid_out_1"], sink), torch.no_grad():
        pooled = model(IDS).pooler_output
    assert sink.batches[0].sites["pooler:out"].table == "examples"
    assert torch.equal(sink.values("pooler:out"), pooled)


def test_the_models_own_output_is_a_site(sink):
    """`:out` and `:in` of the model itself are met before the batch is assembled."""
    model = nn.Sequential(nn.Linear(3, 2))
    x = torch.randn(5, 3)
    with h.recorder(model, [":in", ":out", "0"], sink):
        out = model(x)
    assert torch.equal(sink.values(":in"), x)
    assert torch.equal(sink.values(":out"), out)
    assert sink.column("examples", "example") == [0, 1, 2, 3, 4]
    assert "tokens" not in sink.batches[0].tables


def test_flattened_rows_are_tokens(sink):
    """A module that works on [batch * length, d] gives a row per kept token."""

    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.expert = nn.Embedding(h.VOCAB, 4), nn.Linear(4, 3)

        def forward(self, input_ids, attention_mask=None):  # noqa: ARG002  # for the recorder
            return self.expert(self.embed(input_ids).flatten(0, 1))

    model, mask = Flat(), torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0]])
    with h.recorder(model, "expert", sink), torch.no_grad():
        out = model(IDS, mask)
    assert torch.equal(sink.values("expert:out"), out[mask.flatten() == 1])


def test_a_mask_can_be_given(sink):
    """`annotate(mask=...)` says what padding is, for one forward pass."""
    model = nn.Sequential(nn.Embedding(h.VOCAB, 4))
    with h.recorder(model, "0", sink) as record:
        record.annotate(mask=[[1, 1, 0, 0], [0, 1, 1, 1]])
        model(IDS)
        model(IDS)
    assert sink.column("tokens", "position") == [0, 1, 0, 1, 2] + [0, 1, 2, 3] * 2


@pytest.mark.parametrize("name", ["self", "mask", "columns", "tokens seen", "class"])
def test_columns_may_have_any_name(sink, name):
    """What is no Python name, or is one of `annotate` itself, goes into `columns`."""
    model = h.make("gpt2")
    with h.recorder(model, "embed", sink) as record:
        record.annotate(columns={name: ["a", "b"]}, label=[1, 2])
        model(IDS)
        record.annotate(self=["c", "d"])
        model(IDS)
    assert sink.batches[0].tables["examples"].columns[name] == ["a", "b"]
    assert sink.batches[0].tables["examples"].columns["label"] == [1, 2]
    assert sink.batches[1].tables["examples"].columns["self"] == ["c", "d"]


def test_token_ids_are_stored_as_they_were_given(sink):
    """A model that overwrites its input does not change what is stored of it."""

    class Overwriting(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(h.VOCAB, 4)

        def forward(self, input_ids, attention_mask=None):
            x = self.embed(input_ids)
            input_ids.zero_()
            attention_mask.zero_()
            return x

    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
    model = Overwriting()
    with h.recorder(model, "embed", sink):
        model(IDS.clone(), attention_mask=mask.clone())
    assert sink.column("tokens", "token_id") == IDS[mask == 1].tolist()
    assert torch.equal(sink.values("embed:out"), model.embed(IDS)[mask == 1])


def test_a_pooled_output_as_wide_as_the_batch_is_long(sink):
    """[batch, hidden] stays a row per example when sequences happen to have that length."""
    model, ids = h.make("bert-base"), h.ids(2, h.HIDDEN)
    with h.recorder(model, "pooler", sink), torch.no_grad():
        pooled = model(ids).pooler_output
    assert sink.batches[0].sites["pooler:out"].table == "examples"
    assert torch.equal(sink.values("pooler:out"), pooled)


def test_features_with_a_mask_are_rows_per_real_frame(sink):
    """A model of features stores no padding, though it has no token ids."""

    class Frames(nn.Module):
        def __init__(self):
            super().__init__()
            self.proj = nn.Linear(3, 2)

        def forward(self, input_features, attention_mask=None):  # noqa: ARG002  # for the recorder
            return self.proj(input_features)

    model, features = Frames(), torch.randn(2, 4, 3)
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
    with h.recorder(model, "proj", sink), torch.no_grad():
        out = model(features, attention_mask=mask)
    assert torch.equal(sink.values("proj:out"), out[mask == 1])
    assert set(sink.batches[0].tables["tokens"].columns) == {"example", "position"}
    assert sink.column("examples", "length") == [2, 4]


def test_padding_of_torchs_own_encoder_is_not_stored(sink):
    """`src_key_padding_mask` is refused until the user says which tokens are real."""
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    model = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False).eval()
    x, padding = torch.randn(2, 3, 4), torch.tensor([[False, False, True], [False] * 3])
    with pytest.raises(CaptureError, match="called with src_key_padding_mask"):
        with h.recorder(model, "layers.0.norm2", sink):
            model(x, src_key_padding_mask=padding)
    with h.recorder(model, "layers.0", sink) as record, torch.no_grad():
        record.annotate(mask=~padding)
        out = model(x, src_key_padding_mask=padding)
    assert torch.equal(sink.values("layers.0:out"), out[~padding])


def test_counting_ends_with_an_error(sink):
    """Ids that no longer fit into 64 bits are refused before the model runs."""
    model = h.make("gpt2")
    record = h.recorder(model, "embed", sink)
    with pytest.raises(CaptureError, match="Example ids are at their end"), record:
        record.annotate(example=[2**63 - 2])
        model(IDS[:1])
        model(IDS[:1])
    assert sink.column("examples", "example") == [2**63 - 2]


def test_given_ids_and_counted_ids_never_meet(sink):
    """Counting goes on after the largest id that was given."""
    model = h.make("gpt2")
    with h.recorder(model, "embed", sink) as record:
        record.annotate(example=torch.tensor([7, 3]))
        model(IDS)
        model(IDS)
        record.annotate(example=[4, 5])
        model(IDS)
        with pytest.raises(CaptureError, match="Example 8 was recorded already"):
            record.annotate(example=[8, 10])
    assert sink.column("examples", "example") == [7, 3, 8, 9, 4, 5]
    assert record.next_example == 10


@pytest.mark.parametrize(
    ("annotation", "says"),
    [
        ({"example": [1]}, "1 example ids were given for 2 examples"),
        ({"label": [1, 2, 3]}, "Column 'label' has 3 values for 2 examples"),
        ({"mask": [[1, 1]]}, "The attention mask is"),
    ],
)
def test_annotations_that_do_not_fit_stop_before_the_model_runs(sink, annotation, says):
    """A batch that does not fit its annotation is not run and not recorded."""
    model = h.make("gpt2")
    record = h.recorder(model, "embed", sink)
    with pytest.raises(CaptureError, match=says), record:
        record.annotate(**annotation)
        model(IDS)
    assert sink.batches == []


@pytest.mark.parametrize(
    ("annotation", "says"),
    [
        ({"embed": [1, 2]}, "that is a captured site"),
        ({"token": [1, 2]}, "lazycache fills that one"),
        ({"example": [1, 2], "label": [1]}, "has 1 values for 2 examples"),
        ({"a": [1, 2], "b": [1]}, "has 1 values for 2 examples"),
        ({"mask": [1, 1]}, r"mask has shape \(2,\)"),
        ({"mask": "abc"}, "'abc', which is no rectangle of numbers"),
        ({"mask": [[1], [1, 0]]}, "no rectangle of numbers"),
        ({"mask": torch.tensor([[0.0, -1e9]])}, "mask .* other values than 0 and 1"),
        ({"example": [2**63 - 1, 0]}, "id 9223372036854775807 is too large"),
        ({"columns": {3: [1, 2]}}, r"3 \(int\) cannot name a column"),
        ({"columns": {"a\nb": [1, 2]}}, "cannot name a column"),
        ({"columns": {"": [1, 2]}}, "cannot name a column"),
        ({"columns": {"x" * 501: [1, 2]}}, "cannot name a column"),
        ({"columns": {"example": [1, 2]}}, "lazycache fills that one"),
        ({"columns": ["a", "b"]}, "is a list; a mapping"),
        ({"columns": {"a": [1, 2]}, "a": [1, 2]}, "'a' was given twice"),
    ],
)
def test_bad_annotations_are_refused_at_once(sink, annotation, says):
    """What can be seen to be wrong without the batch is an error of `annotate`."""
    record = h.recorder(h.make("gpt2"), "embed", sink)
    with pytest.raises(CaptureError, match=says), record:
        record.annotate(**annotation)


def test_a_forward_pass_that_raises_leaves_nothing(sink):
    """Sites met before the error do not reach the sink, nor the next forward pass."""
    model = Failing()
    record = h.recorder(model, "embed:out", sink)
    with pytest.warns(RuntimeWarning, match="began and were not recorded: 2"), record:  # noqa: PT031
        model.error = ValueError("broken")
        record.annotate(example=[4, 5])
        with pytest.raises(ValueError, match="broken"):
            model(IDS)
        assert record.passes._thread.current is None
        model.error = KeyboardInterrupt()
        with pytest.raises(KeyboardInterrupt):
            model(IDS)
        model.error = None
        record.annotate(example=[4, 5])  # was never recorded, so it is free
        model(IDS)
    assert len(sink.batches) == 1
    assert sink.column("examples", "example") == [4, 5]
    assert torch.equal(sink.values("embed:out"), model.embed(IDS).flatten(0, 1))


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, None])
def test_no_hook_stays(sink, error):
    """Hooks are gone after success, an error in the block and an interrupt."""
    model = h.make("llama")

    def block():
        with h.recorder(model, LLAMA_SITES, sink):
            model(IDS)
            assert h.hook_count(model) > 0
            if error is not None:
                raise error

    if error is None:
        block()
    else:
        with pytest.raises(error):
            block()
    assert h.hook_count(model) == 0
    model(IDS)
    assert len(sink.batches) == 1


def test_errors_of_the_sink_surface_in_the_call(sink):
    """A writer that fails is seen where the model is called, and nothing is counted."""
    model = h.make("gpt2")

    def fail(batch):
        raise OSError(28, "disk full")

    sink.write = fail
    record = h.recorder(model, "embed", sink)
    with pytest.raises(OSError, match="disk full"), record:
        model(IDS)
    assert (record.passes.forwards, record.passes.examples, record.next_example) == (0, 0, 0)
    assert h.hook_count(model) == 0


def test_sites_that_never_fire_are_an_error(sink):
    """A module that the forward pass does not use is named, and the batch is not recorded."""
    model = Twice()
    record = h.recorder(model, ["embed", "rare"], sink)
    with pytest.warns(RuntimeWarning, match="began and were not recorded: 1"), record:  # noqa: PT031
        with pytest.raises(CaptureError, match="never called rare:out"):
            model(IDS)
        model(IDS, rare=True)
    assert len(sink.batches) == 1


def test_a_site_that_changes_its_table_is_an_error(sink):
    """Rows per token now and per example then is no column."""

    class Turning(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.end, self.pool = nn.Embedding(h.VOCAB, 4), nn.Identity(), False

        def forward(self, input_ids):
            x = self.embed(input_ids)
            return self.end(x.mean(1) if self.pool else x)

    model, ids = Turning(), h.ids(2, 5)
    record = h.recorder(model, "end", sink)
    with pytest.raises(CaptureError, match=r"end:out gave \[2, 4\].*not a row per token"), record:
        model(ids)
        model.pool = True
        model(ids)
    assert len(sink.batches) == 1


def test_calling_around_the_model_is_an_error(sink):
    """`model.forward` and inner modules run no hook of the model itself: that is not silent."""
    model = h.make("llama")
    record = h.recorder(model, "resid_out_*", sink)
    with pytest.raises(CaptureError, match="LlamaForCausalLM that is captured was never"), record:
        model.forward(IDS)
    assert record.passes.stray == 2
    assert h.hook_count(model) == 0


def test_the_complaint_does_not_hide_an_error(sink):
    """An exception in the block stays the one that is seen."""
    model = h.make("llama")
    with pytest.raises(ZeroDivisionError), h.recorder(model, "embed", sink):
        assert model.forward(IDS).logits.shape[1] == 1 / 0


def test_gradient_checkpoints_give_no_double_rows(sink):
    """Layers that compute again in the backward pass are recorded once."""
    model = h.make("llama").train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    with h.recorder(model, "attn_out_*", sink) as record:
        model(IDS, use_cache=False).logits.sum().backward()
    assert len(sink.values("attn_out_0")) == 8
    assert record.passes.stray > 0


def test_dtype_casts_and_reports_what_it_lost(sink):
    """A narrower dtype is applied to activations only; values beyond its range are reported."""
    model = nn.Sequential(nn.Embedding(h.VOCAB, 4))
    model[0].weight.data[3] = 1e6
    ids = torch.tensor([[3, 4]])
    record = h.recorder(model, ["0:in", "0:out"], sink, dtype=torch.float16)
    with pytest.warns(RuntimeWarning, match=r"dtype=torch.float16: .* 0:out \(8\)"), record:
        model(torch.cat([ids, ids]))
    assert record.passes.overflowed == {"0:out": 8}
    assert sink.values("0:in").tolist() == [3, 4, 3, 4]
    assert sink.values("0:in").dtype == torch.int64
    assert torch.equal(sink.values("0:out")[:2], model[0].weight[ids[0]].half())


def test_dtypes_that_cannot_be_stored_name_the_site(sink):
    """Complex and sparse values are refused by name, before anything is kept."""
    model = nn.Sequential(nn.Identity())
    record = h.recorder(model, "0", sink)
    with pytest.raises(UnsupportedDtypeError, match=r"0:out: dtype torch\.complex64"), record:
        model(torch.zeros(2, 3, dtype=torch.complex64))
    record = h.recorder(model, "0", sink)
    with pytest.raises(UnsupportedDtypeError, match=r"0:out: .*sparse"), record:
        model(torch.eye(2).to_sparse())


def test_a_compiled_model_is_refused(sink):
    """`torch.compile` is seen before the run, and no hook was put on."""
    model = h.make("gpt2")
    compiled = torch.compile(model)
    record = h.recorder(compiled, "_orig_mod.transformer.ln_f", sink)
    with pytest.raises(CaptureError, match=r"compiled with torch\.compile"), record:
        pass
    assert h.hook_count(model) == 0


def test_a_recorder_is_entered_once(sink):
    """A second use would mix two captures."""
    model = h.make("gpt2")
    record = h.recorder(model, "embed", sink)
    with record:
        model(IDS)
    with pytest.raises(CaptureError, match="entered once"), record:
        pass


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"positions": "sometimes"}, "is no selection"),
        ({"dtype": torch.int8}, "floating-point dtype"),
        ({"tokenizer": 3}, "has no decode"),
        ({"columns": {"token_id": 1}}, "cannot be named 'token_id'"),
        ({"columns": {"label": [1]}}, "holds a list"),
        ({"columns": "label"}, "'label' is a str; a mapping of name to value"),
        ({"columns": ["label"]}, "is a list; a mapping of name to value"),
        ({"columns": {1: "x"}}, r"1 \(int\) cannot name a column"),
        ({"columns": {"a\0b": "x"}}, "cannot name a column"),
        ({"dtype": torch.float8_e5m2fnuz}, "one of float16, bfloat16"),
    ],
)
def test_bad_arguments_are_refused_at_construction(sink, options, says):
    """Every argument is checked before the model runs."""
    with pytest.raises(CaptureError, match=says):
        h.recorder(h.make("gpt2"), "embed", sink, **options)


def test_real_weights(sink, minilm):
    """The real MiniLM encoder: text, padding, token text, pooled output, states of the model."""
    model, tokenizer = minilm
    batch = tokenizer(["Paris is in France.", "Cats sleep"], padding=True, return_tensors="pt")
    with (
        h.recorder(model, ["resid_out_*", "mlp_act_5", "pooler"], sink, tokenizer=tokenizer),
        torch.no_grad(),
    ):
        out = model(**batch, output_hidden_states=True)
    real = batch["attention_mask"] == 1
    for layer in range(6):
        assert torch.equal(sink.values(f"resid_out_{layer}"), out.hidden_states[layer + 1][real])
    assert sink.values("mlp_act_5").shape == (11, 1536)
    assert torch.equal(sink.values("pooler:out"), out.pooler_output)
    words = [
        "[CLS]",
        "paris",
        "is",
        "in",
        "france",
        ".",
        "[SEP]",
        "[CLS]",
        "cats",
        "sleep",
        "[SEP]",
    ]
    assert sink.column("tokens", "token") == words


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("positions", ["all", "last", lambda ids, mask: mask & (ids % 2 == 0)])
def test_a_model_on_a_gpu_is_recorded_to_the_host(sink, positions):
    """Rows are gathered and cast on the device; what arrives is what the model had there."""
    model = h.make("llama", dtype=torch.bfloat16).cuda()
    ids, mask = IDS.cuda(), torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    record = h.recorder(
        model, ["resid_out_*", "logits"], sink, positions=positions, dtype=torch.float16
    )
    with record, torch.no_grad():
        record.annotate(mask=mask)  # on the host, while the ids are on the device
        out = model(ids, attention_mask=mask.cuda(), output_hidden_states=True)
    example, position = (sink.column("tokens", name) for name in ("example", "position"))
    assert sink.column("tokens", "token_id") == IDS[example, position].tolist()
    assert torch.equal(sink.values("logits"), out.logits[example, position].half().cpu())
    states = out.hidden_states[1][example, position].half().cpu()
    assert torch.equal(sink.values("resid_out_0"), states)
    assert record.passes.overflowed == {}
