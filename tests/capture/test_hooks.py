"""Hooks: what they see, and that none stays."""

import capture_helpers as h
import pytest
import torch
from torch import nn

from lazycache.capture.hooks import HookSet, pick_input, pick_tensor
from lazycache.capture.resolve import resolve
from lazycache.capture.sites import HookPoint
from lazycache.errors import CaptureError


class Tupled(nn.Module):
    """Gives a tuple that begins with None, and a dict inside it."""

    def forward(self, x):
        return None, x + 1, {"a": x + 2}


def _see(model, patterns, *args, **kwargs):
    seen = {}
    with HookSet(model, resolve(model, patterns), seen.__setitem__):
        model(*args, **kwargs)
    return seen


def test_one_hook_serves_all_sites_of_a_module():
    """Sites on the same side of the same module share a hook: embed, resid_in_0 and the path."""
    model, seen = h.make("llama"), {}
    before = h.hook_count(model)
    points = resolve(model, ["embed", "resid_in_0", "model.layers.0:in"])
    with HookSet(model, points, seen.__setitem__):
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


def test_inputs_by_position_keyword_and_name():
    """An input is the first tensor given by position, else `hidden_states`, else the first."""
    one, two = torch.ones(1), torch.ones(2)
    assert pick_input((None, one), {"hidden_states": two}, name="x", index=None) is one
    assert pick_input((None,), {"mask": one, "hidden_states": two}, name="x", index=None) is two
    assert pick_input((), {"a": None, "b": one}, name="x", index=None) is one
    assert pick_input((one, two), {}, name="x", index=1) is two


def test_what_holds_no_tensor_is_an_error_that_names_the_site():
    """A site without a tensor, or without that element, says so by its name."""
    with pytest.raises(CaptureError, match="site_x: there is no tensor in what passes here"):
        pick_tensor((None, "a"), name="site_x", index=None)
    with pytest.raises(CaptureError, match="site_x: element 3 was asked for, but there are 1"):
        pick_tensor((torch.ones(1),), name="site_x", index=3)


def test_earlier_hooks_are_seen():
    """A hook that was on the model before and changes an output is part of the model."""
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].register_forward_hook(lambda _module, _args, out: torch.full_like(out, 7.0))
    assert _see(model, "0", torch.zeros(1, 2))["0:out"].tolist() == [[7.0, 7.0]]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_hooks_are_gone_whatever_ends_the_block(error):
    """Errors and interrupts inside the block leave no hook behind."""
    model = h.make("gpt2")

    def end(_name, _value):
        assert h.hook_count(model) > 0
        raise error

    with pytest.raises(error), HookSet(model, resolve(model, "*"), end):
        model(h.ids(1, 3))
    assert h.hook_count(model) == 0


def test_hooks_are_gone_if_one_cannot_be_registered():
    """A point that does not exist leaves none of the hooks that were registered before it."""
    model = nn.Sequential(nn.Linear(2, 2))
    points = {"a": HookPoint("0", "out"), "b": HookPoint("0", "in")}
    hooks = HookSet(model, points, lambda _name, _value: None)
    model[0].register_forward_pre_hook = None  # the second registration fails
    with pytest.raises(TypeError), hooks:
        pass
    assert h.hook_count(model) == 0


def test_entering_twice_is_an_error():
    """The same hooks are not put on twice."""
    model = nn.Sequential(nn.Linear(2, 2))
    hooks = HookSet(model, resolve(model, "0"), lambda _name, _value: None)
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
