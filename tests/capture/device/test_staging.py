"""Copies to the host: at once from the CPU, late and unwaited for from a device."""

import threading

import pytest
import torch
from device_helpers import WRONG, LateLink

from lazycache.capture.device.staging import Staging, cuda_link


def staging(link, **given):
    return Staging(lambda _: link, **given)


@pytest.mark.parametrize("view", [lambda x: x, lambda x: x[1:], lambda x: x.t(), lambda x: x[:0]])
@pytest.mark.parametrize("link", [None, LateLink()], ids=["cpu", "device"])
def test_what_happens_to_the_source_later_does_not_reach_the_copy(view, link):
    """The model may change its tensor in place as soon as the hook returns."""
    source = torch.arange(12.0).reshape(3, 4)
    staged = staging(link).copy(view(source), source=source)
    expected = view(source).clone()
    source.zero_()
    host = staged.wait()
    assert host.is_contiguous()
    assert torch.equal(host, expected)


@pytest.mark.parametrize("fresh", [True, False])
def test_memory_of_its_own_is_not_copied_again(fresh):
    """The gather of kept rows has made the one copy on the device already; a view has not."""
    link, source = LateLink(), torch.arange(12.0).reshape(3, 4)
    kept = source[torch.tensor([0, 2])] if fresh else source[1:]
    staging(link).copy(kept, source=source)
    assert (link.flying[0][1].data_ptr() == kept.data_ptr()) == fresh


def test_on_the_cpu_memory_of_its_own_is_the_copy():
    """A CPU model copies once: what the gather made goes to the writer as it is."""
    source = torch.arange(12.0).reshape(3, 4)
    kept = source[torch.tensor([0, 2])]
    assert Staging().copy(kept, source=source).wait().data_ptr() == kept.data_ptr()


def test_nobody_waits_while_copying():
    """Shape and dtype are known at once, contents when the event has passed."""
    link, source = LateLink(on_demand=False), torch.ones(2, 3, dtype=torch.bfloat16)
    staged = staging(link).copy(source, source=source)
    assert (staged.tensor.shape, staged.tensor.dtype) == (source.shape, source.dtype)
    assert staged.tensor.view(torch.uint8).eq(WRONG).all()
    assert not link.waited
    link.land()
    assert torch.equal(staged.wait(), source)


def test_bytes_on_the_device_are_bounded():
    """When the link is slower than the model, a copy waits for the oldest, and only then."""
    link, x = LateLink(), torch.zeros(100, dtype=torch.uint8)
    stage = staging(link, limit=300)
    for _ in range(3):
        stage.copy(x, source=x)
    assert not link.waited
    for _ in range(20):
        stage.copy(x, source=x)
    assert link.most == 300
    assert len(link.waited) == 20


def test_what_is_larger_than_the_bound_goes_alone():
    """It waits for all before it, and is copied."""
    link, x = LateLink(), torch.arange(100, dtype=torch.uint8)
    stage = staging(link, limit=10)
    first, second = stage.copy(x, source=x), stage.copy(x, source=x)
    assert first.event.query()
    assert torch.equal(second.wait(), x)


def test_what_has_landed_is_not_waited_for():
    """Room is counted by events that have passed."""
    link, x = LateLink(on_demand=False), torch.zeros(100, dtype=torch.uint8)
    stage = staging(link, limit=100)
    for _ in range(5):
        stage.copy(x, source=x)
        link.land()
    assert link.most == 100


def test_each_device_has_its_own_link():
    """A model that is split over devices copies from each on its own stream, made once."""
    made = []

    def link_of(device):
        made.append(device)
        return None if device.type == "cpu" else LateLink()

    stage, x = Staging(link_of), torch.ones(2)
    for _ in range(2):
        stage.copy(x, source=x)
        stage.send(x, torch.device("cpu"))
        stage.send(x, torch.device("meta"))
    assert made == [torch.device("cpu"), torch.device("meta")]


def test_indices_go_to_the_device_by_its_link():
    """Sent from ordinary memory they would be waited for."""
    link = LateLink()
    assert staging(link).send(torch.tensor([3]), torch.device("cpu")).tolist() == [3]
    assert link.sent == 1


def test_threads_share_a_link():
    """Copies of several model threads all arrive, each with its own values."""
    stage, wrong = staging(LateLink(), limit=64), []

    def work(n):
        for i in range(50):
            x = torch.full((4,), 100 * n + i)
            staged = stage.copy(x, source=x)
            x.zero_()
            if not staged.wait().eq(100 * n + i).all():
                wrong.append((n, i))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong


def test_only_cuda_has_a_link():
    """Elsewhere the copy to the host is waited for: right, and slower."""
    assert cuda_link(torch.device("cpu")) is None
    assert cuda_link(torch.device("mps")) is None
