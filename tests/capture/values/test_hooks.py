"""Hooks: what they see, and that none stays."""

import capture_helpers as h
import pytest
import torch
from torch import nn

from lazycache.capture.sites.names import HookPoint
from lazycache.capture.sites.resolve import resolve
from lazycache.capture.values.hooks import HookSet
from lazycache.errors import CaptureError


class Tupled(nn.Module):
    """Gives a tuple that begins with None, and a dict inside it."""

    def forward(self, x):
        return None, x + 1, {"a": x + 2}


def _see(model, patterns, *args, **kwargs):
    seen = {}
    with HookSet(model, resolve(model, patterns), _keep(seen)):
        model(*args, **kwargs)
    return seen


def _keep(seen):
    def on_value(name, values, _source):
        seen[name] = values

    return on_value


def test_one_hook_serves_all_sites_of_a_module():
    """Sites on the same side of the same module share a hook: embed, resid_in_0 and the path."""
    model, seen = h.make("llama"), {}
    before = h.hook_count(model)
    points = resolve(model, ["embed", "resid_in_0", "model.layers.0:in"])
    with HookSet(model, points, _keep(seen)):
        assert h.hook_count(model) == before + 1
        model(h.ids(1, 3))
    assert len(seen) == 3
    assert seen["embed"] is seen["resid_in_0"] is seen["model.layers.0:in"]


def test_elements_of_tuples_and_mappings():
    """The first tensor is taken by default, another by its index, also of a mapping."""
    model = nn.Sequential(Tupled())
    x = torch.zeros(2, 3)
    seen = _see(model, ["0:out", "0:out[1]", "0:out[2]", "0:in"], x)
    assert seen["0:out"].mean() == 1
    assert seen["0:out[1]"].mean() == 1
    assert seen["0:out[2]"].mean() == 2
    assert torch.equal(seen["0:in"], x)


class Attention(nn.Module):
    """Takes tensors by position or keyword, gives a tuple with perhaps no probabilities."""

    def forward(self, hidden_states, mask=None, *, bias=None, probabilities=None):
        return hidden_states * 2, probabilities, mask, bias


def test_arguments_by_position_and_name():
    """`:in[1]` and `:in.mask` are the same argument, whether it came by position or keyword."""
    model, x, mask, bias = nn.Sequential(), torch.ones(2, 3), torch.zeros(2, 3), torch.ones(2)
    model.add_module("attn", Attention())
    patterns = ["attn:in", "attn:in[1]", "attn:in.mask", "attn:in.bias"]
    points = resolve(model, patterns)
    for args, kwargs in [
        ((x, mask), {}),
        ((x,), {"mask": mask}),
        ((), {"hidden_states": x, "mask": mask}),
    ]:
        seen = {}
        with HookSet(model, points, _keep(seen)):
            model.attn(*args, **kwargs, bias=bias)
        assert seen["attn:in"] is x
        assert seen["attn:in[1]"] is seen["attn:in.mask"] is mask
        assert seen["attn:in.bias"] is bias


def test_an_argument_that_was_not_given_is_named():
    """A site on an argument that a call leaves out says which were given."""
    model = nn.Sequential(Attention())
    with pytest.raises(CaptureError, match=r"0:in\.mask: .* without an argument 'mask'.*hidden_st"):
        _see(model, "0:in.mask", torch.ones(1))
    with pytest.raises(CaptureError, match=r"0:in\[1\]: .* without an argument 1 \(it was given 0"):
        _see(model, "0:in[1]", torch.ones(1))


def test_fields_of_outputs():
    """A field of a mapping, a named tuple or a model output is taken by its name, then by index."""
    model, ids = h.make("gpt2"), h.ids(1, 3)
    seen = _see(model, [":out.logits", ":out.hidden_states[1]"], ids, output_hidden_states=True)
    out = model(ids, output_hidden_states=True)
    assert torch.equal(seen[":out.logits"], out.logits)
    assert torch.equal(seen[":out.hidden_states[1]"], out.hidden_states[1])
    with pytest.raises(CaptureError, match=r"no field 'logit' in .*CausalLM.*Nearest: logits"):
        _see(model, ":out.logit", ids)


