"""tdhook's capture API: what it promises, and the defects it has there."""

import re

import pytest
import torch
from tensordict import TensorDict
from torch import nn

import lazycache as lc
from lazycache.capture.caching.activation_caching import ActivationCaching
from lazycache.errors import CaptureError, SiteNotFoundError


class Net(nn.Module):
    """Two blocks, a list that is never called, a module that is called twice."""

    def __init__(self):
        super().__init__()
        self.linear1 = nn.Linear(4, 6)
        self.linear10 = nn.Linear(6, 6)
        self.act = nn.ReLU(inplace=True)
        self.blocks = nn.ModuleList([nn.Linear(6, 6)])
        self.pair = Pair()

    def forward(self, x):
        x = self.act(self.linear1(x))
        x = self.act(self.linear10(x) - 1)
        return self.pair(self.blocks[0](x))[0]


class Pair(nn.Module):
    """Gives a tuple."""

    def forward(self, x):
        return x * 2, None


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def x():
    return torch.randn(3, 4)


def hooks_of(model):
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


def seen(model, x, path):
    """What a plain hook sees, copied at once."""
    found = []
    handle = model.get_submodule(path).register_forward_hook(
        lambda _m, _a, out: found.append((out if torch.is_tensor(out) else out[0]).clone())
    )
    model(x)
    handle.remove()
    return found


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("linear1", {"linear1", "linear10"}),
        ("linear1$", {"linear1"}),
        (r"blocks\.", {"blocks.0"}),
        ("", {"linear1", "linear10", "act", "act@0", "act@1", "blocks.0", "pair"}),
        (".*", {"linear1", "linear10", "act", "act@0", "act@1", "blocks.0", "pair"}),
    ],
)
def test_a_pattern_is_matched_from_the_start_of_a_name(model, x, pattern, names):
    """`re.match` semantics: anchored at the start, not at the end; containers never match."""
    with ActivationCaching(pattern).prepare(model) as hooked:
        hooked(x)
    assert set(hooked.cache) == names


def test_values_are_copies_that_in_place_operations_cannot_reach(model, x):
    """An in-place ReLU after a linear layer leaves what was cached of the layer alone."""
    expected = seen(model, x, "linear1")[0]
    with ActivationCaching("linear1$").prepare(model) as hooked:
        hooked(x)
    assert torch.equal(hooked.cache["linear1"], expected)
    assert expected.min() < 0
    assert not hooked.cache["linear1"].requires_grad


def test_a_module_that_is_called_twice_keeps_every_call(model, x):
    """The name has the last call, `name@k` each of them."""
    expected = seen(model, x, "act")
    with ActivationCaching("act").prepare(model) as hooked:
        hooked(x)
        hooked(x)  # counts anew in each forward pass
    assert torch.equal(hooked.cache["act@0"], expected[0])
    assert torch.equal(hooked.cache["act@1"], expected[1])
    assert torch.equal(hooked.cache["act"], expected[1])
    assert set(hooked.cache) == {"act", "act@0", "act@1"}


def test_the_newest_forward_pass_is_kept(model, x):
    """A key holds the last forward pass, whatever its batch size."""
    with ActivationCaching("linear1$").prepare(model) as hooked:
        hooked(x)
        hooked(x[:1])
    assert hooked.cache["linear1"].shape == (1, 6)


def test_a_tuple_gives_its_first_tensor(model, x):
    """Outputs that are tuples need no callback."""
    with ActivationCaching("pair").prepare(model) as hooked:
        out = hooked(x)
    assert torch.equal(hooked.cache["pair"], out)


def test_names_that_are_not_relative_have_a_prefix(model, x):
    """`relative=False` matches and stores `module.NAME`."""
    with ActivationCaching("module.linear1$", relative=False).prepare(model) as hooked:
        hooked(x)
    assert list(hooked.cache) == ["module.linear1"]


