"""Encoder-decoder models: rows of both stacks in one forward pass."""

import capture_helpers as h
import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    OPTConfig,
    OPTForCausalLM,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
)

from lazycache.capture.inputs.decoders import decoder_of, in_encoder, labels_mask
from lazycache.capture.sites.names import HookPoint
from lazycache.errors import CaptureError

IDS = h.ids(2, 4)
MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
TARGETS = h.ids(2, 3, seed=2)
TARGET_MASK = torch.tensor([[1, 1, 1], [1, 1, 0]])
CONFIG = {
    "num_layers": 1,
    "d_model": 8,
    "d_ff": 8,
    "num_heads": 2,
    "d_kv": 4,
    "vocab_size": h.VOCAB,
    "decoder_start_token_id": 0,
    "use_cache": False,
}
BART = {
    "vocab_size": h.VOCAB,
    "d_model": 8,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 8,
    "decoder_ffn_dim": 8,
    "max_position_embeddings": 16,
    "use_cache": False,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}


@pytest.fixture
def sink():
    return h.ListSink()


def _t5(kind=T5ForConditionalGeneration, **options):
    torch.manual_seed(0)
    return kind(T5Config(**CONFIG, **options)).eval()


def _run(model, sites, sink, **given):
    inputs = {"input_ids": IDS, "attention_mask": MASK, "decoder_input_ids": TARGETS}
    with h.recorder(model, sites, sink) as record, torch.no_grad():
        out = model(**(inputs | given), output_hidden_states=True, output_attentions=True)
    return record, out


def test_both_stacks_have_rows_of_their_own(sink):
    """Encoder sites are rows of `tokens`, decoder sites and logits of `decoder_tokens`."""
    model = _t5()
    sites = ["encoder.block.0", "encoder.final_layer_norm", "decoder.block.0", "lm_head"]
    record, out = _run(model, sites, sink, decoder_attention_mask=TARGET_MASK)
    real, fed = MASK == 1, TARGET_MASK == 1
    assert torch.equal(
        sink.values("encoder.final_layer_norm:out"), out.encoder_last_hidden_state[real]
    )
    assert torch.equal(sink.values("lm_head:out"), out.logits[fed])
    tables = {name: block.table for name, block in sink.batches[0].sites.items()}
    assert tables == {
        "encoder.block.0:out": "tokens",
        "encoder.final_layer_norm:out": "tokens",
        "decoder.block.0:out": "decoder_tokens",
        "lm_head:out": "decoder_tokens",
    }
    assert sink.column("tokens", "token_id") == IDS[real].tolist()
    assert sink.column("decoder_tokens", "token_id") == TARGETS[fed].tolist()
    assert sink.column("decoder_tokens", "position") == [0, 1, 2, 0, 1]
    assert sink.column("decoder_tokens", "example") == [0, 0, 0, 1, 1]
    assert sink.column("examples", "length") == [3, 4]
    assert sink.column("examples", "decoder_length") == [3, 2]
    assert sink.batches[0].tables["examples"].columns["decoder_length"].dtype == np.int64
    assert record.passes.rows == 7


def test_equal_lengths_do_not_mix_the_stacks(sink):
    """Where encoder and decoder have as many tokens only the path can tell them apart."""
    model = _t5()
    sites = ["encoder.block.0", "decoder.block.0", "lm_head", ":out.logits", ":in"]
    _, out = _run(
        model, sites, sink, attention_mask=None, decoder_input_ids=TARGETS.repeat(1, 2)[:, :4]
    )
    tables = {name: block.table for name, block in sink.batches[0].sites.items()}
    assert tables == {
        ":in": "tokens",
        ":out.logits": "decoder_tokens",
        "encoder.block.0:out": "tokens",
        "decoder.block.0:out": "decoder_tokens",
        "lm_head:out": "decoder_tokens",
    }
    assert torch.equal(sink.values("lm_head:out"), out.logits.flatten(0, 1))


