"""What holds inside a task: whether a worker does it for somebody else, and BLAS on one thread."""

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
    """Whether this is a task that a worker does for somebody else: its neighbours have tasks of their own."""
    return _IN_WORKER.get()


@contextlib.contextmanager
def as_worker() -> Iterator[None]:
    """A block that does a worker's task."""
    token = _IN_WORKER.set(True)
    try:
        yield
    finally:
        _IN_WORKER.reset(token)


class _OneThread:
    """BLAS on one thread while anybody asks for it. The number belongs to the process, so the last one restores it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asking = 0
        self._before: Any = None

    def __enter__(self) -> None:
        with self._lock:
            if not self._asking:
                self._before = _blas().limit(limits=1)
            self._asking += 1

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._asking -= 1
            if not self._asking:
                self._before.restore_original_limits()


def one_blas_thread() -> contextlib.AbstractContextManager[None]:
    """A block in which BLAS uses one thread: the last bits of a product may depend on how many share it."""
    return _limit


_limit = _OneThread()


@functools.cache
def _blas() -> Any:
    import scipy.linalg  # noqa: F401  # it brings a BLAS of its own, which must be there to be found
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")


def _after_fork() -> None:
    """A child made by fork has no threads but its own: nobody there holds the lock, or asks."""
    global _limit
    _limit = _OneThread()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
