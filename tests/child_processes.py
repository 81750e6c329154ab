"""Processes that tests start: none inherits how the tests treat signals, and none outlives its test.

Each has the default answer to SIGINT and SIGTERM, whatever the tests inherited. Each leads a session of
its own, which is killed when its test ends. On Linux the kernel also kills it where the tests themselves are killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

HANGING = 1800.0
"""Seconds after which a process is taken to hang. What works takes far less, on a machine that is busy too."""

_to_end: list[Callable[[], object]] = []


def start(*command: object, lasting: bool = False, **options: Any) -> subprocess.Popen[str]:
    """Start a process, by default without a standard input and with its output in pipes.

    Args:
        command: the words of its command.
        lasting: the caller ends it, since it serves more than one test.
        options: of `subprocess.Popen`.
    """
    defaults: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    launcher = [sys.executable, "-I", "-S", __file__, str(os.getpid())]
    words = [*launcher, *map(str, command)]
    process = subprocess.Popen(words, start_new_session=True, **defaults | {"encoding": "utf-8"} | options)
    if not lasting:
        at_the_end_of_the_test(lambda: end(process))
    return process


def run(*command: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Start a process, and wait for its end and its output."""
    process = start(*command, **options)
    out, err = process.communicate(timeout=HANGING)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def end(process: subprocess.Popen[str]) -> None:
    """Kill a process and all of its session that is left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def at_the_end_of_the_test(call: Callable[[], object]) -> None:
    """Have something called when the test that is running has ended, the last first."""
    _to_end.append(call)


def end_all() -> None:
    """Call what was to be called at the end of the test."""
    while _to_end:
        _to_end.pop()()


def wait_until(happened: Callable[[], object], *processes: subprocess.Popen[str]) -> None:
    """Look again and again; raises `AssertionError` where one of the processes ends without it."""
    began = time.monotonic()
    while not happened():
        ended = [process for process in processes if process.poll() is not None]
        if ended and not happened():
            raise AssertionError("\n".join(["it never happened", *(f"{process.communicate()}" for process in ended)]))
        assert time.monotonic() - began < HANGING, "it never happened"
        time.sleep(0.001)


def end_with(parent: int) -> None:
    """Have the kernel kill this process once its parent has ended; on Linux only, and lost to a child that forks."""
    if sys.platform != "linux":
        return
    import ctypes

    set_parent_death_signal = 1  # PR_SET_PDEATHSIG of <linux/prctl.h>
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended meanwhile
        os._exit(1)


def _become(parent: str, *command: str) -> None:
    """The launcher: what the command must not inherit is undone, and the command takes its place."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    end_with(int(parent))
    os.execvp(command[0], command)


if __name__ == "__main__":
    _become(*sys.argv[1:])
