"""Features of torch and its neighbours under a capture: the dtype, the rows, the hooks."""

import warnings

import capture_helpers as h
import pytest
import torch
from torch import nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    ViTConfig,
    ViTForImageClassification,
)

import lazycache as lc
from lazycache.errors import CaptureError

IDS = h.ids(2, 4)
X = torch.ones(2, 3)


@pytest.fixture
def sink():
    return h.ListSink()


def test_autocast_stores_what_comes_out(sink):
    """A linear layer gives bfloat16 under autocast, a norm float32: each is stored as it is."""
    model, seen = h.make("llama"), {}
    handle = model.model.layers[0].mlp.down_proj.register_forward_hook(
        lambda _module, _args, out: seen.setdefault("out", out)
    )
    sites = ["model.layers.0.mlp.down_proj", "model.norm"]
    with h.recorder(model, sites, sink), torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model(IDS)
    handle.remove()
    values = sink.values("model.layers.0.mlp.down_proj:out")
    assert values.dtype == torch.bfloat16
    assert torch.equal(values, seen["out"].flatten(0, 1))
    assert sink.values("model.norm:out").dtype == torch.float32


def test_gradients_under_autocast(sink):
    """The gradient of a bfloat16 output is bfloat16."""
    model = h.make("llama")
    site = "model.layers.0.mlp.down_proj:grad_out"
    with h.recorder(model, site, sink):
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(IDS).logits.sum()
        loss.backward()
    assert sink.values(site).dtype == torch.bfloat16


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_gradient_checkpoints_give_no_double_rows(sink, reentrant, training):
    """Both variants, in training and evaluation: each layer is recorded once, as without them."""
    model, plain = h.make("llama"), h.ListSink()
    sites = ["resid_out_*", "attn_out_*", "embed"]

    def run(target):
        with h.recorder(model, sites, target) as record:
            embeds = model.model.embed_tokens(IDS).detach().requires_grad_()
            model(inputs_embeds=embeds, use_cache=False).logits.sum().backward()
        return record

    run(plain)
    options = {"use_reentrant": reentrant}
    model.train(training).gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
    record = run(sink)
    assert (record.passes.forwards, record.passes.dropped, len(sink.batches)) == (1, 0, 1)
    assert (record.passes.stray > 0) is training
    for site in plain.batches[0].sites:
        assert torch.equal(sink.values(site), plain.values(site)), site


