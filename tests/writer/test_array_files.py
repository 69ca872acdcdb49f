"""Tensors of the model that a run keeps: once, with the first commit, never two kinds."""

import pytest
import torch
from writer_helpers import (
    ARRAYS,
    StoreAround,
    UploadAround,
    check_dataset,
    data_files,
    log_bodies,
    make_batch,
    named_files,
    new_store,
    new_writer,
    read_array,
    snapshot_of,
    writer_threads,
)

from lazycache.catalog.target import remove_dataset
from lazycache.codec.dtypes import as_bytes
from lazycache.errors import (
    CaptureError,
    CommitConflictError,
    StorageError,
    UnsupportedDtypeError,
)
from lazycache.types import RunInfo

OTHER = {"scale": torch.tensor([1.5, 2.5])}


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """These tests are not about power cuts."""
    monkeypatch.setattr("os.fsync", lambda _: None)


@pytest.fixture(autouse=True)
def no_thread_is_left():
    """Every test ends with the writer's threads joined."""
    yield
    assert writer_threads() == []


@pytest.fixture
def store(tmp_path):
    return new_store(tmp_path / "dataset")


def write(store, numbers, **settings):
    writer = new_writer(store, **settings)
    for number in numbers:
        writer.write(make_batch(number))
    writer.close()


def arrays_named(store):
    """How many arrays each commit names."""
    return [sum(op["op"] == "array" for op in body["ops"]) for body in log_bodies(store)]


def check_arrays(store, run="main"):
    snapshot = snapshot_of(store)
    assert set(snapshot.arrays(run)) == set(ARRAYS)
    for name, tensor in ARRAYS.items():
        stored = read_array(store, snapshot, name, run=run)
        assert (stored.dtype, stored.shape) == (tensor.dtype, tensor.shape)
        assert bytes(as_bytes(stored)) == bytes(as_bytes(tensor))


def test_arrays_are_kept_once_per_run(store):
    """The first commit of a run names them; later commits and later writers add nothing."""
    writer = new_writer(store, arrays=ARRAYS)
    for number in range(3):
        writer.write(make_batch(number))
        writer.commit()
    writer.close()
    write(store, [3], arrays=ARRAYS)
    assert arrays_named(store) == [2, 0, 0, 0]
    check_arrays(store)
    assert data_files(store) == named_files(check_dataset(store, range(4)))


def test_each_run_keeps_its_own(store):
    """Another run may have arrays of the same names, of another model."""
    write(store, [0], arrays=ARRAYS)
    write(store, [1], arrays=OTHER, run=RunInfo("second", {}))
    snapshot = snapshot_of(store)
    check_arrays(store)
    assert set(snapshot.arrays("second")) == {"scale"}
    assert torch.equal(read_array(store, snapshot, "scale", run="second"), OTHER["scale"])
    assert snapshot.array("second", "head_out_0.weight") is None
    assert snapshot.array("third", "scale") is None


def test_a_later_writer_adds_what_its_run_lacks(store):
    """A run that was captured without an array gets it with the next commit."""
    write(store, [0])
    write(store, [1], arrays={"scale": ARRAYS["scale"]})
    write(store, [2], arrays=ARRAYS)
    assert arrays_named(store) == [0, 1, 1]
    check_arrays(store)


def test_nothing_is_written_if_nothing_is_committed(store):
    """A writer that takes no batch, or is aborted before its commit, leaves no array."""
    new_writer(store, arrays=ARRAYS).close()
    writer = new_writer(store, arrays=ARRAYS)
    writer.write(make_batch(0))
    writer.abort()
    assert data_files(store) == set()
    assert log_bodies(store) == []


@pytest.mark.parametrize(
    "tensor", [OTHER["scale"], ARRAYS["scale"].double(), ARRAYS["scale"][:1]], ids=str
)
def test_a_run_is_of_one_model(store, tensor):
    """An array with other bits, another dtype or shape is refused before anything starts."""
    write(store, [0], arrays=ARRAYS)
    with pytest.raises(CaptureError, match=r"(?s)Run 'main' has an array 'scale'.*run='name'"):
        new_writer(store, arrays={"scale": tensor})
    new_writer(store, arrays={"scale": ARRAYS["scale"].clone()}).close()


@pytest.mark.parametrize(
    ("arrays", "error", "message"),
    [
        ({"..": torch.ones(2)}, CaptureError, r"array '\.\.'"),
        ({"x" * 300: torch.ones(2)}, CaptureError, "array 'xxx"),
        ({"w": torch.ones(())}, CaptureError, r"array 'w' of shape \(\)"),
        ({"w": torch.ones(2, 0)}, CaptureError, r"array 'w' of shape \(2, 0\)"),
        ({"w": torch.ones(2, dtype=torch.complex64)}, UnsupportedDtypeError, "array 'w'"),
    ],
)
def test_arrays_that_cannot_be_stored_are_refused_at_once(store, arrays, error, message):
    """The error names the array and comes before a batch is taken."""
    with pytest.raises(error, match=message):
        new_writer(store, arrays=arrays)


def test_two_writers_of_a_run_may_both_bring_its_arrays(store):
    """Ranks of one run write the same arrays side by side; the first file counts."""
    one, two = (new_writer(store, arrays=ARRAYS, rank=rank) for rank in range(2))
    one.write(make_batch(0))
    two.write(make_batch(1))
    one.close()
    two.close()
    assert arrays_named(store) == [2, 2]
    check_arrays(store)
    assert snapshot_of(store).array("main", "scale").path.endswith("-r0.parquet")


def test_two_models_cannot_write_one_run_side_by_side(store):
    """The second commit finds the first one's other array: a conflict that names it."""
    one, two = (new_writer(store, arrays=arrays) for arrays in (ARRAYS, OTHER))
    one.write(make_batch(0))
    two.write(make_batch(1))
    one.close()
    with pytest.raises(CommitConflictError, match=r"run 'main' another array 'scale'"):
        two.close()
    check_arrays(store)
    check_dataset(store, [0])


class FullFrom(StoreAround):
    """Has no room for the n-th array and those after it."""

    def __init__(self, inner, at) -> None:
        super().__init__(inner)
        self.left = at

    def create(self, path):
        upload = self.inner.create(path)
        if not path.startswith("arrays/"):
            return upload
        self.left -= 1
        return UploadAround(upload, self._fail) if self.left < 0 else upload

    def _fail(self, _buffers) -> None:
        raise StorageError("No space left on device")


@pytest.mark.parametrize("at", [0, 1])
def test_a_full_disk_leaves_no_half_arrays(store, at):
    """When an array cannot be written, the commit fails and neither it nor the others are left."""
    writer = new_writer(FullFrom(store, at), arrays=ARRAYS)
    writer.write(make_batch(0))
    with pytest.raises(StorageError, match="No space left"):
        writer.commit()
    with pytest.raises(StorageError, match="No space left"):
        writer.close()
    assert data_files(store) == set()
    assert log_bodies(store) == []


def test_arrays_belong_to_the_dataset_that_is_removed(store):
    """Removing a dataset removes its arrays: they are no foreign files."""
    write(store, [0], arrays=ARRAYS)
    remove_dataset(store)
    assert list(store.list("")) == []
