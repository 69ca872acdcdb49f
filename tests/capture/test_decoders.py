"""Encoder-decoder models."""

import capture_helpers as h
import pytest
import torch
from transformers import T5Config, T5EncoderModel, T5ForConditionalGeneration

from lazycache.capture.decoders import refuse_decoder
from lazycache.capture.forward_inputs import ForwardInputs
from lazycache.capture.sites import HookPoint
from lazycache.errors import CaptureError

IDS = h.ids(2, 4)
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


def _t5(kind):
    torch.manual_seed(0)
    return kind(T5Config(**CONFIG)).eval()


@pytest.mark.parametrize("given", [{"decoder_input_ids": IDS}, {"labels": IDS}])
def test_values_of_a_decoder_are_refused(given):
    """Of one length with the encoder's they would be filed under its tokens, and nothing showed."""
    sink = h.ListSink()
    record = h.recorder(_t5(T5ForConditionalGeneration), "*.block.0", sink)
    with pytest.raises(CaptureError, match=r"decoder\.block\.0:out \(1 in all\) is not"), record:
        record._model(input_ids=IDS, **given)
    assert sink.batches == []


def test_values_of_an_encoder_are_recorded():
    """Beside a running decoder the encoder's sites are stored under its own tokens."""
    model, sink = _t5(T5ForConditionalGeneration), h.ListSink()
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    with h.recorder(model, "encoder.final_layer_norm", sink), torch.no_grad():
        out = model(input_ids=IDS, attention_mask=mask, decoder_input_ids=IDS[:, :2])
    expected = out.encoder_last_hidden_state[mask == 1]
    assert torch.equal(sink.values("encoder.final_layer_norm:out"), expected)
    assert sink.column("tokens", "token_id") == IDS[mask == 1].tolist()


def test_an_encoder_alone_may_be_captured_anywhere():
    """`T5EncoderModel` runs no decoder, whatever the paths are."""
    model, sink = _t5(T5EncoderModel), h.ListSink()
    with h.recorder(model, ":out", sink), torch.no_grad():
        out = model(IDS).last_hidden_state
    assert torch.equal(sink.values(":out"), out.flatten(0, 1))


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
    points = {"x": HookPoint(path, "out")}
    model = torch.nn.Identity()
    refuse_decoder(model, points, ForwardInputs(1, 2, None, None))
    decoding = ForwardInputs(1, 2, None, None, decodes=True)
    if inside:
        refuse_decoder(model, points, decoding)
    else:
        with pytest.raises(CaptureError, match="not inside the encoder"):
            refuse_decoder(model, points, decoding)
