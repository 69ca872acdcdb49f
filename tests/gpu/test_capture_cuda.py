"""Capture on a CUDA device: the same values as by hand, and nobody waits at hook time.

`pytest tests/gpu` on a machine with a GPU; elsewhere every test says why it is skipped.
"""

import time

import capture_helpers as h
import pytest
import torch
from torch import nn

import lazycache as lc

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device here"),
]

CUDA = torch.device("cuda")
BUSY = 200
"""Steps of arithmetic that keep a device busy while the host runs ahead."""


class Steps(nn.Module):
    """Identity modules on given values, and then work in place on the same tensor."""

    def __init__(self, sites=3):
        super().__init__()
        self.sites = nn.ModuleList(nn.Identity() for _ in range(sites))

    def forward(self, input_ids, values):
        del input_ids
        x = values.clone()
        for site in self.sites:
            x = site(x)
            for _ in range(BUSY):
                x.mul_(1.25).sub_(1)
        return x


class Nowhere(h.ListSink):
    """Counts batches and lets go of them."""

    count = 0

    def write(self, _batch):
        self.count += 1


def values(batch=4, length=64, width=256, *, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, length, width, generator=generator).to(dtype)


def run(model, ids, x, device, patterns="sites.*", **given):
    """Capture some forward passes of the same model on a device."""
    sink = h.ListSink()
    with torch.no_grad(), h.recorder(model, patterns, sink, **given) as record:
        for n in range(4):
            record.annotate(mask=given_mask(ids))
            model((ids + n).to(device), (x + n).to(device))
    return sink, record


def given_mask(ids):
    """Padding on the left: as many positions as the number of the example."""
    mask = torch.ones(ids.shape, dtype=torch.bool)
    for n in range(len(ids)):
        mask[n, :n] = False
    return mask


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("positions", ["all", "last", [0, 5]])
def test_a_cuda_model_gives_what_a_cpu_model_gives(dtype, positions):
    """The first site has the same values on both: stored bits, ids and positions are equal.

    The device works in place on the captured tensor right after the hook, and padding is left.
    """
    ids, x = h.ids(4, 64), values(dtype=dtype)
    there, _ = run(Steps(), ids, x, CUDA, "sites.0", positions=positions)
    here, _ = run(Steps(), ids, x, torch.device("cpu"), "sites.0", positions=positions)
    bits = torch.int16 if dtype.itemsize == 2 else torch.int32
    a, b = there.values("sites.0:out"), here.values("sites.0:out")
    assert torch.equal(a.view(bits), b.view(bits))
    for table, column in (("tokens", "token_id"), ("tokens", "position"), ("examples", "length")):
        assert there.column(table, column) == here.column(table, column)


def test_every_site_is_as_plain_hooks_see_it():
    """Also those whose values exist on the device alone."""
    model, seen = Steps(), []
    for site in model.sites:
        site.register_forward_hook(lambda _m, _a, out: seen.append(out.clone()))
    ids, x = h.ids(4, 64), values()
    sink, _ = run(model, ids, x, CUDA)
    mask = given_mask(ids)
    for site in range(3):
        expected = torch.cat([value.cpu()[mask] for value in seen[site::3]])
        assert torch.equal(sink.values(f"sites.{site}:out"), expected)


def test_no_hook_waits_for_the_device():
    """With the mask on the host no forward pass synchronises, once everything is warm."""
    model = h.make("gpt2").to(CUDA)
    ids = h.ids(8, 32)
    there, sink = ids.to(CUDA), h.ListSink()
    with torch.no_grad(), h.recorder(model, "resid_out_*", sink, dtype=torch.float16) as record:
        for strict in (False, False, True, True):
            record.annotate(mask=given_mask(ids))
            torch.cuda.set_sync_debug_mode("error" if strict else "default")
            try:
                model(there, use_cache=False)
            finally:
                torch.cuda.set_sync_debug_mode("default")
    assert record.passes.forwards == len(sink.batches) == 4


