"""Finished forward passes are handed on in order, after their values have arrived."""

import threading
import time
import weakref

import pytest
import torch
from device_helpers import LateLink

from lazycache.capture.device.delivery import Delivery
from lazycache.capture.device.staging import Staged, Staging
from lazycache.errors import CaptureError, LazycacheError, StorageError

THREAD = "lazycache-delivery"


def late(link, nbytes=8):
    """Values on their way."""
    x = torch.ones(nbytes, dtype=torch.uint8)
    return Staging(lambda _: link).copy(x, source=x)


def eventually(condition):
    """Wait for what another thread will do."""
    for _ in range(6000):
        if condition():
            return True
        time.sleep(0.01)
    return False


def fail(error):
    raise error


def test_values_that_are_there_need_no_thread():
    """A CPU model hands on in its own thread: the job is done, or has raised, when put returns."""
    delivery, done, before = Delivery(), [], threading.active_count()
    here = Staged(torch.ones(2))
    for i in range(3):
        delivery.put(lambda i=i: done.append((i, threading.current_thread())), after=[here])
        assert len(done) == i + 1
    with pytest.raises(StorageError, match="full"):
        delivery.put(lambda: fail(StorageError("full")), after=[here])
    delivery.put(lambda: done.append((3, threading.current_thread())), after=[here])
    assert threading.active_count() == before
    delivery.close()
    assert done == [(i, threading.main_thread()) for i in range(4)]


def test_a_job_runs_after_all_of_its_values_have_arrived():
    """Not after the first of them, and never in the thread that put it."""
    first, second = LateLink(on_demand=False), LateLink(on_demand=False)
    delivery, done = Delivery(), []
    delivery.put(
        lambda: done.append(threading.current_thread().name), after=[late(first), late(second)]
    )
    first.land()
    assert eventually(lambda: len(second.waited) == 1)
    assert not done
    second.land()
    delivery.drain()
    assert done == [THREAD]
    delivery.close()


def test_jobs_keep_their_order():
    """Also one whose values are there, behind one that waits."""
    link, delivery, done = LateLink(on_demand=False), Delivery(), []
    for i in range(20):
        after = [late(link)] if i % 3 == 0 else [Staged(torch.ones(1))]
        delivery.put(lambda i=i: done.append(i), after=after)
    assert not done
    link.land()
    delivery.close()
    assert done == list(range(20))


def test_putting_waits_while_too_much_is_on_its_way():
    """The bound holds, and a put goes on as soon as there is room."""
    link, delivery, done = LateLink(on_demand=False), Delivery(limit=100), []
    put = []

    def work():
        for i in range(4):
            delivery.put(lambda i=i: done.append(i), after=[late(link, 50)])
            put.append(i)

    caller = threading.Thread(target=work)
    caller.start()
    assert eventually(lambda: len(link.flying) == 3)
    assert put == [0, 1]
    link.land()
    assert eventually(lambda: len(link.flying) == 1 and len(put) == 4)
    link.land()
    caller.join(60)
    delivery.close()
    assert done == [0, 1, 2, 3]


def test_what_is_larger_than_the_bound_goes_alone():
    """It waits until nothing else is on its way, and is then taken."""
    delivery, done = Delivery(limit=10), []
    for i in range(3):
        delivery.put(lambda i=i: done.append(i), after=[late(LateLink(), 50)])
    delivery.close()
    assert done == [0, 1, 2]


def test_memory_is_let_go_of_as_jobs_end():
    """Nothing keeps the values of a forward pass that was handed on."""
    link, delivery = LateLink(), Delivery()
    alive = []
    for _ in range(5):
        staged = late(link)
        alive.append(weakref.ref(staged.tensor))
        delivery.put(staged.wait, after=[staged])
        del staged
        delivery.drain()
        assert eventually(lambda: alive[-1]() is None)
    delivery.close()


@pytest.mark.parametrize("error", [StorageError("disk full"), RuntimeError("illegal access")])
def test_an_error_is_raised_by_every_later_call(error):
    """What was put behind it is dropped whole; what came before was handed on."""
    link, delivery, done = LateLink(on_demand=False), Delivery(), []
    delivery.put(lambda: done.append(0), after=[late(link)])
    delivery.put(lambda: fail(error), after=[late(link)])
    delivery.put(lambda: done.append(2), after=[late(link)])
    link.land()
    for call in (
        delivery.drain,
        lambda: delivery.put(lambda: done.append(3), after=[late(link)]),
        lambda: delivery.put(lambda: done.append(4), after=[]),
        delivery.close,
        delivery.close,
    ):
        with pytest.raises(LazycacheError, match=str(error)):
            call()
    assert done == [0]
    assert eventually(lambda: THREAD not in {t.name for t in threading.enumerate()})


def test_an_error_of_the_device_names_itself_and_its_cause():
    """An error of torch is no error of ours; what is lost is said."""
    delivery, error = Delivery(), RuntimeError("illegal access")
    delivery.put(lambda: fail(error), after=[late(LateLink())])
    with pytest.raises(CaptureError, match=r"RuntimeError: illegal access.*are lost") as caught:
        delivery.close()
    assert caught.value.__cause__ is error


def test_an_error_ends_a_put_that_waits_for_room():
    """Nobody waits for ever for a thread that has ended."""
    link, delivery, raised = LateLink(on_demand=False), Delivery(limit=10), []
    delivery.put(lambda: fail(StorageError("disk full")), after=[late(link, 10)])

    def work():
        with pytest.raises(StorageError) as caught:
            delivery.put(lambda: None, after=[late(LateLink(), 10)])
        raised.append(caught.value)

    caller = threading.Thread(target=work)
    caller.start()
    link.land()
    caller.join(60)
    assert len(raised) == 1


def test_closing_waits_for_everything_and_takes_no_more():
    """A late forward pass of another thread is told that the capture is over."""
    link, delivery, done = LateLink(on_demand=False), Delivery(), []
    delivery.put(lambda: done.append(0), after=[late(link)])
    threading.Timer(0.05, link.land).start()
    delivery.close()
    assert done == [0]
    assert THREAD not in {thread.name for thread in threading.enumerate()}
    with pytest.raises(CaptureError, match="has ended"):
        delivery.put(lambda: done.append(1), after=[])
    delivery.close()


def test_an_interrupt_while_closing_drops_what_is_left(monkeypatch):
    """Ctrl-C does not wait for a device that does not answer."""
    link, delivery, done = LateLink(on_demand=False), Delivery(), []
    for i in range(3):
        delivery.put(lambda i=i: done.append(i), after=[late(link)])
    monkeypatch.setattr(delivery, "drain", lambda: fail(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        delivery.close()
    link.land()
    assert eventually(lambda: THREAD not in {t.name for t in threading.enumerate()})
    assert done in ([], [0])