def test_several_directions_nest_the_keys(model, x):
    """`(direction, name)` keys; inputs, outputs and gradients are what torch's hooks hand over."""
    expected = {}
    layer = model.linear10
    handles = [
        layer.register_full_backward_hook(
            lambda _m, _in, grad_out: expected.update(grad=grad_out[0].clone())
        ),
        layer.register_forward_hook(
            lambda _m, args, out: expected.update(args=args[0].clone(), out=out.clone())
        ),
    ]
    caching = ActivationCaching(
        "linear10", directions=["fwd", "fwd_pre", "bwd", "bwd_pre", "fwd_kwargs", "fwd_pre_kwargs"]
    )
    with caching.prepare(model) as hooked:
        hooked(x).square().sum().backward()
    cache = hooked.cache
    assert set(cache) == {(d.name, "linear10") for d in caching.directions}
    assert torch.equal(cache["fwd", "linear10"], expected["out"])
    assert torch.equal(cache["fwd_kwargs", "linear10"], expected["out"])
    assert torch.equal(cache["fwd_pre", "linear10"], expected["args"])
    assert torch.equal(cache["fwd_pre_kwargs", "linear10"], expected["args"])
    assert torch.equal(cache["bwd", "linear10"], expected["grad"])
    assert torch.equal(cache["bwd_pre", "linear10"], expected["grad"])
    for handle in handles:
        handle.remove()


def test_one_direction_nests_its_keys_if_asked(model, x):
    """`use_nested_keys=True` with one direction."""
    with ActivationCaching("linear1$", use_nested_keys=True).prepare(model) as hooked:
        hooked(x)
    assert list(hooked.cache) == [("fwd", "linear1")]


def test_a_callback_gets_the_arguments_of_its_direction_by_name(model, x):
    """It is called with module, args, output, key and direction; its result is cached."""
    calls = []

    def callback(*, module, args, output, key, direction):
        calls.append((module, args[0].shape, key, direction))
        return output.mean(0)

    with ActivationCaching("linear1$", callback=callback).prepare(model) as hooked:
        hooked(x)
    assert calls == [(model.linear1, (3, 4), "linear1", "fwd")]
    assert hooked.cache["linear1"].shape == (6,)


@pytest.mark.parametrize(
    ("callback", "directions"),
    [
        (lambda output: output, None),
        (lambda module, args, output: (module, args, output), None),
        (lambda module, args, output, /, **_: (module, args, output), None),
        (lambda *, grad_output, **_: grad_output, ["bwd", "fwd"]),
        ("mean", None),
    ],
)
def test_a_callback_that_could_not_be_called_is_refused_at_construction(callback, directions):
    """Missing `key` and `direction`, positional-only names, names that one direction lacks."""
    with pytest.raises(CaptureError, match="callback"):
        ActivationCaching(".*", callback=callback, directions=directions)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"key_pattern": "("}, "regular expression"),
        ({"key_pattern": 3}, "str"),
        ({"key_pattern": ".*", "directions": ["forward"]}, "'forward'"),
        ({"key_pattern": ".*", "directions": "fwd"}, "list"),
        ({"key_pattern": ".*", "directions": []}, "list"),
        ({"key_pattern": ".*", "directions": ["fwd", "fwd"]}, "twice"),
        ({"key_pattern": ".*", "cache": [1]}, "mapping"),
    ],
)
def test_bad_arguments_are_refused_at_construction(arguments, said):
    """Patterns, directions and caches are checked before there is a model."""
    with pytest.raises(CaptureError, match=said):
        ActivationCaching(**arguments)


@pytest.mark.parametrize("pattern", ["1", "nothing", "blocks$"])
def test_a_pattern_that_matches_nothing_that_is_called_is_refused(model, pattern):
    """Also one that matches only a container; the error names modules."""
    with pytest.raises(SiteNotFoundError, match=re.escape(repr(pattern))):
        ActivationCaching(pattern).prepare(model)


def test_a_value_that_is_no_tensor_is_a_runtime_error(model, x):
    """The error names the key and asks for a callback."""
    with pytest.raises(RuntimeError, match=r"'linear1'.*not supported for caching"):
        with ActivationCaching("linear1$", callback=lambda **_: 3).prepare(model) as hooked:
            hooked(x)
    assert hooks_of(model) == 0


def test_a_context_is_not_entered_twice_at_once(model, x):
    """A second entry is refused; after leaving it may be entered again and starts empty."""
    context = ActivationCaching("linear1$").prepare(model)
    with context as hooked:
        hooked(x)
        with pytest.raises(RuntimeError, match="entered already"):
            context.__enter__()
    with context:
        assert not context.cache
    assert hooks_of(model) == 0


def test_entries_are_kept_if_asked(model, x):
    """`clear_cache=False` keeps what an earlier context cached."""
    caching = ActivationCaching("linear1$", clear_cache=False)
    with caching.prepare(model) as hooked:
        hooked(x)
    caching.key_pattern = "linear10"
    with caching.prepare(model) as hooked:
        hooked(x)
    assert set(caching.cache) == {"linear1", "linear10"}