def test_a_forward_pass_returns_before_the_device_has_finished():
    """The host runs ahead: capture does not wait for what it captures."""
    model, ids, x = Steps().to(CUDA), h.ids(4, 64).to(CUDA), values().to(CUDA)
    sink, done = Nowhere(), torch.cuda.Event()
    with torch.no_grad(), h.recorder(model, "sites.*", sink) as record:
        for _ in range(3):
            record.annotate(mask=torch.ones(4, 64))
            model(ids, x)
        torch.cuda.synchronize()
        time.sleep(0.5)  # pinned memory comes back: to ask the driver for more would wait
        record.annotate(mask=torch.ones(4, 64))
        torch.cuda._sleep(2_000_000_000)  # about a second of the device's clock
        model(ids, x)
        done.record()
        assert not done.query()
    assert sink.count == 4


def test_values_that_a_dtype_cannot_hold_are_counted():
    """The count travels like the values, and is read when it has arrived."""
    model, x = Steps(), values()
    x[0, :, :7] = 1e6
    with pytest.warns(RuntimeWarning, match="cannot hold"):
        _, record = run(model, h.ids(4, 64), x, CUDA, "sites.0", dtype=torch.float16)
    assert record.passes.overflowed == {"sites.0:out": 4 * 64 * 7}


def test_a_mask_on_the_device_is_right_too():
    """It costs one wait for the device, which the documentation says."""
    model, ids = h.make("gpt2").to(CUDA), h.ids(4, 16)
    mask, sink = given_mask(ids), h.ListSink()
    with torch.no_grad(), h.recorder(model, "resid_out_0", sink):
        model(ids.to(CUDA), attention_mask=mask.long().to(CUDA), use_cache=False)
    assert sink.column("tokens", "token_id") == ids[mask].tolist()


def test_memory_is_used_again():
    """Neither pinned memory nor the device's grows with the length of the run."""
    model, ids, x = Steps().to(CUDA), h.ids(4, 64).to(CUDA), values().to(CUDA)
    host, device = [], []
    with torch.no_grad(), h.recorder(model, "sites.*", Nowhere()) as record:
        for n in range(200):
            record.annotate(mask=torch.ones(4, 64))
            model(ids, x)
            if n % 50 == 49:
                torch.cuda.synchronize()
                host.append(torch.cuda.host_memory_stats()["allocated_bytes.current"])
                device.append(torch.cuda.max_memory_reserved())
    assert host[-1] <= 2 * host[0]
    assert device[-1] <= 2 * device[0]


def test_a_dataset_of_a_cuda_model_is_that_of_plain_hooks(tmp_path):
    """From the device to the files and back, in bfloat16."""
    model = h.make("gpt2", dtype=torch.bfloat16).to(CUDA)
    seen, ids = [], h.ids(4, 16)
    model.transformer.h[1].register_forward_hook(
        lambda _m, _a, out: seen.append((out[0] if isinstance(out, tuple) else out).clone())
    )
    with torch.no_grad(), lc.capture(model, tmp_path / "acts", "resid_out_1") as capture:
        for n in range(5):
            model((ids + n).remainder(h.VOCAB).to(CUDA), use_cache=False)
            if n == 2:
                assert capture.commit() == 1
    expected = torch.cat([value.flatten(0, 1).cpu() for value in seen])
    stored = lc.open(tmp_path / "acts")["resid_out_1"].rows.load()
    assert torch.equal(stored.view(torch.int16), expected.view(torch.int16))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_a_model_on_two_devices():
    """Each part is copied from its own device."""

    class Split(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(8, 8).to("cuda:0"), nn.Linear(8, 8).to("cuda:1")

        def forward(self, input_ids, values):
            del input_ids
            return self.two(self.one(values.to("cuda:0")).to("cuda:1"))

    model, seen, sink = Split(), {}, h.ListSink()
    for name in ("one", "two"):
        getattr(model, name).register_forward_hook(
            lambda _m, _a, out, name=name: seen.update({name: out.clone()})
        )
    with torch.no_grad(), h.recorder(model, ["one", "two"], sink):
        model(h.ids(2, 3).to("cuda:0"), values(2, 3, 8))
    for name in ("one", "two"):
        assert torch.equal(sink.values(f"{name}:out"), seen[name].flatten(0, 1).cpu())
