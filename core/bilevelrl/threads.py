"""Threads: how many a computation may start here, and work on ranges shared among them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable

import numpy as np


def processors() -> int:
    """How many threads a computation may start here: as many as the process has processors."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def over_ranges(work: Callable[[int, int], object], size: int) -> None:
    """`work(first, last)` for ranges that cover `range(size)`, one a thread: for loops that release the lock."""
    threads = min(processors(), size)
    if threads <= 1:
        work(0, size)
        return
    from concurrent.futures import ThreadPoolExecutor

    edges = np.linspace(0, size, threads + 1).astype(int).tolist()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda edge: work(*edge), itertools.pairwise(edges)))
