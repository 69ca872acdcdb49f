"""lazycache.cache.files.private_map: bytes of a file as memory of one owner."""

import gc
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from lazycache.cache.files import private_map as module
from lazycache.cache.files.private_map import live_maps, private_map


@pytest.fixture(params=["libc", "python"])
def either(request, monkeypatch) -> str:
    """With libc's mmap, and as where it cannot be called."""
    if request.param == "python":
        monkeypatch.setattr(module, "LIBC", None)
    return request.param


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "bytes"
    path.write_bytes(np.arange(100_000, dtype=np.int64).tobytes())
    return path


def mapped(path: Path, start: int, stop: int) -> np.ndarray:
    fd = os.open(path, os.O_RDONLY)
    try:
        return private_map(fd, start, stop)
    finally:
        os.close(fd)


def maps_of(path: Path) -> int:
    return sum(str(path) in line for line in Path("/proc/self/maps").read_text().splitlines())


@pytest.mark.parametrize("start", [0, 8, 4096, 70_000 * 8])
def test_any_range_is_the_bytes_of_the_file(either: str, file: Path, start: int) -> None:
    """A range begins and ends where it was asked to, wherever pages begin."""
    found = mapped(file, start, start + 8 * 777)
    assert found.dtype == np.uint8
    assert found.view(np.int64).tolist() == list(range(start // 8, start // 8 + 777))


def test_a_write_stays_with_its_owner(either: str, file: Path) -> None:
    """Neither the file nor a map made before or after sees what is written."""
    before = file.read_bytes()
    other, mine = mapped(file, 0, 80_000), mapped(file, 0, 80_000)
    mine[:] = 255
    assert file.read_bytes() == before
    for found in (other, mapped(file, 0, 80_000)):
        assert found.tobytes() == before[:80_000]
    assert (mine == 255).all()


def test_a_map_ends_with_the_last_tensor_over_it(either: str, file: Path) -> None:
    """Views of views keep the memory; without them the pages go back."""
    gc.collect()  # what tests before this one left in cycles
    there, count = maps_of(file), live_maps()
    view = torch.from_numpy(mapped(file, 4096, 90_000)).view(torch.int64)[5:].view(-1, 1)[:3]
    assert maps_of(file) == there + 1
    assert live_maps() == count + (either == "libc")
    assert view.flatten().tolist() == [517, 518, 519]
    del view
    gc.collect()
    assert (maps_of(file), live_maps()) == (there, count)


def test_a_refusal_is_an_error(tmp_path) -> None:
    """What the system says is kept: a folder has no bytes to map."""
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="No such device"):
            private_map(fd, 0, 10)
    finally:
        os.close(fd)
