"""Processes to be killed. A server that has everything loaded forks them, so that each begins within milliseconds.

`multiprocessing` has such a server too, but its children import the parent's main module first, which is pytest.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bilevelrl as bl
from child_processes import at_the_end_of_the_test, end, end_with, start
from faults.injected import Operations, kill, watched
from faults.runs import KINDS, subject

ENDLESS = 10**9
ITERATIONS = 6
TESTS = str(Path(__file__).parents[1])


class Child:
    """A process that calls a function of a module, and may be killed meanwhile.

    Args:
        function: of a module that the server can import.
        directory: the last argument of the call; a traceback goes to a file beside it.
        arguments: the others, of JSON's types.
    """

    def __init__(self, function: Callable[..., None], directory: Path, *arguments: Any) -> None:
        self._complaint = directory.with_name(directory.name + ".errors")
        call = {"module": function.__module__, "function": function.__name__, "arguments": arguments}
        self.pid: int = _ask({**call, "directory": str(directory), "complaint": str(self._complaint)})
        self._status: int | None = None
        at_the_end_of_the_test(self._end)

    @property
    def failed(self) -> bool:
        """Whether the function has raised."""
        return self._complaint.exists()

    def kill(self) -> int:
        """SIGKILL, at once; the exit status."""
        os.kill(self.pid, signal.SIGKILL)  # the server reaps it when it is asked for the status, not before
        return self.wait()

    def wait(self) -> int:
        """The exit status, as `subprocess` has it; raises `AssertionError` with the traceback of one that failed."""
        self._status = _ask({"wait": self.pid})
        if self.failed:
            raise AssertionError(self._complaint.read_text(encoding="utf-8"))
        return self._status

    def _end(self) -> None:
        """Of a test that failed: the child must not go on."""
        if self._status is None:
            os.kill(self.pid, signal.SIGKILL)
            self._status = _ask({"wait": self.pid})


@functools.cache
def _server() -> subprocess.Popen[str]:
    path = os.pathsep.join([TESTS, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    options = {"stdin": subprocess.PIPE, "stderr": subprocess.DEVNULL, "env": os.environ | {"PYTHONPATH": path}}
    server = start(sys.executable, "-m", "faults.children", lasting=True, **options)
    atexit.register(end, server)
    return server


def _ask(question: dict[str, Any]) -> int:
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(json.dumps(question) + "\n")
    server.stdin.flush()
    return int(server.stdout.readline())


def _serve() -> None:
    """Fork a child for every line of the standard input that asks for one; ends with its parent."""
    for name in KINDS:
        algorithm, problem = subject(name)
        algorithm.run(problem, iterations=1)  # what would take each child a while is done once
    server = os.getpid()
    for line in sys.stdin:
        question = json.loads(line)
        if "wait" in question:
            answer = os.waitstatus_to_exitcode(os.waitpid(question["wait"], 0)[1])
        else:
            answer = os.fork()
            if not answer:
                end_with(server)
                _be_a_child(**question)
        print(answer, flush=True)  # noqa: T201


def _be_a_child(module: str, function: str, arguments: list[Any], directory: str, complaint: str) -> None:
    status = 1
    try:
        getattr(importlib.import_module(module), function)(*arguments, Path(directory))
        status = 0
    except BaseException:
        Path(complaint).write_text(traceback.format_exc(), encoding="utf-8")
    finally:
        os._exit(status)


def go_on(name: str, iterations: int, every: int, directory: Path) -> None:
    """What a user does after a kill: resume, or begin anew where the run had not got as far as its directory."""
    algorithm, problem = subject(name)
    if (directory / "experiment.toml").exists():
        algorithm.resume(problem, directory, iterations=iterations, checkpoint_every=every)
    else:
        algorithm.run(problem, iterations=iterations, seed=1, out=directory, checkpoint_every=every)


def go_on_watched(name: str, directory: Path, act: Callable[[Operations, int], None]) -> int:
    """A few iterations with two checkpoints on the way; the number of operations on files."""
    with watched(directory, act) as operations:
        go_on(name, ITERATIONS, 3, directory)
    return operations.count


def end_at_operation(name: str, how: str, number: int, directory: Path) -> None:
    """Run or go on, and be stopped before an operation, or in the middle of it where it is a write.

    How: by a `kill`, or by a loss of `power`.
    """

    def act(operations: Operations, count: int) -> None:
        if count == number:
            operations.lose_power() if how == "power" else kill()

    go_on_watched(name, directory, act)


def go_on_or_be_refused(name: str, iterations: int, directory: Path) -> None:
    """Go on, unless another process has the directory."""
    try:
        go_on(name, iterations, 1, directory)
    except bl.InputError as error:
        if "in use by process" not in str(error):
            raise


if __name__ == "__main__":
    _serve()
