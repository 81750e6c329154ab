"""What one input may take: processor time by an alarm, memory by a limit on the address space."""

from __future__ import annotations

import contextlib
import resource
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import attrs

import bilevelrl as bl

MOST_MEMORY = 100 << 20
"""Bytes that reading one input may take."""


class Hang(BaseException):
    """An input took more processor time than it may; no `Exception`, so that no reader takes it for one of its own."""


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

    before = signal.signal(signal.SIGPROF, ring)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.signal(signal.SIGPROF, before)


@attrs.frozen
class Verdict:
    """What became of an input.

    Args:
        sentence: what it was refused with; "" where it was not.
        place: the line that refused it, or what that line met.
        failure: what it must not do, where it did it.
    """

    sentence: str = ""
    place: str = ""
    failure: BaseException | None = None


def judge(run: Callable[[bytes], None], data: bytes, seconds: float) -> Verdict:
    """Run an input, within `alarms` and `limited_memory`; warnings count as tracebacks."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                warnings.filterwarnings("ignore", category=DeprecationWarning, module="gymnasium")
                run(data)
        finally:  # what follows is our own time
            signal.setitimer(signal.ITIMER_PROF, 0.0)
    except bl.InputError as refusal:
        sentence = str(refusal)
        if "\n" in sentence or len(sentence) > LONGEST_SENTENCE:
            failure = AssertionError(f"not one short sentence: {sentence[:1000]!r}")
            return Verdict("", "not one short sentence", failure)
        return Verdict(sentence, place_of(refusal.__context__ or refusal))
    except (Hang, Exception) as failure:
        return Verdict(place=place_of(failure), failure=failure)
    return Verdict()


def place_of(error: BaseException) -> str:
    """An error's class and where it was raised."""
    frames = [f"{frame.name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)[-4:]]
    return " ".join([type(error).__name__, *frames])


LONGEST_SENTENCE = 600
