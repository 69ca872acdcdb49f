"""Every canonical site of every family against hooks that lazycache has no part in."""

import capture_helpers as h
import pytest
import torch

from lazycache.capture.architectures import locate
from lazycache.capture.sites import parse_site

# written by hand from the models' sources, on purpose not from lazycache's table
_LLAMA = {
    "embed": ("model.layers.0", "in"),
    "resid_in": ("model.layers.{}", "in"),
    "attn_in": ("model.layers.{}.input_layernorm", "out"),
    "attn_out": ("model.layers.{}.self_attn.o_proj", "out"),
    "resid_mid": ("model.layers.{}.post_attention_layernorm", "in"),
    "mlp_in": ("model.layers.{}.post_attention_layernorm", "out"),
    "mlp_act": ("model.layers.{}.mlp.down_proj", "in"),
    "mlp_out": ("model.layers.{}.mlp.down_proj", "out"),
    "resid_out": ("model.layers.{}", "out"),
    "final_norm": ("model.norm", "out"),
    "logits": ("lm_head", "out"),
}
_GPT2 = {
    "embed": ("transformer.drop", "out"),
    "resid_in": ("transformer.h.{}.ln_1", "in"),
    "attn_in": ("transformer.h.{}.ln_1", "out"),
    "attn_out": ("transformer.h.{}.attn.resid_dropout", "out"),
    "resid_mid": ("transformer.h.{}.ln_2", "in"),
    "mlp_in": ("transformer.h.{}.ln_2", "out"),
    "mlp_act": ("transformer.h.{}.mlp.act", "out"),
    "mlp_out": ("transformer.h.{}.mlp.dropout", "out"),
    "resid_out": ("transformer.h.{}", "out"),
    "final_norm": ("transformer.ln_f", "out"),
    "logits": ("lm_head", "out"),
}
_BERT = {
    "embed": ("bert.embeddings", "out"),
    "resid_in": ("bert.encoder.layer.{}", "in"),
    "attn_in": ("bert.encoder.layer.{}.attention.self.query", "in"),
    "attn_out": ("bert.encoder.layer.{}.attention.output.dense", "out"),
    "resid_mid": ("bert.encoder.layer.{}.attention.output.LayerNorm", "out"),
    "mlp_in": ("bert.encoder.layer.{}.intermediate.dense", "in"),
    "mlp_act": ("bert.encoder.layer.{}.intermediate", "out"),
    "mlp_out": ("bert.encoder.layer.{}.output.dense", "out"),
    "resid_out": ("bert.encoder.layer.{}.output", "out"),
    "final_norm": ("bert.encoder", "out"),
    "logits": ("cls", "out"),
}


def _expected(name: str, site: str) -> tuple[str, str]:
    table = _GPT2 if name.startswith("gpt2") else _BERT if name.startswith("bert") else _LLAMA
    parsed = parse_site(site)
    path, side = table[parsed.kind]
    if name.endswith("-base"):
        path = path.split(".", 1)[1]
    return path.format(parsed.layer), side


def _record(model, ids):
    """All sites by lazycache, and the same forward pass seen by plain hooks."""
    name = next(n for n, kind in KINDS.items() if type(model) is kind)
    sink, seen, handles = h.ListSink(), {}, []

    def first(value):
        return value if isinstance(value, torch.Tensor) else next(iter(_values(value)))

    def _values(value):
        return value.values() if hasattr(value, "values") else value

    for site in SITES[name]:
        path, side = _expected(name, site)
        module = model.get_submodule(path)
        if side == "in":
            handles.append(
                module.register_forward_pre_hook(
                    lambda _, args, kwargs, site=site: seen.__setitem__(
                        site, (args[0] if args else kwargs["hidden_states"]).clone()
                    ),
                    with_kwargs=True,
                )
            )
        else:
            handles.append(
                module.register_forward_hook(
                    lambda _module, _args, out, site=site: seen.__setitem__(
                        site, first(out).clone()
                    )
                )
            )
    with h.recorder(model, "*", sink), torch.no_grad():
        model(ids)
    for handle in handles:
        handle.remove()
    return sink, seen


KINDS = {name: type(h.make(name)) for name in h.MODELS}
SITES = {name: [str(site) for site in locate(h.make(name)).sites()] for name in h.MODELS}
for _name, _sites in SITES.items():
    if _name.endswith("-base"):
        _sites.remove("logits")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", h.MODELS)
def test_every_site_equals_an_independent_hook_bit_for_bit(name, dtype):
    """What is recorded for each canonical site is the bits that a plain hook sees there."""
    model = h.make(name, dtype=dtype)
    sink, seen = _record(model, h.ids(3, 7))
    assert set(sink.batches[0].sites) == set(SITES[name])
    for site in SITES[name]:
        values = sink.values(site)
        assert values.dtype == seen[site].dtype == dtype
        expected = seen[site].flatten(0, 1)
        assert torch.equal(values.view(torch.uint8), expected.contiguous().view(torch.uint8)), site


@pytest.mark.parametrize("name", h.MODELS)
def test_the_residual_identities_hold(name):
    """`resid_mid` is `resid_in + attn_out`, `resid_out` is `resid_mid + mlp_out`, normed or not."""
    model = h.make(name)
    located = locate(model)
    sink, _ = _record(model, h.ids(3, 7))
    value = sink.values
    for layer in range(h.LAYERS):

        def norm(template, layer=layer):
            path = None if template is None else located.path(template, layer=layer)
            return torch.nn.Identity() if path is None else model.get_submodule(path)

        attn, mlp = norm(located.family.attn_norm), norm(located.family.mlp_norm)
        with torch.no_grad():
            mid = attn(value(f"resid_in_{layer}") + value(f"attn_out_{layer}"))
            out = mlp(value(f"resid_mid_{layer}") + value(f"mlp_out_{layer}"))
        torch.testing.assert_close(value(f"resid_mid_{layer}"), mid)
        torch.testing.assert_close(value(f"resid_out_{layer}"), out)
    assert torch.equal(value("embed"), value("resid_in_0"))
    assert torch.equal(value("resid_out_0"), value("resid_in_1"))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2", "bert"])
def test_padding_is_left_out_and_changes_nothing(name, side):
    """A padded batch gives the rows of the same sequences run one by one."""
    model = h.make(name)
    sequences = [h.ids(1, length, seed=length)[0] for length in (3, 8, 1, 5)]
    single, padded = h.ListSink(), h.ListSink()
    with h.recorder(model, "*", single), torch.no_grad():
        for sequence in sequences:
            model(sequence[None])
    width = max(map(len, sequences))
    batch, mask = torch.zeros(4, width, dtype=torch.long), torch.zeros(4, width, dtype=torch.long)
    for row, sequence in enumerate(sequences):
        real = slice(0, len(sequence)) if side == "right" else slice(width - len(sequence), width)
        batch[row, real], mask[row, real] = sequence, 1
    position_ids = (mask.cumsum(1) - 1).clamp(min=0)
    with h.recorder(model, "*", padded), torch.no_grad():
        model(batch, attention_mask=mask, position_ids=position_ids)
    for column in ("example", "position", "token_id"):
        assert padded.column("tokens", column) == single.column("tokens", column)
    assert padded.column("examples", "length") == [3, 8, 1, 5]
    for site in SITES[name]:
        torch.testing.assert_close(padded.values(site), single.values(site), rtol=1e-4, atol=1e-5)