def test_what_somebody_else_put_into_the_mapping_stays(model, x):
    """Clearing removes what this object cached, not its owner's entries."""
    mine = {"note": 1}
    caching = ActivationCaching("linear1", cache=mine)
    with caching.prepare(model) as hooked:
        hooked(x)
    caching.key_pattern = "linear10"
    with caching.prepare(model) as hooked:
        hooked(x)
    assert caching.cache is mine
    assert set(mine) == {"note", "linear10"}


def test_hooks_can_be_disabled_for_a_block(model, x):
    """Inside `disable_hooks()` nothing is cached, after it is again."""
    with ActivationCaching("linear1$").prepare(model) as hooked:
        with hooked.hooking_context.disable_hooks(), hooked.disable():
            hooked(x)
        assert not hooked.cache
        hooked(x)
        assert set(hooked.cache) == {"linear1"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_hooks_are_gone_after_an_error(model, x, error):
    """Whatever ends the block, no hook stays, and what was cached can be read."""
    with pytest.raises(error):
        with ActivationCaching("blocks", directions=["fwd", "bwd"]).prepare(model) as hooked:
            hooked(x)
            raise error
    assert hooks_of(model) == 0
    assert ("fwd", "blocks.0") in hooked.cache


def test_a_model_is_not_called_through_a_context_that_was_left(model, x):
    """The hooked model refuses outside its context."""
    with ActivationCaching("linear1$").prepare(model) as hooked:
        pass
    with pytest.raises(RuntimeError, match="left"):
        hooked(x)


def test_a_backward_pass_after_the_context_fills_nothing(model, x):
    """Hooks that the graph still holds are silent."""
    with ActivationCaching("blocks", directions=["bwd"]).prepare(model) as hooked:
        out = hooked(x)
    out.sum().backward()
    assert not hooked.cache


def test_a_compiled_model_is_refused(model):
    """Its hooks would never run."""
    model.compile()
    with pytest.raises(CaptureError, match="compiled"):
        with ActivationCaching(".*").prepare(model):
            pass


def test_a_tensordict_is_filled_with_nested_keys(model, x):
    """Nested keys are nested in it, and it keeps its batch size."""
    store = TensorDict(batch_size=[3])
    caching = ActivationCaching("linear1$", cache=store, directions=["fwd", "fwd_pre"])
    with caching.prepare(model) as hooked:
        hooked(x)
    assert hooked.cache is store
    assert torch.equal(store["fwd_pre", "linear1"], x)
    assert store["fwd", "linear1"].shape == (3, 6)
    with caching.prepare(model):  # clears
        assert ("fwd", "linear1") not in store.keys(include_nested=True)


def test_a_value_that_does_not_fit_the_batch_size_of_a_tensordict_is_an_error(model, x):
    """Its own message is in ours."""
    store = TensorDict(batch_size=[7])
    with pytest.raises(RuntimeError, match="linear1"):
        with ActivationCaching("linear1$", cache=store).prepare(model) as hooked:
            hooked(x)


def test_a_callback_may_give_a_tensordict(model, x):
    """It is stored nested under the key."""

    def callback(*, output, **_):
        return TensorDict({"mean": output.mean(0), "max": output.amax(0)})

    store = TensorDict()
    with ActivationCaching("linear1$", cache=store, callback=callback).prepare(model) as hooked:
        hooked(x)
    assert store["linear1", "mean"].shape == (6,)


def test_a_locked_tensordict_is_written_in_place_and_never_broadcast(model, x, tmp_path):
    """A memory-mapped store takes what fits exactly; a last batch of one is refused."""
    store = TensorDict({"linear1": torch.zeros(3, 6)}, batch_size=[3]).memmap_(tmp_path)
    expected = seen(model, x, "linear1")[0]
    caching = ActivationCaching("linear1$", cache=store, clear_cache=False)
    with caching.prepare(model) as hooked:
        hooked(x)
        assert torch.equal(store["linear1"], expected)
        with pytest.raises(RuntimeError, match="never converted"):
            hooked(x[:1])
    assert torch.equal(TensorDict.load_memmap(tmp_path)["linear1"], expected)


@pytest.fixture
def net():
    """A model of tokens, whose linear layer is called once."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 6), nn.GELU())


def test_a_dataset_gets_every_forward_pass(net, tmp_path):
    """Rows of two batches, and of a second context, are added; the values are those of a hook."""
    batches = [torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([[7, 8]])]
    caching = lc.ActivationCaching("1", cache=tmp_path / "acts", directions=["fwd", "fwd_pre"])
    with caching.prepare(net) as hooked:
        for ids in batches:
            hooked(ids)
    with caching.prepare(net) as hooked:
        hooked(batches[0])
    cache = hooked.cache
    assert list(cache) == ["1:in", "1:out"]
    assert list(cache.snapshot.runs) == ["caching-1", "caching-2"]
    expected = [net[1](net[0](ids)).detach() for ids in (*batches, batches[0])]
    loaded = cache["1:out"]
    assert [int(n) for n in loaded.lengths] == [3, 3, 2, 3, 3]
    whole = torch.cat([part.flatten(0, 1) for part in expected])
    assert torch.equal(loaded.rows.load(), whole)
    assert hooks_of(net) == 0


def test_a_dataset_gets_what_a_callback_gives(net, tmp_path):
    """The callback's tensor is stored in place of the module's."""
    caching = lc.ActivationCaching(
        "1", cache=str(tmp_path / "acts"), callback=lambda *, output, **_: output[..., :2] * 2
    )
    ids = torch.tensor([[1, 2, 3]])
    with caching.prepare(net) as hooked:
        hooked(ids)
    expected = (net[1](net[0](ids))[..., :2] * 2).detach()
    assert torch.equal(hooked.cache["1:out"].load(), expected)


def test_a_dataset_gets_gradients(net, tmp_path):
    """`bwd` stores the gradient of the output with the rows of its forward pass."""
    caching = lc.ActivationCaching("1", cache=tmp_path / "acts", directions=["fwd", "bwd"])
    ids = torch.tensor([[1, 2, 3]])
    with caching.prepare(net) as hooked:
        hooked(ids).sum().backward()
    out = net[1](net[0](ids)).detach().requires_grad_()
    net[2](out).sum().backward()
    assert torch.equal(hooked.cache["1:grad_out"].load(), out.grad)


def test_a_dataset_gets_nothing_while_hooks_are_disabled(net, tmp_path):
    """Forward passes in `disable_hooks()` leave no rows."""
    with lc.ActivationCaching("1", cache=tmp_path / "acts").prepare(net) as hooked:
        hooked(torch.tensor([[1]]))
        with hooked.disable_hooks():
            hooked(torch.tensor([[2, 3]]))
    assert hooked.cache["1:out"].shape == (1, 1, 6)


def test_a_dataset_is_read_after_the_context(net, tmp_path):
    """Inside it, the cache says when it can be read."""
    with lc.ActivationCaching("1", cache=tmp_path / "acts").prepare(net) as hooked:
        hooked(torch.tensor([[1]]))
        with pytest.raises(CaptureError, match="context was left"):
            _ = hooked.cache


def test_what_was_whole_is_in_the_dataset_after_an_error(net, tmp_path):
    """An exception in the block keeps the forward passes before it, and no hook."""
    caching = lc.ActivationCaching("1", cache=tmp_path / "acts")
    with pytest.raises(KeyError):
        with caching.prepare(net) as hooked:
            hooked(torch.tensor([[1]]))
            raise KeyError
    assert lc.open(tmp_path / "acts")["1:out"].shape == (1, 1, 6)
    assert hooks_of(net) == 0


def test_an_activation_cache_is_filled_and_gathers_batches(model, x):
    """`cache=None` gives one in memory; `cat` keeps every batch, though the next one overwrites."""
    total = lc.ActivationCache()
    with lc.ActivationCaching("linear").prepare(model) as hooked:
        for batch in (x, x[:1], 2 * x):
            hooked(batch)
            total.cat(hooked.cache)
    assert isinstance(hooked.cache, lc.ActivationCache)
    assert list(total) == ["linear1", "linear10"]
    expected = [seen(model, batch, "linear1")[0] for batch in (x, x[:1], 2 * x)]
    assert torch.equal(total["linear1"], torch.cat(expected))


def test_keys_of_several_directions_are_kept_in_a_dict(model, x):
    """Pairs are no keys of an ActivationCache."""
    with lc.ActivationCaching("linear1$", use_nested_keys=True).prepare(model) as hooked:
        hooked(x)
    assert type(hooked.cache) is dict
    assert list(hooked.cache) == [("fwd", "linear1")]