@pytest.fixture
def gloo(tmp_path):
    """A group of this one process."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("gloo")
@pytest.mark.parametrize("wrapped", [True, False])
def test_distributed_data_parallel(sink, wrapped):
    """The wrapper is captured as a whole, or the module in it while the wrapper is called."""
    inner = nn.Sequential(nn.Embedding(h.VOCAB, 4), nn.Linear(4, 4))
    model = nn.parallel.DistributedDataParallel(inner)
    prefix = "module." if wrapped else ""
    sites = [f"{prefix}1", f"{prefix}1:grad_out"]
    with h.recorder(model if wrapped else inner, sites, sink) as record:
        out = model(IDS)
        out.square().sum().backward()
    assert record.passes.forwards == 1
    assert torch.equal(sink.values(f"{prefix}1:out"), out.detach().flatten(0, 1))
    assert torch.equal(sink.values(f"{prefix}1:grad_out"), 2 * out.detach().flatten(0, 1))
    assert sink.column("tokens", "token_id") == IDS.flatten().tolist()
    assert h.hook_count(model) == 0


@pytest.mark.usefixtures("gloo")
def test_canonical_names_inside_a_wrapper(sink):
    """A wrapper has the sites of its model."""
    model = nn.parallel.DistributedDataParallel(h.make("llama"))
    with h.recorder(model, "resid_out_1", sink), torch.no_grad():
        states = model(input_ids=IDS, output_hidden_states=True).hidden_states
    assert sink.values("resid_out_1").shape == (8, h.HIDDEN)
    assert states[-1].shape == (2, 4, h.HIDDEN)


@pytest.mark.parametrize("place", ["cpu", "disk"])
def test_offloaded_weights(sink, tmp_path, place):
    """Weights that hooks of accelerate bring for each call: values are those of the plain model."""
    accelerate = pytest.importorskip("accelerate")
    model, plain = h.make("llama"), h.ListSink()
    sites = ["resid_out_*", "mlp_act_0", "logits"]
    with h.recorder(model, sites, plain), torch.no_grad():
        model(IDS)
    if place == "cpu":
        accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    else:
        accelerate.disk_offload(model, tmp_path, execution_device=torch.device("cpu"))
    with h.recorder(model, sites, sink), torch.no_grad():
        model(IDS)
    for site in plain.batches[0].sites:
        assert torch.equal(sink.values(site), plain.values(site)), site


def test_a_model_that_is_split_over_devices(sink, tmp_path):
    """With a device map, part on the CPU and part on disk, rows are the same."""
    accelerate = pytest.importorskip("accelerate")
    model, plain = h.make("gpt2"), h.ListSink()
    sites = ["resid_out_*", "resid_out_1", "final_norm"]
    with h.recorder(model, sites, plain, positions="last"), torch.no_grad():
        model(IDS)
    device_map = {
        "transformer.wte": "cpu",
        "transformer.wpe": "cpu",
        "transformer.drop": "cpu",
        "transformer.h.0": "cpu",
        "transformer.h.1": "disk",
        "transformer.ln_f": "disk",
        "lm_head": "cpu",
    }
    accelerate.dispatch_model(
        model, device_map, main_device="cpu", offload_dir=str(tmp_path), force_hooks=True
    )
    with h.recorder(model, sites, sink, positions="last"), torch.no_grad():
        model(IDS)
    for site in plain.batches[0].sites:
        assert torch.equal(sink.values(site), plain.values(site)), site


def test_quantised_modules(sink):
    """Dynamic quantisation computes in int8 and gives floats: what comes out is stored."""
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces that it moves elsewhere
        quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    assert type(quantised[0]) is not nn.Linear
    x = torch.randn(5, 8)
    with h.recorder(quantised, ["0", "2"], sink), torch.no_grad():
        out = quantised(x)
    assert sink.values("2:out").dtype == torch.float32
    assert torch.equal(sink.values("2:out"), out)


def test_quantised_tensors_are_refused_by_name(sink):
    """A tensor that is quantised itself has no bytes of its own: the error names the site."""

    class Quantise(nn.Module):
        def forward(self, x):
            return torch.quantize_per_tensor(x, 0.1, 0, torch.qint8)

    record = h.recorder(nn.Sequential(Quantise()), "0", sink)
    with pytest.raises(TypeError, match=r"0:out: .*qint8"), record, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        record._model(torch.ones(2, 3))


def test_a_convolutional_network_has_rows_of_examples(sink):
    """No tokens: each row is one image's feature map, named as Sequential names it."""
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module(
        "features", nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2))
    )
    model.add_module("head", nn.Sequential(nn.Flatten(), nn.Linear(36, 5)))
    images = torch.randn(6, 3, 8, 8)
    with h.recorder(model, ["features.*", "head.1"], sink), torch.no_grad():
        out = model(images)
        convolved = model.features[0](images)
    assert torch.equal(sink.values("features.0:out"), convolved)
    assert torch.equal(sink.values("features.1:out"), convolved.relu())
    assert torch.equal(sink.values("head.1:out"), out)
    assert {block.table for block in sink.batches[0].sites.values()} == {"examples"}
    assert list(sink.batches[0].tables) == ["examples"]


def test_lists_of_modules_are_named_by_their_elements(sink):
    """A ModuleList is never called: what is in it is."""

    class Listed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
            self.heads = nn.ModuleDict({"a": nn.Linear(3, 1)})

        def forward(self, x):
            for layer in self.layers:
                x = layer(x)
            return self.heads["a"](x)

    model, x = Listed(), torch.randn(4, 3)
    with h.recorder(model, ["layers.*", "heads.a"], sink):
        out = model(x)
    assert set(sink.batches[0].sites) == {"layers.0:out", "layers.1:out", "heads.a:out"}
    assert torch.equal(sink.values("heads.a:out"), out.detach())


def test_patches_of_an_image_are_tokens_without_ids(sink):
    """A vision transformer has a row per patch, and one for its class token."""
    torch.manual_seed(0)
    config = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "image_size": 8,
        "patch_size": 4,
    }
    model = ViTForImageClassification(ViTConfig(**config)).eval()
    pixels = torch.randn(3, 3, 8, 8)
    sites = ["resid_out_0", "z_1", "classifier"]
    with h.recorder(model, sites, sink, positions="first"), torch.no_grad():
        out = model(pixel_values=pixels, output_hidden_states=True)
    assert torch.equal(sink.values("resid_out_0"), out.hidden_states[1][:, 0])
    assert torch.equal(sink.values("classifier:out"), out.logits)
    assert sink.values("z_1").shape == (3, 2, 8)
    tables = sink.batches[0].tables
    assert set(tables["tokens"].columns) == {"example", "position"}
    assert tables["examples"].columns["length"].tolist() == [5, 5, 5]
    assert sink.batches[0].sites["classifier:out"].table == "examples"


