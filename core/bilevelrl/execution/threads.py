"""Threads: how many a computation may start, and work divided among them."""

from __future__ import annotations

import collections
import functools
import itertools
import os
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from bilevelrl.execution.task_scope import in_worker

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor


def processors() -> int:
    """How many threads a computation may start: as many as the process has processors; one inside a worker."""
    if in_worker():
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def over_parts(work: Callable[[Any], Any], parts: Sequence[Any], threads: int | None = None) -> list[Any]:
    """The results of `work(part)` for all parts, in their order, for loops that release the lock.

    Args:
        work: the function.
        parts: its arguments.
        threads: the largest number of threads; None: as many as the process has processors.
    """
    threads = min(threads or processors(), len(parts))
    if threads <= 1 or getattr(_helper, "busy", False):
        return [work(part) for part in parts]
    waiting, answers = collections.deque(enumerate(parts)), [None] * len(parts)

    def take_turns() -> None:
        while waiting:
            try:
                index, part = waiting.popleft()
            except IndexError:  # another thread took the last part
                return
            answers[index] = work(part)

    pool = _pool()
    helpers = [pool.submit(take_turns) for _ in range(threads - 1)]
    try:
        take_turns()
    finally:
        for helper in helpers:
            helper.result()
    return answers


def over_ranges(work: Callable[[int, int], object], size: int) -> None:
    """`work(first, last)` for ranges that cover `range(size)`, one for each thread, for loops that release the lock."""
    parts = max(1, min(processors(), size))
    edges = [size * part // parts for part in range(parts + 1)]
    over_parts(lambda edge: work(*edge), list(itertools.pairwise(edges)))


_helper = threading.local()


@functools.cache
def _pool() -> ThreadPoolExecutor:
    """Threads that wait for work: starting new ones for each call takes half a millisecond."""
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(max(1, processors() - 1), "bilevelrl", initializer=_begin_to_help)


def _begin_to_help() -> None:
    """Nested calls run in the calling thread, which avoids a deadlock."""
    _helper.busy = True


if hasattr(os, "register_at_fork"):  # a forked process has none of its parent's threads
    os.register_at_fork(after_in_child=_pool.cache_clear)