@pytest.mark.parametrize("length", [3, 4])
def test_keys_of_cross_attention_are_rows_of_the_encoder(sink, length):
    """They are made from what the encoder gave, in the decoder: also where lengths are equal."""
    model = _t5()
    cross = "decoder.block.0.layer.1.EncDecAttention"
    given = {"decoder_input_ids": h.ids(2, length)}
    _run(model, [f"{cross}.k", f"{cross}.v:in", f"{cross}.q"], sink, **given)
    tables = {name: block.table for name, block in sink.batches[0].sites.items()}
    assert tables == {
        f"{cross}.k:out": "tokens",
        f"{cross}.v:in": "tokens",
        f"{cross}.q:out": "decoder_tokens",
    }


def test_canonical_sites_say_their_stack(sink):
    """Names with a prefix are rows of that stack; `logits` are the decoder's."""
    model = _t5()
    sites = ["encoder.resid_out_0", "decoder.resid_out_0", "logits", "decoder.cross_attn_out_0"]
    _, out = _run(model, sites, sink)
    tables = {name: block.table for name, block in sink.batches[0].sites.items()}
    assert tables == {
        "encoder.resid_out_0": "tokens",
        "decoder.resid_out_0": "decoder_tokens",
        "decoder.cross_attn_out_0": "decoder_tokens",
        "logits": "decoder_tokens",
    }
    assert torch.equal(sink.values("logits"), out.logits.flatten(0, 1))


def test_cross_patterns_are_over_the_tokens_of_the_encoder(sink):
    """A row of the decoder is as wide as its example's real encoder tokens."""
    model = _t5()
    model.set_attn_implementation("eager")
    sites = ["decoder.cross_pattern_0", "decoder.pattern_0", "encoder.pattern_0"]
    _, out = _run(model, sites, sink, decoder_attention_mask=TARGET_MASK)
    blocks = sink.batches[0].sites
    assert blocks["decoder.cross_pattern_0"].widths.tolist() == [3, 3, 3, 4, 4]
    assert blocks["decoder.pattern_0"].widths.tolist() == [3, 3, 3, 2, 2]
    assert blocks["encoder.pattern_0"].widths.tolist() == [3, 3, 3, 4, 4, 4, 4]
    first = blocks["decoder.cross_pattern_0"].values[: 3 * 2 * 3].view(3, 2, 3)
    assert torch.equal(first, out.cross_attentions[0][0, :, :, :3].permute(1, 0, 2))


def test_labels_alone_make_the_decoders_tokens(sink):
    """The ids are what the decoder saw; positions without a label are its padding."""
    model = _t5()
    labels = TARGETS.clone()
    labels[1, 2] = -100
    with h.recorder(model, "decoder.block.0", sink), torch.no_grad():
        model(input_ids=IDS, labels=labels)
    assert sink.column("decoder_tokens", "token_id") == [0, *TARGETS[0, :2], 0, TARGETS[1, 0]]
    assert sink.column("examples", "decoder_length") == [3, 2]


def test_gradients_of_both_stacks(sink):
    """Each has the rows of its stack."""
    model = _t5()
    sites = ["encoder.block.0:grad_out", "decoder.block.0:grad_out", "decoder.resid_in_0:grad"]
    with h.recorder(model, sites, sink):
        model(input_ids=IDS, decoder_input_ids=TARGETS).logits.square().sum().backward()
    tables = {name: block.table for name, block in sink.batches[0].sites.items()}
    assert tables == {
        "encoder.block.0:grad_out": "tokens",
        "decoder.block.0:grad_out": "decoder_tokens",
        "decoder.resid_in_0:grad": "decoder_tokens",
    }


def test_given_encoder_outputs_have_rows_without_ids(sink):
    """An encoder that ran before is not called; its tokens are those of what is given."""
    model = _t5()
    with torch.no_grad():
        encoded = model.encoder(input_ids=IDS, attention_mask=MASK)
    with h.recorder(model, "decoder.block.0", sink), torch.no_grad():
        model(encoder_outputs=encoded, attention_mask=MASK, decoder_input_ids=TARGETS)
    assert sink.column("examples", "length") == [3, 4]
    assert "token_id" not in sink.batches[0].tables["tokens"].columns
    assert sink.column("decoder_tokens", "token_id") == TARGETS.flatten().tolist()


def test_other_families(sink):
    """BART keeps both stacks below `model`."""
    torch.manual_seed(0)
    model = BartForConditionalGeneration(BartConfig(**BART)).eval()
    sites = ["model.encoder.layers.0", "model.decoder.layers.0", "lm_head"]
    _, out = _run(model, sites, sink)
    assert torch.equal(
        sink.values("model.decoder.layers.0:out"), out.decoder_hidden_states[1].flatten(0, 1)
    )
    assert torch.equal(
        sink.values("model.encoder.layers.0:out"), out.encoder_hidden_states[1][MASK == 1]
    )


def test_positions_and_pooling_are_of_each_stack(sink):
    """`last` is the last token of each stack; pooled sites of both are rows of examples."""
    model = _t5()
    record = h.recorder(model, ["encoder.block.0", "decoder.block.0"], sink, positions="last")
    with record, torch.no_grad():
        model(input_ids=IDS, attention_mask=MASK, decoder_input_ids=TARGETS)
    assert sink.column("tokens", "position") == [2, 3]
    assert sink.column("decoder_tokens", "position") == [2, 2]
    pooled = h.ListSink()
    record = h.recorder(model, ["encoder.block.0", "decoder.block.0"], pooled, pool="mean")
    with record, torch.no_grad():
        model(input_ids=IDS, attention_mask=MASK, decoder_input_ids=TARGETS)
    assert {block.table for block in pooled.batches[0].sites.values()} == {"examples"}


def test_examples_that_are_left_out_are_in_neither_stack(sink):
    """`where` holds for the decoder too."""
    model = _t5()
    record = h.recorder(model, "decoder.block.0", sink, where=lambda _: [False, True])
    with record, torch.no_grad():
        model(input_ids=IDS, decoder_input_ids=TARGETS)
    assert sink.column("decoder_tokens", "example") == [1, 1, 1]
    assert sink.column("tokens", "example") == [1] * 4
    assert sink.column("examples", "decoder_length") == [3]


class Shared(nn.Module):
    """An encoder and a decoder that share their embedding."""

    class Part(nn.Module):
        """One of the two."""

        def __init__(self, embed):
            super().__init__()
            self.embed = embed

        def forward(self, input_ids, encoder_hidden_states=None):
            x = self.embed(input_ids)
            return x if encoder_hidden_states is None else x + encoder_hidden_states.mean(1, True)

    def __init__(self):
        super().__init__()
        self.shared = nn.Embedding(h.VOCAB, 4)
        self.encoder, self.decoder = self.Part(self.shared), self.Part(self.shared)

    def forward(self, input_ids, decoder_input_ids=None):
        return self.decoder(decoder_input_ids, encoder_hidden_states=self.encoder(input_ids))


def test_a_module_that_both_stacks_share(sink):
    """Each of its names means the calls of its own stack; the name of neither means both."""
    model = Shared()
    with h.recorder(model, ["encoder.embed:out", "decoder.embed:out", "shared:out@0"], sink):
        model(IDS, decoder_input_ids=TARGETS)
    assert torch.equal(sink.values("encoder.embed:out"), model.shared(IDS).flatten(0, 1))
    assert torch.equal(sink.values("decoder.embed:out"), model.shared(TARGETS).flatten(0, 1))
    assert torch.equal(sink.values("shared:out@0"), model.shared(IDS).flatten(0, 1))
    record = h.recorder(model, "shared", sink)
    with pytest.raises(CaptureError, match=r"'tokens' in call 0.*'decoder_tokens' in call 1"):
        with record:
            model(IDS, decoder_input_ids=TARGETS)


def test_an_encoder_alone_may_be_captured_anywhere(sink):
    """`T5EncoderModel` runs no decoder, whatever the paths are."""
    model = _t5(T5EncoderModel)
    with h.recorder(model, ":out", sink), torch.no_grad():
        out = model(IDS).last_hidden_state
    assert torch.equal(sink.values(":out"), out.flatten(0, 1))


