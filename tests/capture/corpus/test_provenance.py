"""Descriptions of models."""

import json

import capture_helpers as h
import torch
from torch import nn

from lazycache.capture.corpus.provenance import describe_model


def test_a_transformer_is_described_in_strict_json():
    """Class, configuration, size, dtype and versions, all JSON values."""
    model = h.make("llama", dtype=torch.bfloat16)
    model.config.odd = float("inf")
    described = describe_model(model)
    text = json.dumps(described, allow_nan=False)
    assert json.loads(text) == described
    assert described["class"].endswith("LlamaForCausalLM")
    assert described["family"] == "llama"
    assert described["config"]["hidden_size"] == h.HIDDEN
    assert described["parameters"] == sum(p.numel() for p in model.parameters())
    assert (described["dtype"], described["device"]) == ("bfloat16", "cpu")
    assert described["versions"]["torch"] == torch.__version__
    assert described["tokenizer"] is None


def test_any_module_is_described():
    """A module without configuration or parameters has a description too."""
    described = describe_model(nn.ReLU())
    assert (described["config"], described["parameters"], described["dtype"]) == (None, 0, None)


def test_the_tokenizer_is_described(minilm):
    """The tokenizer's class and size are part of it."""
    described = describe_model(*minilm)
    assert described["tokenizer"]["vocab_size"] == 30522
    assert described["tokenizer"]["class"].rpartition(".")[2].startswith("BertTokenizer")