def test_heads_are_cut_out():
    """A point with a cut gives heads, not the fused projection."""
    model, ids = h.make("gpt2"), h.ids(1, 3)
    fused = _see(model, "transformer.h.0.attn.c_attn", ids)["transformer.h.0.attn.c_attn:out"]
    keys = _see(model, "keys_0", ids)["keys_0"]
    assert torch.equal(keys, fused[..., h.HIDDEN : 2 * h.HIDDEN].reshape(1, 3, 4, 4))


def test_the_source_is_what_the_module_reads():
    """Beside the value comes the first tensor that the module was called with."""
    model, x, seen = nn.Sequential(Tupled(), nn.Identity()), torch.zeros(2), []
    points = resolve(model, ["0:in", "0:out"])
    with HookSet(model, points, lambda _name, _value, source: seen.append(source)):
        model(x)
    assert seen[0] is x
    assert seen[1] is x


def test_a_pattern_without_eager_attention_says_so():
    """Faster kernels return no probabilities: the error names the cure."""
    model = h.make("llama")
    model.set_attn_implementation("sdpa")
    with pytest.raises(CaptureError, match=r'pattern_0: .*attn_implementation="eager"'):
        _see(model, "pattern_0", h.ids(1, 3))


def test_earlier_hooks_are_seen():
    """A hook that was on the model before and changes an output is part of the model."""
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].register_forward_hook(lambda _module, _args, out: torch.full_like(out, 7.0))
    assert _see(model, "0", torch.zeros(1, 2))["0:out"].tolist() == [[7.0, 7.0]]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_hooks_are_gone_whatever_ends_the_block(error):
    """Errors and interrupts inside the block leave no hook behind."""
    model = h.make("gpt2")

    def end(_name, _value, _source):
        assert h.hook_count(model) > 0
        raise error

    with pytest.raises(error), HookSet(model, resolve(model, "*"), end):
        model(h.ids(1, 3))
    assert h.hook_count(model) == 0


def test_hooks_are_gone_if_one_cannot_be_registered():
    """A point that does not exist leaves none of the hooks that were registered before it."""
    model = nn.Sequential(nn.Linear(2, 2))
    points = {"a": HookPoint("0", "out"), "b": HookPoint("0", "in")}
    hooks = HookSet(model, points, lambda *_: None)
    model[0].register_forward_pre_hook = None  # the second registration fails
    with pytest.raises(TypeError), hooks:
        pass
    assert h.hook_count(model) == 0


def test_entering_twice_is_an_error():
    """The same hooks are not put on twice."""
    model = nn.Sequential(nn.Linear(2, 2))
    hooks = HookSet(model, resolve(model, "0"), lambda *_: None)
    with hooks, pytest.raises(CaptureError, match="already"), hooks:
        pass
    assert h.hook_count(model) == 0


def test_compiled_and_scripted_models_are_refused():
    """Where hooks would silently never run, the capture does not begin."""
    inner = nn.Sequential(nn.Linear(2, 2))
    wrapped = nn.Sequential(torch.compile(inner))
    with pytest.raises(CaptureError, match=r"'0' is compiled with torch\.compile"):
        _see(wrapped, "0._orig_mod.0", torch.zeros(1, 2))
    in_place = nn.Sequential(nn.Linear(2, 2))
    in_place.compile()
    with pytest.raises(CaptureError, match="the model is compiled"):
        _see(in_place, "0", torch.zeros(1, 2))


def test_scripted_modules_are_refused():
    """TorchScript modules take no hooks with keyword arguments."""

    class Scripted(torch.jit.ScriptModule):
        @torch.jit.script_method
        def forward(self, x):
            return x

    with pytest.raises(CaptureError, match="TorchScript"):
        _see(nn.Sequential(Scripted()), "0", torch.zeros(1))
