"""Checks of the available memory before an allocation: sizes in files and options are not trusted."""

from __future__ import annotations

import contextlib
import functools
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from bilevelrl.validation.errors import InputError, shape_words

CONTROL_GROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def memory_limit() -> int:
    """The most bytes that this process can have: the least of the machine's, the container's and its own limit."""
    limit = machine_limit()
    with contextlib.suppress(ImportError):
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_AS)
        if soft != resource.RLIM_INFINITY:
            limit = min(limit, soft)
    return limit


@functools.cache
def machine_limit() -> int:
    """The bytes of the machine or the container, read once, since simulators check at every call."""
    return min(_limits(), default=2**63)


SPARSE_KERNEL = "a scipy.sparse array (S·A, S), which stores what is not zero"
"""The alternative to a dense table of transitions that does not fit."""


def check_fits(what: str, shape: Sequence[int], *, itemsize: int = 8, instead: str = "") -> None:
    """Raise `InputError` if a single array of this shape is larger than the memory.

    Args:
        what: its name in the message.
        shape: its shape.
        itemsize: bytes per entry.
        instead: an alternative that takes less memory.
    """
    needed, limit = math.prod(int(length) for length in shape) * itemsize, memory_limit()
    if needed > limit:
        given = f"an array of shape {shape_words(shape)}, {size_words(needed)}"
        expected = f"one that fits into the {size_words(limit)} of memory here"
        raise InputError(what, given, f"{expected}, or {instead}" if instead else expected)


def size_words(count: int) -> str:
    """A number of bytes for a message: `1.5 GiB`."""
    power = min(max(count.bit_length() - 1, 0) // 10, 6)
    unit = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")[power]
    whole = count >> (10 * power)
    if whole >= 1024:
        return f"more than 1023 {unit}"
    return f"{count} B" if power == 0 else f"{count / (1 << (10 * power)):.1f} {unit}"


def _limits() -> Iterator[int]:
    with contextlib.suppress(AttributeError, ValueError, OSError):  # a system that does not report it
        yield os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for file in CONTROL_GROUP_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # no such group, or "max"
            yield int(file.read_text())
