"""What one input may take: time by an alarm, memory by a limit on the address space."""

from __future__ import annotations

import contextlib
import resource
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import bilevelrl as bl

MOST_MEMORY = 100 << 20
"""Bytes that reading one input may take."""


class Hang(BaseException):
    """An input took longer than it may; no `Exception`, so that no reader takes it for one of its own."""


@contextlib.contextmanager
def limited_memory(most: int = MOST_MEMORY) -> Iterator[None]:
    """In the block, at most so many bytes more than now: whoever asks for more gets a `MemoryError`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextlib.contextmanager
def alarms() -> Iterator[None]:
    """In the block, an alarm raises `Hang`."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def judge(run: Callable[[bytes], None], data: bytes, seconds: float) -> tuple[str, BaseException | None]:
    """The sentence that an input was refused with, "" where it was accepted; and what it must not do, if it did it.

    Within `alarms` and `limited_memory`. Warnings count as tracebacks.
    """
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", category=DeprecationWarning, module="gymnasium")
            run(data)
    except bl.InputError as refusal:
        sentence = str(refusal)
        if "\n" in sentence or len(sentence) > LONGEST_SENTENCE:
            return "", AssertionError(f"not one short sentence: {sentence[:1000]!r}")
        return sentence, None
    except (Hang, Exception) as failure:
        return "", failure
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
    return "", None


LONGEST_SENTENCE = 600
