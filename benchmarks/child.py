"""One thing done in a process of its own: what it takes of memory, and what it answers.

Peak memory is of a process, not of a call: what has to be known of one way is asked of a child that
does nothing else. The child is a fresh interpreter (no fork: it would begin with its parent's
pages) that imports a module, calls one of its functions and answers in JSON. Where not its memory
counts but that nothing was done before, `in_fork` does not wait for the imports each time.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

from benchmarks.comparing import Took
from benchmarks.measure import peak_rss


@dataclass(frozen=True, slots=True)
class Answer:
    """What a child did and needed."""

    result: Any
    """What the function returned, by way of JSON."""
    seconds: float
    """Wall time of the call, without the interpreter's start and the import."""
    cpu: float
    """Processor time of the call, of all threads."""
    rss_before: int
    """Largest resident memory before the call, in bytes: the modules."""
    peak_rss: int
    """The same after it."""

    @property
    def took(self) -> Took:
        """What a way that was done in a child returns."""
        return Took(self.seconds, self.cpu)


class ChildFailedError(RuntimeError):
    """A child did not answer; its standard error was passed on."""


def in_child(
    function: str, *arguments: Any, environment: Mapping[str, str] | None = None
) -> Answer:
    """Call "package.module:function" with arguments that JSON can say, in a new interpreter.

    Args:
        function: a module on the path and one of its functions: "benchmarks.bench_scale:ask".
        arguments: numbers, strings, lists and dicts of them.
        environment: variables beside those of this process: {"OMP_NUM_THREADS": "1"}.

    Raises:
        ChildFailedError: it ended with an error, which is on standard error.
    """
    command = [sys.executable, "-m", "benchmarks.child", function, json.dumps(arguments)]
    done = subprocess.run(
        command, env={**os.environ, **(environment or {})}, stdout=subprocess.PIPE, check=False
    )
    if done.returncode:
        raise ChildFailedError(f"{function} ended with {done.returncode}, see above")
    return Answer(**json.loads(done.stdout.splitlines()[-1]))


def in_fork(
    function: str,
    *arguments: Any,
    modules: Sequence[str],
    environment: Mapping[str, str] | None = None,
) -> Answer:
    """Call a function as `in_child` does, in a fork of a process that has only loaded modules.

    That process is started by the first call, for all; it runs no threads and has asked nothing.
    Peak memory begins with what the modules need.

    Args:
        function: a module on the path and one of its functions.
        arguments: what can be pickled.
        modules: what is loaded before the fork.
        environment: variables that are set before the call, after the modules were loaded.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__spec__.name, *modules])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        asked = pool.submit(_answer_with, dict(environment or {}), function, list(arguments))
        return Answer(**asked.result())


def _answer_with(
    environment: dict[str, str], function: str, arguments: list[Any]
) -> dict[str, Any]:
    """Do here what `in_fork` asks for."""
    os.environ.update(environment)
    return answer(function, arguments)


def answer(function: str, arguments: list[Any]) -> dict[str, Any]:
    """Do here what `in_child` asks for."""
    module, _, name = function.partition(":")
    action = getattr(importlib.import_module(module), name)
    before, start, cpu = peak_rss(), time.perf_counter(), time.process_time()
    result = action(*arguments)
    return {
        "result": result,
        "seconds": time.perf_counter() - start,
        "cpu": time.process_time() - cpu,
        "rss_before": before,
        "peak_rss": peak_rss(),
    }


if __name__ == "__main__":
    answered = json.dumps(answer(sys.argv[1], json.loads(sys.argv[2])))
    print(f"\n{answered}")  # on a line of its own, after all that the function printed
