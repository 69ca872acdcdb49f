"""Gradients: against torch's own hooks, bound to their forward pass, never lost in silence."""

import threading

import capture_helpers as h
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lazycache.capture.passes import MAX_WAITING
from lazycache.capture.values.gradients import Awaited
from lazycache.errors import CaptureError

IDS = h.ids(2, 4)


class Block(nn.Module):
    """A residual block: its input is used beside the module too."""

    def __init__(self):
        super().__init__()
        self.inner, self.same = nn.Linear(4, 4), nn.Identity()

    def forward(self, x):
        return x + self.inner(self.same(x))


class Net(nn.Module):
    """Embedding and two blocks."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(h.VOCAB, 4)
        self.blocks = nn.Sequential(Block(), Block())

    def forward(self, input_ids):
        return self.blocks(self.embed(input_ids))


@pytest.fixture
def sink():
    return h.ListSink()


def _loss(out):
    weights = torch.linspace(-1, 1, out.numel()).view_as(out)
    return (out**2 * weights).sum()


def _torchs_own(model, paths, ids):
    """The gradients of torch's full backward hooks: path to (of the input, of the output)."""
    seen, handles = {}, []
    for path in paths:

        def hook(_module, of_input, of_output, path=path):
            seen[path] = of_input[0], of_output[0]

        handles.append(model.get_submodule(path).register_full_backward_hook(hook))
    _loss(model(ids)).backward()
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("path", ["blocks.0", "blocks.1.inner", "blocks.1.same", "blocks.0.same"])
def test_raw_sides_are_those_of_torchs_backward_hooks(sink, path):
    """`grad_in` is the gradient through this module only, `grad_out` that of what it returns."""
    model = Net()
    of_input, of_output = _torchs_own(model, [path], IDS)[path]
    with h.recorder(model, [f"{path}:grad_in", f"{path}:grad_out"], sink):
        _loss(model(IDS)).backward()
    assert torch.equal(sink.values(f"{path}:grad_in"), of_input.flatten(0, 1))
    assert torch.equal(sink.values(f"{path}:grad_out"), of_output.flatten(0, 1))
    assert h.hook_count(model) == 0


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert"])
def test_canonical_gradients_are_total(sink, family):
    """`resid_out_0:grad` is what `retain_grad` on the stream says, wherever the stream is used."""
    model, states = h.make(family), {}

    def keep(_module, _args, output):
        states["resid_out_0"] = output[0] if isinstance(output, tuple) else output
        states["resid_out_0"].retain_grad()

    layer = {"gpt2": "transformer.h.0", "llama": "model.layers.0", "bert": "bert.encoder.layer.0"}
    handle = model.get_submodule(layer[family]).register_forward_hook(keep)
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    with h.recorder(model, ["resid_out_0:grad", "resid_out_0", "z_1:grad"], sink):
        _loss(model(IDS, attention_mask=mask).logits).backward()
    handle.remove()
    expected = states["resid_out_0"].grad[mask == 1]
    assert torch.equal(sink.values("resid_out_0:grad"), expected)
    assert torch.equal(sink.values("resid_out_0"), states["resid_out_0"].detach()[mask == 1])
    assert sink.values("z_1:grad").shape == (7, 4, 4)
    assert sink.batches[0].sites["resid_out_0:grad"].table == "tokens"


def test_gradients_of_fused_projections_are_cut(sink):
    """The gradient of the keys is the part of the gradient of the fused projection."""
    model = h.make("gpt2")
    with h.recorder(model, ["keys_0:grad", "transformer.h.0.attn.c_attn:grad_out"], sink):
        _loss(model(IDS).logits).backward()
    fused = sink.values("transformer.h.0.attn.c_attn:grad_out")
    cut = fused[:, h.HIDDEN : 2 * h.HIDDEN].reshape(8, 4, 4)
    assert torch.equal(sink.values("keys_0:grad"), cut)


def test_a_gradient_through_one_use_is_less_than_the_total(sink):
    """What enters a block of a residual stream has two uses; `grad_in` of the inner one is one."""
    model = Net()
    with h.recorder(model, ["blocks.0.inner:grad_in", "blocks.0:grad_in"], sink):
        _loss(model(IDS)).backward()
    inner, whole = sink.values("blocks.0.inner:grad_in"), sink.values("blocks.0:grad_in")
    assert not torch.equal(inner, whole)


