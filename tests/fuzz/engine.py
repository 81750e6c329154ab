"""The plain fuzzer: mutates valid inputs, and keeps those that were refused in a way not seen before."""

from __future__ import annotations

import hashlib
import random
import re
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import attrs

from fuzz.limits import Hang, Verdict, alarms, judge, limited_memory
from fuzz.targets import Target

BATCH = 2000
"""Executions between two looks at the clock of a target, after which its memory is measured anew."""

LARGEST_POOL = 400
LONGEST_INPUT = 1 << 16
MOST_FAILURES = 20


@attrs.frozen
class Failure:
    """An input that was neither accepted nor refused in one sentence.

    Args:
        target: what read it.
        data: the input.
        error: what it did instead, in one line.
        trace: in full.
    """

    target: str
    data: bytes
    error: str
    trace: str

    def write(self, directory: Path) -> Path:
        """Write the input where it can be run again."""
        directory.mkdir(parents=True, exist_ok=True)
        file = directory / f"{self.target}-{hashlib.sha256(self.data).hexdigest()[:12]}"
        file.write_bytes(self.data)
        file.with_suffix(".txt").write_text(self.trace, encoding="utf-8")
        return file


@attrs.define
class Tally:
    """What became of a target's inputs."""

    target: str
    executions: int = 0
    accepted: int = 0
    seconds: float = 0.0
    kinds: int = 0
    failures: list[Failure] = attrs.field(factory=list)


def explore(target: Target, *, seed: int, seconds: float = 1e9, executions: int = 2**62) -> Tally:
    """Run a target on mutations of its seeds until the time or the executions are spent."""
    rng, pool = random.Random(f"{seed} {target.name}"), list(target.seeds())
    tally, seen, began = Tally(target.name), set[str](), time.monotonic()
    given = len(pool)
    warm_up(target)
    while tally.executions < executions and time.monotonic() - began < seconds:
        with alarms(), limited_memory():
            for _ in range(min(BATCH, executions - tally.executions)):
                # Half of them of valid inputs: what was refused once is soon refused whatever is changed.
                data = target.mutate(rng, pool if rng.random() < 0.5 else pool[:given])[:LONGEST_INPUT]
                if judge_one(target, data, tally, seen):
                    pool.append(data)
                    if len(pool) > LARGEST_POOL:
                        del pool[rng.randrange(given, len(pool))]
                if len(tally.failures) >= MOST_FAILURES or time.monotonic() - began >= seconds:
                    break
        if len(tally.failures) >= MOST_FAILURES:
            break
    tally.kinds, tally.seconds = len(seen), time.monotonic() - began
    return tally


def warm_up(target: Target) -> None:
    """Run its seeds without limits, so that what is made or compiled at first use does not count as an input's."""
    with alarms():
        for data in target.seeds():
            judge(target.run, data, 300.0)


def judge_one(target: Target, data: bytes, tally: Tally, seen: set[str]) -> bool:
    """Count an input; whether it was treated in a way not seen before."""
    verdict = judge(target.run, data, target.seconds)
    failure = verdict.failure
    tally.executions += 1
    kind = kind_of(verdict)
    new = kind not in seen
    seen.add(kind)
    if failure is not None:
        if new:
            tally.failures.append(Failure(target.name, data, one_line(failure), trace(failure)))
        return False
    tally.accepted += not verdict.sentence
    return new


def kind_of(verdict: Verdict) -> str:
    """What inputs that were treated alike have in common: the lines of code, and the words without their values."""
    words = re.sub(r"'[^']*'|\"[^\"]*\"|[\d.]+|nan|inf", "", verdict.sentence)[:120]
    return f"{verdict.place} {words}"


def one_line(failure: BaseException) -> str:
    """A failure's class and message."""
    text = "took longer than it may" if isinstance(failure, Hang) else " ".join(str(failure).split())[:200]
    return f"{type(failure).__name__}: {text}"


def trace(failure: BaseException) -> str:
    """A failure in full."""
    return "".join(traceback.format_exception(failure))[-20_000:]


def in_turn(targets: list[Target], *, seed: int, seconds: float | None, executions: int | None) -> Iterator[Tally]:
    """Explore several targets, each with its share of the time."""
    for target in targets:
        share = 1e9 if seconds is None else seconds / len(targets)
        yield explore(target, seed=seed, seconds=share, executions=2**62 if executions is None else executions)