def test_patterns_of_patches(sink):
    """Every patch attends to every other: rows of one width."""
    torch.manual_seed(0)
    config = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "image_size": 8,
        "patch_size": 4,
    }
    model = CLIPVisionModel(CLIPVisionConfig(**config)).eval()
    model.set_attn_implementation("eager")
    with h.recorder(model, "pattern_0", sink), torch.no_grad():
        attention = model(pixel_values=torch.randn(2, 3, 8, 8), output_attentions=True).attentions
    block = sink.batches[0].sites["pattern_0"]
    assert block.widths.tolist() == [5] * 10
    assert torch.equal(block.values, attention[0].permute(0, 2, 1, 3).reshape(-1))


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
@pytest.mark.parametrize("option", ["positions", "where", "transform", "sink"])
def test_no_hook_stays_after_a_callback_that_raises(sink, option, error):
    """Functions of the user and the sink may fail in any forward pass: the model is left clean."""
    model = h.make("gpt2")

    def fail(*_):
        raise error

    options = {"transform": {"embed": fail}} if option == "transform" else {option: fail}
    if option == "sink":
        sink.write, options = fail, {}
    record = h.recorder(model, ["embed", "resid_out_0:grad"], sink, **options)
    with pytest.raises(error), record:
        model(IDS).logits.sum().backward()
    assert h.hook_count(model) == 0
    model(IDS).logits.sum().backward()
    assert sink.batches == []


def test_a_submodule_that_is_compiled_is_refused(sink):
    """Also where it is only on the way to a site; beside the sites it does no harm."""
    model = nn.Sequential(nn.Sequential(nn.Linear(3, 3)), nn.Linear(3, 3))
    model[0].compile(backend="eager")
    record = h.recorder(model, "0.0", sink)
    with pytest.raises(CaptureError, match=r"'0' is compiled with torch\.compile"), record:
        pass
    x = torch.randn(2, 3)
    with h.recorder(model, "1", sink), torch.no_grad():
        out = model(x)
    assert torch.equal(sink.values("1:out"), out)


def test_forward_passes_can_go_by(sink):
    """In `paused` nothing is recorded, counted or reported."""
    model = h.make("gpt2")
    with h.recorder(model, "embed", sink) as record:
        with record.paused():
            model(IDS)
        model(IDS[:1])
        with record.paused():
            model(IDS)
    assert (record.passes.forwards, record.passes.stray, record.passes.dropped) == (1, 0, 0)
    assert sink.column("examples", "example") == [0]


def test_values_can_be_fed(sink):
    """Without hooks of its own the recorder takes what others bring, values and gradients."""
    model = nn.Sequential(nn.Embedding(h.VOCAB, 4), nn.Linear(4, 4))
    record = h.recorder(model, ["1", "1:grad_out"], sink, hooked=False)
    handle = model[1].register_forward_hook(lambda _module, _args, out: record.take("1:out", out))
    backward = model[1].register_full_backward_hook(
        lambda _module, _in, out: record.take("1:grad_out", out[0])
    )
    with record:
        out = model(IDS)
        with pytest.raises(CaptureError, match="No site '1:in' is captured"):
            record.take("1:in", out)
        out.sum().backward()
    handle.remove()
    backward.remove()
    assert torch.equal(sink.values("1:out"), out.detach().flatten(0, 1))
    assert torch.equal(sink.values("1:grad_out"), torch.ones(8, 4))


