"""What a worker does with a task: find what all tasks share, do it, answer. The other side is `dispatch`."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import threading
import traceback
import uuid
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import numpy as np

from bilevelrl.execution import payloads
from bilevelrl.execution.task_scope import as_worker, one_blas_thread

SERVED = 4
"""Stores of which a worker remembers parts at the same time: a cluster may work for several people."""


@attrs.frozen(eq=False)
class Reference:
    """Where a worker finds a shared value.

    Args:
        key: what it is known by.
        path: the file that holds it, on the machine of the one who asks.
        data: all of it, where there is no file, or the worker cannot read it.
    """

    key: str
    path: str | None
    data: bytes | None


@attrs.frozen(eq=False)
class Work:
    """What is to be done: a function of what is shared and a task."""

    function: Callable[[Any, Any], Any]
    task: Any


@attrs.frozen(eq=False)
class Call:
    """A task on its way to a worker.

    Args:
        store: who asks.
        shared: where the shared values are.
        alone: whether there is one, and not a tuple of them.
        live: the keys that the store still uses; a worker forgets its others.
        errors: NumPy's settings for floating-point errors in force.
        body: its `Work`, pickled; None where the worker is only to be given the shared values.
        number: no two calls are alike, or Dask would answer the second as it answered the first.
    """

    store: str
    shared: Sequence[Reference]
    alone: bool
    live: Sequence[str]
    errors: Mapping[str, Any]
    body: bytes | None
    number: int


@attrs.frozen(eq=False)
class Answer:
    """What comes back.

    Args:
        worker: who answers.
        kind: "done", "failed", "missing" (it has not got the shared values), "delivered" (it has them now).
        body: the result or the exception, pickled.
        story: of an exception, where it came from.
        warned: warnings on the way, for the one who asks to show: category and text.
    """

    worker: str
    kind: str
    body: bytes = b""
    story: str = ""
    warned: Sequence[tuple[type[Warning], str]] = ()


def work(call: Call) -> Answer:
    """Do a task for somebody else."""
    worker = _identity()
    try:
        shared = _CACHE.find(call)
    except KeyError:
        return Answer(worker, "missing")
    except BaseException as error:
        return _failed(worker, error)
    if call.body is None:
        return Answer(worker, "delivered")
    with _PROCESS.warnings() as caught:
        try:
            with _PROCESS.interruptible(), as_worker(), one_blas_thread(), np.errstate(**call.errors):
                asked: Work = payloads.loads(call.body)
                result = asked.function(shared[0] if call.alone else tuple(shared), asked.task)
                answer = Answer(worker, "done", payloads.dumps(result, "the result of a task"))
        except BaseException as error:  # KeyboardInterrupt too: the one who asks decides
            answer = _failed(worker, error)
    return attrs.evolve(answer, warned=[(warning.category, str(warning.message)) for warning in caught or ()])


def work_here(function: Callable[[Any, Any], Any], shared: Any, task: Any, errors: Mapping[str, Any]) -> Any:
    """Do a task in a thread of the process that asks: nothing is pickled."""
    with as_worker(), one_blas_thread(), np.errstate(**errors):
        return function(shared, task)


def _failed(worker: str, error: BaseException) -> Answer:
    story = "".join(traceback.format_exception(error))
    try:
        body = payloads.dumps(error, "an error")
        payloads.loads(body)  # many an exception can be pickled and not read back
    except Exception:
        body = payloads.dumps(RuntimeError(f"{type(error).__name__}: {error}"), "an error")
    return Answer(worker, "failed", body, story)


class _Cache:
    """The shared values that this process holds, by store and key."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._stores: OrderedDict[str, OrderedDict[str, Any]] = OrderedDict()

    def find(self, call: Call) -> list[Any]:
        """The shared values of a call, read where they are new; raises `KeyError` where they cannot be."""
        here = payloads.HERE.get(call.store, {})
        if all(reference.key in here for reference in call.shared):
            return [here[reference.key] for reference in call.shared]
        with self._lock:
            held = self._stores.pop(call.store, OrderedDict())
            self._stores[call.store] = held
            while len(self._stores) > SERVED:
                self._stores.popitem(last=False)
            for key in held.keys() - set(call.live):
                del held[key]
            for reference in call.shared:
                if reference.key not in held:
                    held[reference.key] = _read(reference)
            return [held[reference.key] for reference in call.shared]


def _read(reference: Reference) -> Any:
    if reference.data is not None:
        return payloads.unpack(bytearray(reference.data))
    try:
        return payloads.read(reference.path or "")
    except OSError:
        raise KeyError(reference.key) from None


class _Process:
    """A process that was started to work: Ctrl-C is its parent's business, except while it does a task."""

    def __init__(self) -> None:
        self._ours = False

    def begin(self, started: Any, directory: str) -> None:
        """Called first in each process of a pool of our own.

        Args:
            started: an event, set to say that a process came up.
            directory: of shared files, removed where the parent is killed and cannot do it.
        """
        import multiprocessing

        self._ours = True
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.environ.setdefault("NUMBA_NUM_THREADS", "1")
        parent = multiprocessing.parent_process()

        def end_with_parent() -> None:
            if parent is not None:
                parent.join()
                shutil.rmtree(directory, ignore_errors=True)
                os._exit(1)

        threading.Thread(target=end_with_parent, daemon=True).start()
        started.set()

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """A block in which SIGINT raises `KeyboardInterrupt`, so that a run can save what it has."""
        if not self._ours:
            yield
            return
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    def warnings(self) -> contextlib.AbstractContextManager[list[warnings.WarningMessage] | None]:
        """A block whose warnings are kept, for the parent to show; beside the threads of others they are shown here."""
        return warnings.catch_warnings(record=True) if self._ours else contextlib.nullcontext()


_CACHE = _Cache()
_PROCESS = _Process()


def begin(started: Any, directory: str) -> None:
    """See `_Process.begin`."""
    _PROCESS.begin(started, directory)


@functools.cache
def _start() -> str:
    return uuid.uuid4().hex


def _identity() -> str:
    return f"{_start()}-{os.getpid()}"
