"""ViT, CLIP's and SigLIP's vision towers, DINOv2: sites against hooks set by hand, positions."""

import pytest
import stack_helpers as h
import torch
from stack_helpers import Hand
from torch import nn
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2Model,
    SiglipConfig,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

from lazycache.capture.sites.architectures import locate

LAYERS, HEADS, VOCAB = 2, 4, 50
SIZE = {
    "num_hidden_layers": LAYERS,
    "hidden_size": 16,
    "intermediate_size": 40,
    "num_attention_heads": HEADS,
    "image_size": 12,
    "patch_size": 4,
}
TEXT = {
    "num_hidden_layers": 1,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_attention_heads": 2,
    "vocab_size": VOCAB,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
DINO = {k: v for k, v in SIZE.items() if k != "intermediate_size"} | {"layerscale_value": 0.5}


def _attention(at, out):
    return {
        "attn_in": Hand(f"{at}.k_proj", "in"),
        "queries": Hand(f"{at}.q_proj", heads=HEADS),
        "keys": Hand(f"{at}.k_proj", heads=HEADS),
        "values": Hand(f"{at}.v_proj", heads=HEADS),
        "pattern": Hand(at, pick=1),
        "z": Hand(f"{at}.{out}", "in", heads=HEADS),
        "attn_out": Hand(f"{at}.{out}"),
    }


def _vit(base=""):
    layer = f"{base}layers.{{}}"
    return {
        "embed": Hand(f"{base}embeddings"),
        "resid_in": Hand(f"{layer}.layernorm_before", "in"),
        **_attention(f"{layer}.attention", "o_proj"),
        "resid_mid": Hand(f"{layer}.layernorm_after", "in"),
        "mlp_in": Hand(f"{layer}.layernorm_after"),
        "mlp_act": Hand(f"{layer}.mlp.activation_fn"),
        "mlp_out": Hand(f"{layer}.mlp.fc2"),
        "resid_out": Hand(layer),
        "final_norm": Hand(base.removesuffix("."), pick="last_hidden_state"),
    }


def _clip(base="", embed="pre_layrnorm", final=False):
    layer = f"{base}encoder.layers.{{}}"
    return {
        "embed": Hand(f"{base}{embed}"),
        "resid_in": Hand(f"{layer}.layer_norm1", "in"),
        **_attention(f"{layer}.self_attn", "out_proj"),
        "resid_mid": Hand(f"{layer}.layer_norm2", "in"),
        "mlp_in": Hand(f"{layer}.layer_norm2"),
        "mlp_act": Hand(f"{layer}.mlp.activation_fn"),
        "mlp_out": Hand(f"{layer}.mlp.fc2"),
        "resid_out": Hand(layer),
        **({"final_norm": Hand(f"{base}post_layernorm")} if final else {}),
    }


def _dino(base="", act="mlp.activation_fn", act_side="out"):
    layer = f"{base}encoder.layer.{{}}"
    return {
        "embed": Hand(f"{base}embeddings"),
        "resid_in": Hand(f"{layer}.norm1", "in"),
        **_attention(f"{layer}.attention", "o_proj"),
        "attn_out": Hand(f"{layer}.layer_scale1"),
        "resid_mid": Hand(f"{layer}.norm2", "in"),
        "mlp_in": Hand(f"{layer}.norm2"),
        "mlp_act": Hand(f"{layer}.{act}", act_side),
        "mlp_out": Hand(f"{layer}.layer_scale2"),
        "resid_out": Hand(layer),
        "final_norm": Hand(f"{base}layernorm"),
    }


CLIP = {"vision_config": SIZE, "text_config": TEXT, "projection_dim": 6}
MODELS = {
    "vit": (ViTModel, ViTConfig(**SIZE), _vit()),
    "vit-classifier": (ViTForImageClassification, ViTConfig(**SIZE), _vit("vit.")),
    "clip-vision": (CLIPVisionModel, CLIPVisionConfig(**SIZE), _clip()),
    "clip-projection": (
        CLIPVisionModelWithProjection,
        CLIPVisionConfig(**SIZE, projection_dim=6),
        _clip("vision_model."),
    ),
    "clip": (CLIPModel, CLIPConfig(**CLIP), _clip("vision_model.")),
    "siglip-vision": (
        SiglipVisionModel,
        SiglipVisionConfig(**SIZE),
        _clip(embed="embeddings", final=True),
    ),
    "siglip": (
        SiglipModel,
        SiglipConfig(vision_config=SIZE, text_config={**TEXT, "projection_size": 16}),
        _clip("vision_model.", embed="embeddings", final=True),
    ),
    "dinov2": (Dinov2Model, Dinov2Config(**DINO), _dino()),
    "dinov2-classifier": (
        Dinov2ForImageClassification,
        Dinov2Config(**DINO),
        _dino("dinov2."),
    ),
    "dinov2-gated": (
        Dinov2Model,
        Dinov2Config(**DINO, use_swiglu_ffn=True),
        _dino(act="mlp.down_proj", act_side="in"),
    ),
}
POSITIONS = {name: 9 if name.startswith("siglip") else 10 for name in MODELS}


@pytest.fixture(params=MODELS, name="name")
def _name(request):
    return request.param


@pytest.fixture(name="model")
def _model(name):
    kind, config, _ = MODELS[name]
    return h.make(kind, config)


def _pixels(*, high=12, wide=12):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(3, 3, high, wide, generator=generator)


def _inputs(model):
    inputs = {"pixel_values": _pixels()}
    if isinstance(model, CLIPModel | SiglipModel):
        inputs["input_ids"] = torch.tensor([[1, 5, 2]] * 3)
    return inputs


def test_every_site_equals_a_hook_that_was_set_by_hand(name, model):
    """Each site has the bits that a hook at the place read in the model's source sees."""
    hands = h.names(MODELS[name][2], LAYERS)
    h.same_bits(*h.see(model, _inputs(model), hands))


def test_the_stream_adds_up(model):
    """`resid_mid` is `resid_in` + `attn_out`, `resid_out` is `resid_mid` + `mlp_out`."""
    values, _ = h.see(model, _inputs(model))
    h.check_residuals(model, values)


def test_the_heads_add_up_to_what_attention_adds(model):
    """All heads through the output projection, plus its bias, are `attn_out` (DINOv2: scaled)."""
    values, _ = h.see(model, _inputs(model))
    h.check_heads(model, values)


def test_patterns_reproduce_the_heads(model):
    """Rows sum to 1, are the softmax of queries and keys, and mix `values` to `z`."""
    values, _ = h.see(model, _inputs(model))
    h.check_patterns(model, values, scale=(16 // HEADS) ** -0.5)


def test_patterns_are_those_of_the_model(model):
    """`output_attentions` of the model gives the same bits."""
    values, _ = h.see(model, _inputs(model))
    said = h.attentions(model, _inputs(model))
    if isinstance(model, CLIPModel | SiglipModel):
        with torch.no_grad():
            said = model.vision_model(_pixels(), output_attentions=True)
    for layer, expected in enumerate(said.attentions):
        assert torch.equal(values[f"pattern_{layer}"], expected)


def test_positions_are_the_patches_and_the_class_token(name, model):
    """`patches` says how many positions an image has, from configuration and shape of pixels."""
    values, _ = h.see(model, _inputs(model))
    found = h.stack(model)
    for config in (model.config, found.config):
        assert found.family.patches(config, _pixels().shape) == POSITIONS[name]
    assert {value.shape[1] for site, value in values.items() if "pattern" not in site} == {
        POSITIONS[name]
    }


@pytest.mark.parametrize("size", [(8, 12), (20, 12), (13, 18)])
def test_positions_of_an_image_of_another_size(name, model, size):
    """Sizes that the model interpolates for count their own patches; what is over is cut off."""
    high, wide = size
    inputs = {"pixel_values": _pixels(high=high, wide=wide)}
    if not isinstance(model, Dinov2Model | Dinov2ForImageClassification):
        inputs["interpolate_pos_encoding"] = True  # DINOv2 always does
    if isinstance(model, CLIPModel | SiglipModel):
        inputs["input_ids"] = torch.tensor([[1, 5, 2]] * 3)
    values, _ = h.see(model, inputs)
    patches = h.stack(model).family.patches(model.config, inputs["pixel_values"].shape)
    assert values["resid_out_0"].shape[1] == patches


def test_heads_are_those_of_the_vision_tower():
    """CLIP's text tower has other heads and another width."""
    model = h.make(CLIPModel, CLIPConfig(**CLIP))
    assert h.stack(model).heads.heads == HEADS
    assert h.stack(model).family.head_shape(model.config) == h.stack(model).heads


def test_a_text_tower_is_not_taken_for_a_vision_tower():
    """CLIP's text model has the same modules under a causal mask; it is in no table."""
    config = CLIPConfig(**CLIP).text_config
    assert locate(h.make(CLIPTextModel, config)) == ()


class _Attention(nn.Module):
    """Query, key and value, and what mixes them: without the output projection."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(16, 16) for _ in range(3))

    def forward(self, hidden_states):
        shape = (*hidden_states.shape[:2], HEADS, -1)
        q, k, v = (
            part(hidden_states).view(shape).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        probabilities = (q @ k.transpose(2, 3) * (16 // HEADS) ** -0.5).softmax(-1)
        return (probabilities @ v).transpose(1, 2).flatten(2), probabilities


class _Dense(nn.Module):
    """A projection with its dropout, which may add the stream too."""

    def __init__(self, units, *, adds):
        super().__init__()
        self.dense, self.dropout, self.adds = nn.Linear(units, 16), nn.Dropout(), adds

    def forward(self, hidden_states, stream):
        out = self.dropout(self.dense(hidden_states))
        return out + stream if self.adds else out


class _Block(nn.Module):
    """Attention with its output projection."""

    def __init__(self):
        super().__init__()
        self.attention, self.output = _Attention(), _Dense(16, adds=False)

    def forward(self, hidden_states):
        mixed, probabilities = self.attention(hidden_states)
        return self.output(mixed, hidden_states), probabilities


class _Layer(nn.Module):
    """A layer as transformers 4 nested it, written anew."""

    def __init__(self):
        super().__init__()
        self.layernorm_before, self.layernorm_after = nn.LayerNorm(16), nn.LayerNorm(16)
        self.attention = _Block()
        self.intermediate = nn.Sequential(nn.Linear(16, 40), nn.GELU())
        self.output = _Dense(40, adds=True)

    def forward(self, hidden_states):
        added, probabilities = self.attention(self.layernorm_before(hidden_states))
        stream = hidden_states + added
        return self.output(self.intermediate(self.layernorm_after(stream)), stream), probabilities


class _ViTOfTransformers4(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config, self.encoder = config, nn.Module()
        self.encoder.layer = nn.ModuleList(_Layer() for _ in range(LAYERS))
        self.layernorm = nn.LayerNorm(16)

    def forward(self, embedded):
        for layer in self.encoder.layer:
            embedded = layer(embedded)[0]
        return self.layernorm(embedded)


def test_the_vit_of_transformers_4_has_the_same_sites():
    """Modules were nested otherwise then: the same names, and the same holds between them."""
    model = h.make(_ViTOfTransformers4, ViTConfig(**SIZE))
    values, _ = h.see(model, {"embedded": torch.randn(3, 10, 16)})
    assert set(values) == set(h.names(_vit(), LAYERS))
    h.check_residuals(model, values)
    h.check_heads(model, values)
    h.check_patterns(model, values, scale=(16 // HEADS) ** -0.5)
    read, acts = values["mlp_in_1"], values["mlp_act_1"]
    with torch.no_grad():
        torch.testing.assert_close(acts, model.encoder.layer[1].intermediate(read))