def test_fed_gradients_must_be_of_one_pass(sink):
    """Two passes that wait cannot be told apart by a name."""
    model = nn.Sequential(nn.Embedding(h.VOCAB, 4))
    record = h.recorder(model, "0:grad_out", sink, hooked=False)
    with pytest.raises(CaptureError, match="0:grad_out: 2 forward passes wait"), record:
        model(IDS)
        model(IDS)
        record.take("0:grad_out", torch.ones(2, 4, 4))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_everything_at_once_on_a_gpu(sink):
    """Values, patterns and gradients, several passes before one backward: as on the CPU."""
    model, plain = h.make("gpt2"), h.ListSink()
    model.set_attn_implementation("eager")
    sites = ["resid_out_*", "resid_out_*:grad", "pattern_0", "z_1:grad", "lm_head:grad_in"]
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    options = {"heads": {"pattern_0": [1, 2]}, "transform": {"resid_out_0": lambda rows: rows * 2}}
    for device, target in (("cpu", plain), ("cuda", sink)):
        model.to(device)
        with h.recorder(model, sites, target, **options) as record:
            losses = [
                model(IDS.to(device), attention_mask=mask.to(device)).logits.square().sum()
                for _ in range(3)
            ]
            sum(losses).backward()
        assert (record.passes.forwards, record.passes.dropped) == (3, 0)
    for site in plain.batches[0].sites:
        assert sink.values(site).device.type == "cpu"
        assert torch.allclose(sink.values(site), plain.values(site), rtol=1e-3, atol=1e-4), site
    widths = [batch.sites["pattern_0"].widths.tolist() for batch in sink.batches]
    assert widths == [[3] * 3 + [4] * 4] * 3


def test_a_compiled_wrapper_of_the_model_is_traced_around_the_hooks(tmp_path):
    """Captured before it is traced, a compiled model gives the rows of the model itself."""
    model = h.make("gpt2")
    with torch.no_grad(), lc.capture(model, tmp_path, ["resid_out_0", "z_1"]):
        model(IDS)
        torch.compile(model, backend="eager")(IDS)
    cache = lc.open(tmp_path)
    for name in ("resid_out_0", "z_1"):
        eager, compiled = cache[name].padded().chunk(2)
        torch.testing.assert_close(compiled, eager)


@pytest.mark.parametrize("make", [torch.jit.script, lambda model: torch.jit.trace(model, X)])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torch_script_is_refused(sink, make):
    """Hooks cannot see into it, and the capture does not begin."""
    with pytest.raises(CaptureError, match="the model is TorchScript"):
        h.recorder(make(nn.Sequential(nn.Linear(3, 3))), "0", sink)


def test_a_glob_leaves_out_what_torch_never_calls(sink):
    """The output projection of torch's attention, the packed weights of quantised layers."""
    layer = nn.TransformerEncoderLayer(3, 1, 4, batch_first=True)
    model = nn.Sequential(layer)
    with h.recorder(model, "0.self_attn*", sink), torch.no_grad():
        model(torch.randn(2, 4, 3))
    assert list(sink.batches[0].sites) == ["0.self_attn:out"]


class LengthFirst(nn.Module):
    """Token ids [batch, length], and a layer inside that wants [length, batch, units]."""

    def __init__(self, layer):
        super().__init__()
        self.embed = nn.Embedding(50, 4)
        self.layer = layer

    def forward(self, input_ids):
        return self.layer(self.embed(input_ids).transpose(0, 1))


@pytest.mark.parametrize(
    ("layer", "site"),
    [
        (nn.GRU(4, 4), "layer"),
        (nn.TransformerEncoderLayer(4, 1, 4), "layer.norm1"),
        (
            nn.TransformerEncoder(
                nn.TransformerEncoderLayer(4, 1, 4), 1, enable_nested_tensor=False
            ),
            "layer:in",
        ),
    ],
)
@pytest.mark.parametrize("length", [3, 4])
def test_values_with_the_length_first_are_refused(sink, layer, site, length):
    """With as many tokens as examples their rows would be those of other tokens."""
    model = LengthFirst(layer)
    with (
        pytest.raises(CaptureError, match=r"batch_first=True"),
        h.recorder(model, site, sink),
        torch.no_grad(),
    ):
        model(h.ids(3, length))
    with pytest.raises(CaptureError, match="batch_first"), h.recorder(layer, ":in", sink):
        layer(torch.randn(length, 3, 4))
    with h.recorder(model, "embed", sink), torch.no_grad():
        model(h.ids(3, length))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_are_refused_by_name(sink):
    """The fast path of torch's encoder makes them of padded batches."""
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 4, batch_first=True), 1).eval()
    padding = torch.tensor([[False] * 4, [False, True, True, True]])
    record = h.recorder(model, "layers.0:in", sink)
    with pytest.raises(CaptureError, match="enable_nested_tensor=False"), record, torch.no_grad():
        record.annotate(mask=~padding)
        model(torch.randn(2, 4, 4), src_key_padding_mask=padding)
