"""The settings inside a task: whether it runs in a worker, and BLAS with one thread."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import os
import threading
from collections.abc import Iterator
from typing import Any

_IN_WORKER = contextvars.ContextVar("bilevelrl_in_worker", default=False)


def in_worker() -> bool:
    """Whether this is a task in a worker: other workers use the other processors."""
    return _IN_WORKER.get()


@contextlib.contextmanager
def as_worker() -> Iterator[None]:
    """A block that runs a worker's task."""
    token = _IN_WORKER.set(True)
    try:
        yield
    finally:
        _IN_WORKER.reset(token)


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """A block in which BLAS uses one thread: the last bits of a product may depend on the number of threads."""
    own = [(library, library.get_num_threads()) for library in _libraries() if _is_of_thread(library)]
    for library, _ in own:
        library.set_num_threads(1)
    _process.enter()
    try:
        yield
    finally:
        _process.leave()
        for library, number in own:
            library.set_num_threads(number)


class _Process:
    """The number of threads as a setting of the process: one while any block needs it; the last one restores it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asking = 0
        self._before: list[tuple[Any, int]] = []

    def enter(self) -> None:
        """Request one thread."""
        with self._lock:
            if not self._asking:
                self._before = [(lib, lib.get_num_threads()) for lib in _libraries() if not _is_of_thread(lib)]
                _set([(library, 1) for library, _ in self._before])
            self._asking += 1

    def leave(self) -> None:
        """End the request."""
        with self._lock:
            self._asking -= 1
            if not self._asking:
                _set(self._before)


def _set(numbers: list[tuple[Any, int]]) -> None:
    """Set numbers of threads from any thread: threadpoolctl 3.8 silently ignores all but the one that set them last."""
    for library, number in numbers:
        release = getattr(library, "clear_controlling_thread", lambda **_: None)
        release(force=True)
        library.set_num_threads(number)
        release(force=True)


def _is_of_thread(library: Any) -> bool:
    """Whether the number is a setting of each thread."""
    return getattr(library, "threading_layer", None) == "openmp"


_process = _Process()


@functools.cache
def _libraries() -> list[Any]:
    import scipy.linalg  # noqa: F401  # it brings a BLAS of its own, which must be there to be found
    from threadpoolctl import ThreadpoolController

    return list(ThreadpoolController().select(user_api="blas").lib_controllers)


def _after_fork() -> None:
    """A forked child has only one thread: the lock is free there, and no request is open."""
    global _process
    _process = _Process()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
