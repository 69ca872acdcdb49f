"""Starts a server and kills it when the last test process that uses it has gone, however it went.

    python server_keeper.py USERS_LOCK ADDRESS_FILE DATA_FOLDER COMMAND...

Every user holds a shared lock on USERS_LOCK; the kernel lets go of it when the process ends, even
by SIGKILL. So the exclusive lock is there for the keeper exactly when nobody needs the server.
It goes into the background: who starts it may end before the server does.
"""

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path


def keep(users: Path, address: Path, data: Path, command: list[str]) -> None:
    with (data.parent / f"{data.name}.log").open("wb") as log:
        own = os.environ | {"TMPDIR": str(data)}  # where servers put what they leave behind
        server = subprocess.Popen(command, cwd=data, stdout=log, stderr=log, env=own)
    with users.open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        address.unlink(missing_ok=True)
        server.kill()
        server.wait()
        shutil.rmtree(data, ignore_errors=True)
        remove_sockets(int(data.name.rsplit("-", 1)[1]))


def remove_sockets(port: int) -> None:
    """SeaweedFS makes a socket for each of its ports, in /tmp whatever one says, and leaves it."""
    for number in (port + i + above for i in range(4) for above in (0, 10_000)):
        for left in Path("/tmp").glob(f"seaweedfs-*-{number}.sock"):
            left.unlink(missing_ok=True)


if __name__ == "__main__" and os.fork() == 0:
    keep(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