def test_a_decoder_alone_has_rows_of_tokens(sink):
    """Models whose only stack is called `decoder` are no encoder-decoder models."""
    torch.manual_seed(0)
    config = {"hidden_size": 8, "ffn_dim": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = OPTForCausalLM(OPTConfig(**config, vocab_size=h.VOCAB, word_embed_proj_dim=8)).eval()
    with h.recorder(model, "model.decoder.layers.0", sink), torch.no_grad():
        model(IDS)
    assert sink.batches[0].sites["model.decoder.layers.0:out"].table == "tokens"


def test_sites_of_the_encoder_alone_watch_no_decoder(sink):
    """Nothing is hooked on the decoder, and it has no rows."""
    model = _t5()
    record = h.recorder(model, "encoder.block.0", sink)
    with record, torch.no_grad():
        assert not model.decoder._forward_pre_hooks
        model(input_ids=IDS, decoder_input_ids=TARGETS)
    assert "decoder_tokens" not in sink.batches[0].tables


def test_a_decoder_that_is_called_twice_is_refused(sink):
    """There is no telling which of its rows are meant."""

    class Twice(Shared):
        def forward(self, input_ids, decoder_input_ids=None):  # noqa: ARG002  # for the recorder
            self.decoder(decoder_input_ids)
            return self.decoder(decoder_input_ids)

    record = h.recorder(Twice(), "decoder", sink)
    with pytest.raises(CaptureError, match="calls its decoder twice"), record:
        record._model(IDS, decoder_input_ids=TARGETS)


def test_stacks_of_other_batches_are_refused(sink):
    """Rows of both must belong to the same examples."""
    record = h.recorder(Shared(), "decoder", sink)
    with pytest.raises(CaptureError, match="decoder has a batch of 1, the encoder of 2"), record:
        record._model(IDS, decoder_input_ids=TARGETS[:1])


def test_a_decoder_that_cannot_be_told_is_refused(sink):
    """None is called so, or several are: the message says what can be captured."""

    class Odd(nn.Module):
        def __init__(self, *names):
            super().__init__()
            for name in ("encoder", *names):
                self.add_module(name, nn.Linear(2, 2))

        def forward(self, x, decoder_input_ids=None):
            """Not called here."""

    outside = [HookPoint("back", "out")]
    with pytest.raises(CaptureError, match=r"none of its modules is called 'decoder'.*back:out"):
        decoder_of(Odd("back"), outside)
    two = nn.Module()
    two.config = T5Config(**CONFIG)
    two.add_module("a", nn.ModuleDict({"decoder": nn.Linear(2, 2)}))
    two.add_module("b", nn.ModuleDict({"decoder": nn.Linear(2, 2)}))
    with pytest.raises(CaptureError, match=r"a\.decoder, b\.decoder are called 'decoder'"):
        decoder_of(two, outside)
    assert decoder_of(two, [HookPoint("encoder.0", "out")]) is None


@pytest.mark.parametrize(
    ("path", "inside"),
    [
        ("encoder.block.0", True),
        ("model.text_encoder.layers.1", True),
        ("decoder.bert.encoder.layer.0", False),
        ("encoder_decoder.layers.0", False),
        ("lm_head", False),
        ("", False),
    ],
)
def test_paths_say_what_is_inside_the_encoder(path, inside):
    """A part of the path names the encoder, and none the decoder."""
    assert in_encoder(path) is inside


def test_labels_speak_only_where_nothing_else_does():
    """Inputs or a mask of the decoder go before them."""
    labels = torch.tensor([[5, -100]])
    assert labels_mask({"labels": labels}).tolist() == [[True, False]]
    assert labels_mask({"labels": labels, "decoder_input_ids": labels}) is None
    assert labels_mask({"labels": labels, "decoder_attention_mask": labels}) is None
    assert labels_mask({"labels": torch.tensor([1])}) is None
    assert labels_mask({}) is None
