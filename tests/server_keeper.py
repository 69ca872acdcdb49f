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
        server = subprocess.Popen(command, cwd=data, stdout=log, stderr=log)
    with users.open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        address.unlink(missing_ok=True)
        server.kill()
        server.wait()
        shutil.rmtree(data, ignore_errors=True)


if __name__ == "__main__" and os.fork() == 0:
    keep(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
