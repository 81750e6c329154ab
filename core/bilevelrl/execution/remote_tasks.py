"""How a worker runs a task. The caller's side is `dispatch`."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import numpy as np

from bilevelrl.execution.pickling import dumps, loads
from bilevelrl.execution.shared_values import Header, find
from bilevelrl.execution.task_scope import as_worker, one_blas_thread


@attrs.frozen(eq=False)
class Call:
    """The data that all tasks of a map have in common.

    Args:
        shared: the headers of the shared values.
        alone: whether there is one shared value, and not a tuple of them.
        errors: NumPy's settings for floating-point errors in force.
        parent: the process of the caller.
        function: `(shared, task) ↦ result`, pickled.
    """

    shared: Sequence[Header]
    alone: bool
    errors: Mapping[str, Any]
    parent: int
    function: bytes


@attrs.frozen(eq=False)
class Answer:
    """A worker's answer to a task.

    Args:
        index: the task's index.
        body: the result or the exception, pickled.
        story: the traceback of an exception in the worker; None for a result.
        warned: category and text of the warnings, which the caller issues.
    """

    index: int
    body: bytes
    story: str | None
    warned: Sequence[tuple[type[Warning], str]]


def do(call: Call, index: int, body: bytes, *arrays: Any) -> Answer:
    """Run a task: `body` is its pickle, `arrays` are the arrays of the shared values."""
    story = None
    with _recorded_warnings(call) as caught:
        try:
            with _interruptible(), as_worker(), one_blas_thread(), np.errstate(**call.errors):
                values = find(call.shared, arrays)
                shared = values[0] if call.alone else tuple(values)
                answer = dumps(loads(call.function)(shared, loads(body)), "the result of a task")
        except BaseException as error:  # KeyboardInterrupt too: the caller decides what it means
            answer, story = _pickled_error(error), "".join(traceback.format_exception(error))
    return Answer(index, answer, story, [(warning.category, str(warning.message)) for warning in caught or ()])


def _pickled_error(error: BaseException) -> bytes:
    try:
        body = dumps(error, "an error")
        loads(body)  # some exceptions can be pickled but not unpickled
    except Exception:
        body = dumps(RuntimeError(f"{type(error).__name__}: {error}"), "an error")
    return body


def _recorded_warnings(call: Call) -> contextlib.AbstractContextManager[list[warnings.WarningMessage] | None]:
    """A block whose warnings are recorded; in a thread of the caller's process they are shown directly."""
    return contextlib.nullcontext() if os.getpid() == call.parent else warnings.catch_warnings(record=True)


_ours = False


def begin(parent: int) -> None:
    """Called first in each worker process.

    The process ignores Ctrl-C outside tasks, since the parent handles it. The process ends with its parent, even if the
    parent is killed: loky's processes would first complete their task, then wait five minutes for another one. (Windows
    does not report a changed parent.)

    Args:
        parent: the process that started it.
    """
    global _ours
    _ours = True
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def end_with_parent() -> None:
        while os.name != "posix" or os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """A block in which the first SIGINT raises `KeyboardInterrupt`, so that a run can save its state.

    Later ones are ignored: a terminal sends SIGINT to all processes, and so does the parent.
    """
    if not _ours:
        yield
        return
    signal.signal(signal.SIGINT, _interrupt_once)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _interrupt_once(number: int, frame: object) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt
