"""`python -m soak`: scenarios in turn until the time is up; exit status 1 where one of them hurt a run."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import random
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs
from rich.console import Console
from rich.table import Table

import child_processes
from soak.scenarios import SCENARIOS

FAILURES = Path("soak-failures")
FUZZ = "fuzzing"
LONGEST_SLICE = 60.0
"""Seconds of fuzzing at a time."""

console = Console(soft_wrap=True, highlight=False)


@attrs.define
class Tally:
    """What a scenario showed."""

    rounds: int = 0
    seconds: float = 0.0
    failures: list[str] = attrs.field(factory=list)


def main(arguments: Sequence[str] | None = None) -> int:
    """Soak until the time is up or Ctrl-C, print a table, and say how to see each failure again."""
    options = _options(arguments)
    tallies = {name: Tally() for name in options.only or [*SCENARIOS, *([FUZZ] if _can_fuzz(options) else [])]}
    began = time.monotonic()
    with contextlib.suppress(KeyboardInterrupt):
        console.print(f"{options.minutes:g} minutes from seed {options.seed}; Ctrl-C ends with the table")
        _soak(tallies, options)
    _report(tallies, time.monotonic() - began)
    return int(any(tally.failures for tally in tallies.values()))


def _soak(tallies: dict[str, Tally], options: argparse.Namespace) -> None:
    began, limit = time.monotonic(), 60 * options.minutes
    while (left := limit - (time.monotonic() - began)) > 0:
        waiting = [name for name, tally in tallies.items() if tally.rounds != options.rounds]
        if not waiting:
            return
        # Each gets the same time, however long its rounds are.
        name = min(waiting, key=lambda name: tallies[name].seconds)
        tally, seed = tallies[name], options.seed + tallies[name].rounds
        with _timed(tally):
            slice_ = min(left, LONGEST_SLICE, max(1.0, limit / (2 * len(tallies))))
            failure = _fuzz(seed, slice_) if name == FUZZ else _try(name, seed)
        if failure:
            tally.failures.append(failure)
            console.print(f"{name}: {failure}")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (default 10)")
    parser.add_argument("--rounds", type=int, help="at most so many of each scenario")
    parser.add_argument("--seed", type=int, default=0, help="of the first round; each round adds one (default 0)")
    parser.add_argument("--only", choices=[*SCENARIOS, FUZZ], action="append", help="one scenario; repeatable")
    parser.add_argument("--no-fuzzing", action="store_true", help="leave the fuzzers out")
    return parser.parse_args(arguments)


def _can_fuzz(options: argparse.Namespace) -> bool:
    return not options.no_fuzzing and importlib.util.find_spec("fuzz") is not None


@contextlib.contextmanager
def _timed(tally: Tally) -> Iterator[None]:
    began = time.monotonic()
    yield
    tally.rounds += 1
    tally.seconds += time.monotonic() - began


def _try(name: str, seed: int) -> str | None:
    """One round of a scenario; what went wrong and how to see it again, or None."""
    with tempfile.TemporaryDirectory(prefix="soak-") as place:
        directory = Path(place) / "run"
        try:
            SCENARIOS[name](random.Random(f"{name} {seed}"), directory)
        except Exception:
            kept = FAILURES / f"{name}-{seed}"
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(place, kept)
            (kept / "traceback.txt").write_text(traceback.format_exc(), encoding="utf-8")
            last = traceback.format_exc().strip().splitlines()[-1]
            return f"{last}\n  kept in {kept}; again: {_again(name, seed)}"
        finally:
            child_processes.end_all()
    return None


def _fuzz(seed: int, seconds: float) -> str | None:
    """A slice of fuzzing; what it found and how to see it again, or None."""
    command = ["-m", "fuzz", "--seconds", f"{seconds:.0f}", "--seed", str(seed)]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return None
    return f"{(done.stdout + done.stderr).strip()}\n  again: PYTHONPATH=tests python {' '.join(command)}"


def _again(name: str, seed: int) -> str:
    return f"PYTHONPATH=tests python -m soak --only {name} --seed {seed} --rounds 1"


def _report(tallies: dict[str, Tally], seconds: float) -> None:
    table = Table(title=f"soak: {seconds / 60:.1f} minutes", title_justify="left")
    for column, justify in (("scenario", "left"), ("rounds", "right"), ("seconds", "right"), ("failures", "right")):
        table.add_column(column, justify=justify)
    for name, tally in tallies.items():
        table.add_row(name, f"{tally.rounds:,}", f"{tally.seconds:.0f}", str(len(tally.failures)))
    console.print(table)
    rounds = sum(tally.rounds for tally in tallies.values())
    failures = sum(len(tally.failures) for tally in tallies.values())
    console.print(f"{rounds:,} rounds, {failures} failures")
    for name, tally in tallies.items():
        for failure in tally.failures:
            console.print(f"{name}: {failure}")


if __name__ == "__main__":
    sys.exit(main())
