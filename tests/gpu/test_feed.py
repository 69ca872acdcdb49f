"""The training feed on a CUDA device: the rows of the CPU, in whatever stream they are used.

`pytest tests/gpu` on a machine with a GPU; elsewhere every test says why it is skipped.
"""

import pytest
import torch

import lazycache as lc
from lazycache.feed import mix

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device here"),
]

CUDA = torch.device("cuda")
ROWS, UNITS = 20_000, 64


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def x(request, tmp_path_factory):
    """A site of rows that all differ."""
    folder = str(tmp_path_factory.mktemp("feed") / "ds")
    model = torch.nn.Sequential(torch.nn.Identity())
    values = torch.randn(ROWS, UNITS, generator=torch.Generator().manual_seed(0))
    with lc.capture(model, folder, "0:out"):
        model(values.to(request.param))
    with lc.open(folder) as cache:
        yield cache["0:out"]


@pytest.mark.parametrize("prefetch_bytes", [0, 1 << 18, 64 << 20])
@pytest.mark.parametrize("shuffle", [True, False, "rows"])
def test_batches_are_those_of_the_cpu(x, shuffle, prefetch_bytes):
    """Bit for bit, while the device is busy and batches are dropped before it is done with them."""
    options = {"shuffle": shuffle, "prefetch_bytes": prefetch_bytes, "window_bytes": 1 << 20}
    busy = torch.ones(2048, 2048, device=CUDA)
    sums = []
    for batch in x.loader(1000, device="cuda", **options):
        assert batch.device == torch.device("cuda", torch.cuda.current_device())
        for _ in range(10):
            busy = (busy @ busy).clamp(0, 1)  # what reads the batch comes long after it is dropped
        sums.append(batch.clone())
        del batch
    for found, right in zip(sums, x.loader(1000, **options), strict=True):
        assert torch.equal(found.cpu(), right)


def test_a_batch_may_be_used_on_another_stream(x):
    """One that is current when it is handed out waits until it is made."""
    right = list(x.loader(1000, seed=1))
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        found = [batch * 2 for batch in x.loader(1000, seed=1, device=CUDA)]
    side.synchronize()
    assert all(torch.equal(a.cpu(), b * 2) for a, b in zip(found, right, strict=True))


def test_norms_and_columns_beside_it(x):
    """Norms are worked out on the device; columns are numbers of the host."""
    options = {"norm": "standard", "columns": ["example"], "seed": 2}
    pairs = zip(x.loader(999, device=CUDA, **options), x.loader(999, **options), strict=True)
    for found, right in pairs:
        torch.testing.assert_close(found["0:out"].cpu(), right["0:out"], rtol=1e-6, atol=1e-6)
        assert found["example"].device.type == "cpu"
        assert torch.equal(found["example"], right["example"])


def test_values_of_the_device_stay_there():
    """They are not moved, and are read after what made them."""
    values = torch.randn(ROWS, UNITS, device=CUDA)
    here = lc.ActivationCache({"a": values}).stack("a")["a"]
    for batch, right in zip(
        here.loader(500, seed=3), here.to("cpu").loader(500, seed=3), strict=True
    ):
        assert batch.is_cuda
        assert torch.equal(batch.cpu(), right)


def test_mixtures_stay_on_the_device(x):
    """Rows of two loaders, once each."""
    loaders = [x.loader(8, seed=seed, device=CUDA, where=w) for seed, w in enumerate(HALVES)]
    rows = torch.cat(list(mix(loaders, 4096)))
    assert rows.is_cuda
    order = rows.cpu().double().sum(1).sort().values
    assert torch.equal(order, x.rows.load().double().sum(1).sort().values)


HALVES = ("example % 2 = 0", "example % 2 = 1")
