"""What the tests of encoders, encoder-decoders, mixtures and vision models share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from lazycache.capture.sites.architectures import Located, locate
from lazycache.capture.sites.heads import cut_heads
from lazycache.capture.sites.names import HookPoint
from lazycache.capture.sites.projection import bind_projection, projection_weight


@dataclass(frozen=True)
class Hand:
    """A place that was read in the source of a model, by a person."""

    path: str
    side: str = "out"
    pick: int | str | None = None
    heads: int | None = None
    cut: Callable[[torch.Tensor], torch.Tensor] | None = None
    """How heads are taken out of a fused projection, as the model's own code does."""

    def at(self, layer: int | None) -> "Hand":
        """Put the layer in."""
        return replace(self, path=self.path.replace("{}", str(layer)))


def make(kind: type[nn.Module], config: Any) -> nn.Module:
    """Make a model with eager attention in which no weight is 0 or 1."""
    torch.manual_seed(0)
    for part in (
        config,
        *(getattr(config, name, None) for name in ("text_config", "vision_config")),
    ):
        if part is not None:
            part._attn_implementation = "eager"
    model = kind(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def points(model: nn.Module) -> dict[str, HookPoint]:
    """All canonical sites of a model whose module it has, but `head_out`: that is made from `z`."""
    paths = dict(model.named_modules(remove_duplicate=False))
    sites = [(stack, site) for stack in locate(model) for site in stack.sites()]
    found = {str(site): stack.point(site) for stack, site in sites if site.kind != "head_out"}
    return {name: point for name, point in found.items() if point.path in paths}


def stack(model: nn.Module, prefix: str = "") -> Located:
    """The stack of layers whose sites have this prefix."""
    return next(found for found in locate(model) if found.family.prefix == prefix)


def names(kinds: Mapping[str, Hand], layers: int, prefix: str = "") -> dict[str, Hand]:
    """Site name to place, for all layers."""
    once = {"embed", "final_norm", "logits"}
    found = {}
    for kind, hand in kinds.items():
        name = kind if kind == "logits" else prefix + kind
        if kind in once:
            found[name] = hand.at(layers - 1)
        else:
            found |= {f"{name}_{layer}": hand.at(layer) for layer in range(layers)}
    return found


def see(model, inputs, hands=None):
    """Run a model once: values by lazycache's points, and values by hand, in one forward pass."""
    values, by_hand, handles = {}, {}, []
    for name, point in points(model).items():
        assert point.field is None
        assert point.call is None

        def keep(value, name=name, point=point):
            tensor = value if point.index is None else value[point.index]
            while not isinstance(tensor, torch.Tensor):
                tensor = tensor[0]
            assert name not in values, f"{name} is met twice"
            kept = tensor if point.cut is None else cut_heads(tensor, point.cut)
            values[name] = kept.detach().clone()

        handles.append(_hook(model, point.path, point.side, keep))
    for name, hand in (hands or {}).items():

        def keep_by_hand(value, name=name, hand=hand):
            tensor = value if hand.pick is None else value[hand.pick]
            # a layer returns its tensor alone in transformers 5, in a tuple in transformers 4
            tensor = tensor[0] if isinstance(tensor, tuple) else tensor
            if hand.heads is not None:
                tensor = tensor.view(*tensor.shape[:-1], hand.heads, -1)
            if hand.cut is not None:
                tensor = hand.cut(tensor)
            by_hand[name] = tensor.detach().clone()

        handles.append(_hook(model, hand.path, hand.side, keep_by_hand))
    with torch.no_grad():
        model(**inputs)
    for handle in handles:
        handle.remove()
    return values, by_hand


def _hook(model, path, side, keep):
    module = model.get_submodule(path)
    if side == "in":
        return module.register_forward_pre_hook(
            lambda _, args, kwargs: keep(args[0] if args else kwargs["hidden_states"]),
            with_kwargs=True,
        )
    return module.register_forward_hook(lambda _module, _args, output: keep(output))


def attentions(model, inputs):
    """Run a model once and return what it says of its attention itself."""
    with torch.no_grad():
        return model(**inputs, output_attentions=True)


def same_bits(values, by_hand):
    """The same sites with the same bits."""
    assert set(values) == set(by_hand), set(values) ^ set(by_hand)
    for name, expected in by_hand.items():
        assert values[name].dtype == expected.dtype, name
        assert torch.equal(values[name], expected), name


def check_residuals(model, values, prefix=""):
    """The sums that the family says hold between its sites."""
    found = stack(model, prefix)
    family = found.family

    def norm(template, layer):
        if template is None:
            return nn.Identity()
        return model.get_submodule(found.path(template, layer=layer))

    def value(kind):  # some models flatten batch and length for the MLP
        return values[prefix + kind].reshape(values[f"{prefix}resid_in_0"].shape)

    close = torch.testing.assert_close
    with torch.no_grad():
        for layer in range(found.layers):
            if layer:
                assert torch.equal(value(f"resid_in_{layer}"), value(f"resid_out_{layer - 1}"))
            if family.parallel:
                added = value(f"attn_out_{layer}") + value(f"mlp_out_{layer}")
                close(value(f"resid_out_{layer}"), value(f"resid_in_{layer}") + added)
                assert "resid_mid" not in family.sites
                continue
            stream = norm(family.attn_norm, layer)(
                value(f"resid_in_{layer}") + value(f"attn_out_{layer}")
            )
            close(value(f"resid_mid_{layer}"), stream)
            if "resid_cross" in family.sites:
                stream = norm(family.cross_norm, layer)(
                    value(f"resid_mid_{layer}") + value(f"cross_attn_out_{layer}")
                )
                close(value(f"resid_cross_{layer}"), stream)
            stream = norm(family.mlp_norm, layer)(stream + value(f"mlp_out_{layer}"))
            close(value(f"resid_out_{layer}"), stream)
    assert torch.equal(value("embed"), value("resid_in_0"))


def check_heads(model, values, prefix=""):
    """What the heads add, summed and with the bias, is what attention adds."""
    found = stack(model, prefix)
    for layer in range(found.layers):
        z = values[f"{prefix}z_{layer}"]
        bound = bind_projection(found, layer)
        bias = getattr(model.get_submodule(bound.path), "bias", None)
        with torch.no_grad():
            out = torch.einsum("bthd,hdm->bthm", z, projection_weight(model, bound)).sum(2)
            out = out if bias is None else out + bias
            if found.family.head_norm is not None:
                out = model.get_submodule(found.path(found.family.head_norm, layer=layer))(out)
        torch.testing.assert_close(values[f"{prefix}attn_out_{layer}"], out)


def check_patterns(model, values, prefix="", scale=None):
    """Rows sum to 1, reproduce `z` from `values` and, if causal, see no later token."""
    found = stack(model, prefix)
    for layer in range(found.layers):
        pattern, z = values[f"{prefix}pattern_{layer}"], values[f"{prefix}z_{layer}"]
        batch, heads, queries, keys = pattern.shape
        assert queries == keys == z.shape[1]
        torch.testing.assert_close(pattern.sum(-1), torch.ones(batch, heads, queries))
        mixed = values[f"{prefix}values_{layer}"]
        mixed = mixed.repeat_interleave(heads // mixed.shape[2], dim=2)
        torch.testing.assert_close(torch.einsum("bhqk,bkhd->bqhd", pattern, mixed), z)
        later = pattern.triu(1)
        assert bool(later.any()) != found.family.causal
        if scale is not None:
            q, k = values[f"{prefix}queries_{layer}"], values[f"{prefix}keys_{layer}"]
            scores = torch.einsum("bqhd,bkhd->bhqk", q, k) * scale
            torch.testing.assert_close(pattern, scores.softmax(-1))
