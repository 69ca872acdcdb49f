"""Small random models of each family and a sink that keeps batches."""

import numpy as np
import torch
import transformers
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Model,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from lazycache.capture.recorder import Recorder
from lazycache.capture.sites.resolve import resolve

LAYERS, HIDDEN, NEURONS, VOCAB = 2, 16, 40, 50

_LLAMA = {
    "num_hidden_layers": LAYERS,
    "hidden_size": HIDDEN,
    "intermediate_size": NEURONS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "vocab_size": VOCAB,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GPT2 = {
    "n_layer": LAYERS,
    "n_embd": HIDDEN,
    "n_inner": NEURONS,
    "n_head": 4,
    "vocab_size": VOCAB,
    "n_positions": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_BERT = {
    "num_hidden_layers": LAYERS,
    "hidden_size": HIDDEN,
    "intermediate_size": NEURONS,
    "num_attention_heads": 4,
    "vocab_size": VOCAB,
    "max_position_embeddings": 64,
}

MODELS = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**_GPT2)),
    "gpt2-base": lambda: GPT2Model(GPT2Config(**_GPT2)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**_LLAMA)),
    "llama-base": lambda: LlamaModel(LlamaConfig(**_LLAMA)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**_LLAMA)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**_LLAMA)),
    "gemma": lambda: GemmaForCausalLM(GemmaConfig(**_LLAMA)),
    "bert": lambda: BertForMaskedLM(BertConfig(**_BERT)),
    "bert-base": lambda: BertModel(BertConfig(**_BERT)),
}
"""Name to a function that makes a small model with random weights."""

if hasattr(transformers, "Qwen3Config"):  # since 4.51
    MODELS["qwen3"] = lambda: transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**_LLAMA))


def make(name: str, *, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Make a small model, the same one each time."""
    torch.manual_seed(0)
    return MODELS[name]().eval().to(dtype)


def ids(batch: int, length: int, *, seed: int = 1) -> torch.Tensor:
    """Token ids without the special ones."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCAB, (batch, length), generator=generator)


class ListSink:
    """Keeps every batch."""

    def __init__(self) -> None:
        self.batches = []

    def write(self, batch) -> None:
        self.batches.append(batch)

    def commit(self) -> int:
        return len(self.batches)

    def values(self, site: str) -> torch.Tensor:
        """All rows of a site."""
        return torch.cat([batch.sites[site].values for batch in self.batches])

    def column(self, table: str, name: str) -> list:
        """All values of a column."""
        parts = [batch.tables[table].columns[name] for batch in self.batches]
        return [value for part in parts for value in np.asarray(part, dtype=object).tolist()]


def recorder(model, patterns, sink, **given) -> Recorder:
    """Make a recorder with defaults for whatever is not given."""
    options = {
        "tokenizer": None,
        "positions": "all",
        "dtype": None,
        "columns": None,
        "next_example": 0,
    }
    return Recorder(model, resolve(model, patterns), sink, **(options | given))


def hook_count(model: nn.Module) -> int:
    """All forward hooks of all modules."""
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()
    )
