"""Threads: how many a computation may start here, and work shared among them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bilevelrl.task_scope import in_worker


def processors() -> int:
    """How many threads a computation may start here: as many as the process has processors; one inside a worker."""
    if in_worker():
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def over_parts(work: Callable[[Any], Any], parts: Sequence[Any], threads: int | None = None) -> list[Any]:
    """`work(part)` for every part, in their order, by no more threads than there are parts: for loops that release the
    lock.

    Args:
        work: what to do.
        parts: with what.
        threads: at most so many threads; None: as many as the process has processors.
    """
    threads = min(threads or processors(), len(parts))
    if threads <= 1:
        return [work(part) for part in parts]
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, parts))


def over_ranges(work: Callable[[int, int], object], size: int) -> None:
    """`work(first, last)` for ranges that cover `range(size)`, one a thread: for loops that release the lock."""
    edges = np.linspace(0, size, max(1, min(processors(), size)) + 1).astype(int).tolist()
    over_parts(lambda edge: work(*edge), list(itertools.pairwise(edges)))
