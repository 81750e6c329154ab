"""The same targets under atheris, which sees which lines an input reaches and keeps what reaches new ones.

A process for each target: libFuzzer ends its process. Needs `pip install atheris`, which nothing else does.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from fuzz.engine import LONGEST_INPUT, Failure, Tally, one_line, trace
from fuzz.limits import alarms, judge, limited_memory
from fuzz.targets import Target

CRASH = "crash-"


def in_turn(targets: Sequence[Target], *, seed: int, seconds: float | None, executions: int | None) -> Iterator[Tally]:
    """Explore several targets, each with its share of the time, until the first failure of each."""
    for target in targets:
        yield _explore(target, seed, None if seconds is None else seconds / len(targets), executions)


def _explore(target: Target, seed: int, seconds: float | None, executions: int | None) -> Tally:
    with tempfile.TemporaryDirectory() as scratch:
        corpus, crashes = Path(scratch, "corpus"), Path(scratch, "crashes")
        corpus.mkdir()
        crashes.mkdir()
        for index, data in enumerate(target.seeds()):
            (corpus / f"seed-{index}").write_bytes(data)
        options = [
            f"-seed={seed + 1}",  # 0 would mean a seed of libFuzzer's own choice
            f"-max_len={LONGEST_INPUT}",
            "-timeout=0",  # its alarm would be ours; what no alarm can stop, the deadline below does
            "-rss_limit_mb=0",  # the address space is limited instead
            "-print_final_stats=1",
            f"-artifact_prefix={crashes}/",
        ]
        options += [] if seconds is None else [f"-max_total_time={max(1, int(seconds))}"]
        options += [] if executions is None else [f"-runs={executions}"]
        command = [sys.executable, "-m", "fuzz.atheris_process", target.name, *options, str(corpus)]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
        deadline = None if seconds is None else 2.0 * seconds + 120.0
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False, timeout=deadline, env=environment
        )
        counted = re.search(r"number_of_executed_units:\s*(\d+)", done.stderr)
        speed = re.search(r"average_exec_per_sec:\s*(\d+)", done.stderr)
        tally = Tally(target.name, executions=int(counted[1]) if counted else 0)
        tally.seconds = tally.executions / max(1, int(speed[1])) if speed else 0.0
        tally.failures = [_failure(target, file, done.stdout + done.stderr) for file in sorted(crashes.iterdir())]
        if done.returncode and not tally.failures:  # it did not get so far, or died of what it cannot name
            told = done.stderr.strip().splitlines()
            tally.failures = [Failure(target.name, b"", f"exit status {done.returncode}: {told[-1:]}", done.stderr)]
    return tally


def _failure(target: Target, file: Path, printed: str) -> Failure:
    """What an input did, seen again here; or, where the process died of it, what it printed."""
    data = file.read_bytes()
    if file.name.startswith(CRASH):
        with alarms(), limited_memory():
            failure = judge(target.run, data, target.seconds).failure
        if failure is not None:
            return Failure(target.name, data, one_line(failure), trace(failure))
    return Failure(target.name, data, file.name.partition("-")[0], printed[-20_000:])
