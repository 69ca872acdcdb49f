"""The process that crashers are forked from."""

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

WARM = Path(__file__).with_name("warm.py")


class Crashers:
    """Runs crashers by their names, one after the other, each in a fork of one warm process."""

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, WARM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(WARM.parent.parent)},
            start_new_session=True,
        )

    def run(self, name: str, folder: Path, *numbers: int, timeout: float) -> str:
        """Wait for a crasher to end, and return what it has printed; if it fails, so does this."""
        self._process.stdin.write(json.dumps([name, str(folder), *numbers]) + "\n")
        self._process.stdin.flush()
        answers, _, _ = select.select([self._process.stdout], [], [], timeout)
        if not answers:
            self.close()  # or the next crasher would be answered for this one
            pytest.fail(f"{name} has not ended after {timeout} seconds")
        status, out, err = json.loads(self._process.stdout.readline())
        assert status == 0, err
        return out

    def close(self) -> None:
        """End the process, and with it a crasher that has not ended in time."""
        if self._process.returncode is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.communicate()


@pytest.fixture(scope="session")
def crashers():
    """Run a crasher: `crashers.run("copy_crasher", folder, 8, 6, timeout=60)`."""
    warm = Crashers()
    yield warm
    warm.close()