def test_inputs_given_by_keyword(sink):
    """`grad_in` works on arguments by keyword, which torch's own hooks never see."""

    class Keyword(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.inner = nn.Embedding(h.VOCAB, 4), Block()

        def forward(self, input_ids):
            x = self.embed(input_ids)
            return self.inner(x=x) + x

    model = Keyword()
    x = model.embed(IDS).detach().requires_grad_()
    out = model.inner(x)
    (of_input,) = torch.autograd.grad(out, x, torch.ones_like(out))
    with h.recorder(model, ["inner:grad_in", "inner:grad_in.x"], sink):
        model(IDS).sum().backward()
    assert torch.equal(sink.values("inner:grad_in"), of_input.flatten(0, 1))
    assert torch.equal(sink.values("inner:grad_in.x"), of_input.flatten(0, 1))


def test_elements_of_tuples(sink):
    """An element of a tuple has the gradient of what is done with it outside the module."""

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.proj = nn.Linear(3, 3)

        def forward(self, x):
            weights = self.proj(x)
            return weights * 2, weights

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.two = Two()

        def forward(self, x):
            out, weights = self.two(x)
            return out.sum() + 3 * weights.sum()

    model, x = Outer(), torch.randn(2, 3)
    with h.recorder(model, ["two:grad_out[0]", "two:grad_out[1]"], sink):
        model(x).backward()
    assert torch.equal(sink.values("two:grad_out[0]"), torch.ones(2, 3))
    assert torch.equal(sink.values("two:grad_out[1]"), torch.full((2, 3), 3.0))


def test_modules_that_overwrite_their_tensors(sink):
    """In-place activations and sums, as convolutional networks have them, keep their gradients."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True), nn.Linear(3, 2))
    x, states = torch.randn(5, 3), {}
    before = model[0](x)
    before.retain_grad()
    after = torch.relu(before)
    after.retain_grad()
    model[2](after).sum().backward()
    states = {"0:grad_out": before.grad, "1:grad_in": before.grad, "1:grad_out": after.grad}
    with h.recorder(model, [*states, "2:grad_in"], sink):
        model(x).sum().backward()
    for name, expected in states.items():
        assert torch.equal(sink.values(name), expected), name
    assert torch.equal(sink.values("2:grad_in"), after.grad)


def test_batches_are_bound_to_their_forward_pass(sink):
    """Backward passes after several forwards, and in another order, give each its own rows."""
    model = Net()
    single = {}
    for seed in range(3):
        ids = h.ids(1, 3, seed=seed)
        single[seed] = _torchs_own(model, ["blocks.0"], ids)["blocks.0"][1].flatten(0, 1)
    with h.recorder(model, ["blocks.0:grad_out", "embed"], sink) as record:
        losses = []
        for seed in range(3):
            record.annotate(seed=[seed])
            losses.append(_loss(model(h.ids(1, 3, seed=seed))))
        assert sink.batches == []
        for seed in (1, 0):
            losses[seed].backward()
        losses[2].backward()
    assert sink.column("examples", "seed") == [1, 0, 2]
    assert sink.column("examples", "example") == [1, 0, 2]
    for batch, seed in zip(sink.batches, (1, 0, 2), strict=True):
        assert torch.equal(batch.sites["blocks.0:grad_out"].values, single[seed])
        assert torch.equal(batch.sites["embed:out"].values, model.embed(h.ids(1, 3, seed=seed))[0])


def test_one_backward_of_several_forwards(sink):
    """A loss over accumulated passes completes all of them."""
    model = Net()
    with h.recorder(model, "blocks.1:grad_out", sink) as record:
        (_loss(model(IDS)) + _loss(model(IDS[:1]))).backward()
    assert record.passes.forwards == 2
    assert sorted(sink.column("examples", "example")) == [0, 1, 2]


def test_a_second_backward_changes_nothing(sink):
    """Of a graph that is kept, the first gradients are recorded, once."""
    model = Net()
    with h.recorder(model, "blocks.0:grad_out", sink) as record:
        loss = _loss(model(IDS))
        loss.backward(retain_graph=True)
        first = sink.values("blocks.0:grad_out")
        (3 * loss).backward()
    assert (record.passes.forwards, len(sink.batches)) == (1, 1)
    assert torch.equal(sink.values("blocks.0:grad_out"), first)


def test_gradients_that_never_come_are_reported(sink):
    """A pass that no loss depends on is counted and its sites are named."""
    model = Net()
    record = h.recorder(model, "blocks.0:grad_out", sink)
    says = r"not recorded: 1\. of 1 forward passes gradients never came: blocks\.0:grad_out"
    with pytest.warns(RuntimeWarning, match=says), record:  # noqa: PT031
        _loss(model(IDS)).backward()
        model(IDS)
    assert (record.passes.forwards, record.passes.dropped) == (1, 1)
    assert sink.column("examples", "example") == [0, 1]


def test_a_block_without_any_backward_is_an_error(sink):
    """Nothing was recorded, and the message says that a backward pass is needed."""
    model = Net()
    record = h.recorder(model, "blocks.0:grad_out", sink)
    with pytest.raises(CaptureError, match=r"gradients never came: blocks\.0:grad_out.*backward"):
        with record:
            model(IDS)
    assert h.hook_count(model) == 0


def test_a_backward_after_the_block_is_too_late(sink):
    """The sink is closed then: nothing reaches it, and nothing breaks."""
    model = Net()
    record = h.recorder(model, "blocks.0:grad_out", sink)
    with pytest.warns(RuntimeWarning, match="gradients never came"), record:  # noqa: PT031
        _loss(model(IDS)).backward()
        late = _loss(model(IDS))
    late.backward()
    assert len(sink.batches) == 1


def test_passes_that_wait_are_bounded(sink):
    """Forward passes without a backward pass do not fill the memory in silence."""
    model = Net()
    record = h.recorder(model, "blocks.0:grad_out", sink)
    with pytest.raises(CaptureError, match=f"{MAX_WAITING} forward passes wait for their gradien"):
        with record:
            for _ in range(MAX_WAITING + 1):
                model(IDS)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_forward_passes_without_autograd_are_refused(sink, mode):
    """Under `no_grad` no gradient can come: said before the model runs."""
    model = Net()
    record = h.recorder(model, "blocks.0:grad_out", sink)
    with pytest.raises(CaptureError, match=rf"under torch\.{mode.__name__}"), record, mode():
        model(IDS)
    assert sink.batches == []


def test_frozen_parameters_are_refused(sink):
    """A tensor that comes from nothing that requires a gradient has none."""
    model = Net().requires_grad_(requires_grad=False)
    record = h.recorder(model, "blocks.0:grad_out", sink)
    with pytest.raises(CaptureError, match=r"blocks\.0:grad_out: there is no gradient, .*frozen"):
        with record:
            model(IDS)
    record = h.recorder(Net(), "embed:grad_in", sink)
    with pytest.raises(CaptureError, match=r"embed:grad_in: .*it is int64"), record:
        record._model(IDS)


def test_reentrant_checkpoints_are_refused(sink):
    """They run the forward pass without autograd: the message says how to checkpoint instead."""
    model = h.make("llama").train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    record = h.recorder(model, "attn_out_0:grad", sink)
    with pytest.raises(CaptureError, match=r"attn_out_0:grad: .*use_reentrant=False"), record:
        model(inputs_embeds=model.model.embed_tokens(IDS), use_cache=False)
    assert sink.batches == []


def test_checkpoints_that_keep_the_graph_have_the_same_gradients(sink):
    """With `use_reentrant=False` values and gradients equal those of the model without them."""
    model, plain = h.make("llama").train(), h.ListSink()
    sites = ["attn_out_*:grad", "mlp_out_*", "model.layers.1.mlp:grad_in", "resid_out_0:grad"]
    with h.recorder(model, sites, plain):
        _loss(model(IDS, use_cache=False).logits).backward()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    with h.recorder(model, sites, sink) as record:
        _loss(model(IDS, use_cache=False).logits).backward()
    assert (record.passes.forwards, len(sink.batches)) == (1, 1)
    assert record.passes.stray > 0
    for site in plain.batches[0].sites:
        assert torch.equal(sink.values(site), plain.values(site)), site


def test_a_checkpoint_around_the_whole_model_gives_no_double_rows(sink):
    """The second run of the model inside the backward pass is no new example."""
    model = Net()
    with h.recorder(model, ["blocks.0", "blocks.0:grad_out"], sink) as record:
        loss = _loss(checkpoint(model, IDS, use_reentrant=False))
        loss.backward()
    assert (record.passes.forwards, record.passes.dropped) == (1, 0)
    assert sink.column("examples", "example") == [0, 1]


def test_modules_called_several_times(sink):
    """Each call has its own gradient, in the order of the calls, not of the backward pass."""

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.shared = nn.Embedding(h.VOCAB, 4), nn.Linear(4, 4)

        def forward(self, input_ids):
            first = self.shared(self.embed(input_ids))
            return self.shared(first)

    model = Twice()
    first = model.shared(model.embed(IDS))
    second = model.shared(first)
    grads = torch.autograd.grad(_loss(second), [first, second])
    with h.recorder(model, ["shared:grad_out", "shared:grad_out@1"], sink):
        _loss(model(IDS)).backward()
    block = sink.batches[0].sites["shared:grad_out"]
    assert block.table == "calls"
    assert torch.equal(block.values, torch.cat([grad.flatten(0, 1) for grad in grads]))
    assert torch.equal(sink.values("shared:grad_out@1"), grads[1].flatten(0, 1))


def test_an_error_of_the_sink_surfaces_in_backward(sink):
    """A writer that fails is seen where the last gradient came, and the pass counts as dropped."""
    model = Net()

    def fail(batch):
        raise OSError(28, "disk full")

    sink.write = fail
    record = h.recorder(model, "blocks.0:grad_out", sink)
    with pytest.raises(OSError, match="disk full"), record:
        _loss(model(IDS)).backward()
    assert (record.passes.forwards, record.passes.dropped) == (0, 1)
    assert h.hook_count(model) == 0


def test_a_pass_that_raised_waits_for_nothing(sink):
    """Gradients of a forward pass that was stopped are taken by nobody."""

    class Stopped(Net):
        def forward(self, input_ids, stop=False):
            x = super().forward(input_ids)
            if stop:
                self.left = x
                raise ValueError("stop")
            return x

    model = Stopped()
    record = h.recorder(model, "blocks.0:grad_out", sink)
    with pytest.warns(RuntimeWarning, match="not recorded: 1. An exception"), record:  # noqa: PT031
        with pytest.raises(ValueError, match="stop"):
            model(IDS, stop=True)
        _loss(model.left).backward()
        _loss(model(IDS)).backward()
    assert sink.column("examples", "example") == [0, 1]


def test_backward_in_another_thread(sink):
    """Autograd runs hooks in threads of its own on accelerators: the pass is found all the same."""
    model = Net()
    with h.recorder(model, ["blocks.0:grad_out", "blocks.1:grad_in"], sink) as record:
        losses = [_loss(model(h.ids(1, 3, seed=seed))) for seed in range(6)]
        threads = [threading.Thread(target=loss.backward) for loss in losses]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert record.passes.forwards == 6
    assert sorted(sink.column("examples", "example")) == list(range(6))


def test_gradients_can_be_brought():
    """What was promised is given by name, the first that has not come."""
    seen = []
    awaited = Awaited(lambda: seen.append("whole"))
    awaited.promise("x", seen.append)
    awaited.promise("x", lambda gradient: seen.append(-gradient))
    assert not awaited.seal()
    awaited.give("y", torch.ones(1))
    awaited.give("x", torch.ones(1))
    assert awaited.lacks("x")
    awaited.give("x", torch.ones(1))
    assert seen == [torch.ones(1), -torch.ones(1), "whole"]
    assert not awaited.lacks("x")
    assert awaited.close() == []


def test_an_output_that_the_loss_does_not_use_has_not_come():
    """An operation with several outputs calls hooks of the unused ones with nothing."""
    x, seen = torch.ones(2, 2, requires_grad=True), []
    first, second = x.split(1, 1)
    awaited = Awaited(lambda: seen.append("whole"))
    awaited.expect("first", first, seen.append)
    awaited.expect("second", second, seen.append)
    first.sum().backward()
    assert not awaited.seal()
    assert awaited.close() == ["second"]
