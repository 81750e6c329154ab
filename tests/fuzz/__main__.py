"""`python -m fuzz`: fuzz every reader for a while; exit status 1 where an input did what it must not."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fuzz.engine import Tally, in_turn, warm_up
from fuzz.limits import alarms, judge, limited_memory
from fuzz.targets import TARGETS, Target

FAILURES = Path("fuzz-failures")


def main() -> int:
    """Parse the command line, fuzz, report."""
    options = _options()
    targets = [TARGETS[name] for name in options.target or TARGETS]
    if options.replay:
        return _replay(targets, options.replay)
    if options.executions is None and options.seconds is None:
        options.seconds = 60.0
    if options.engine == "atheris":
        from fuzz.coverage_guided import in_turn as explore
    else:
        explore = in_turn
    tallies = []
    print(f"{'target':12}{'executions':>12}{'per second':>12}{'accepted':>11}{'kinds':>7}{'failures':>10}", flush=True)
    for tally in explore(targets, seed=options.seed, seconds=options.seconds, executions=options.executions):
        tallies.append(tally)
        _print(tally, options.failures)
    total, failed = sum(tally.executions for tally in tallies), sum(len(tally.failures) for tally in tallies)
    print(f"{total:,} executions, {failed} failures, engine {options.engine}, seed {options.seed}")
    return 1 if failed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, help="in all, shared by the targets (default 60)")
    parser.add_argument("--executions", type=int, help="of each target, instead or besides")
    parser.add_argument("--seed", type=int, default=0, help="another seed makes other inputs (default 0)")
    parser.add_argument("--target", choices=list(TARGETS), action="append", help="only this one; repeatable")
    parser.add_argument("--engine", choices=["plain", "atheris"], default="plain", help="what makes the inputs")
    parser.add_argument("--failures", type=Path, default=FAILURES, help="where inputs that failed are written")
    parser.add_argument("--replay", type=Path, nargs="+", help="run these files, of one --target, and do nothing else")
    options = parser.parse_args()
    if options.replay and len(options.target or ()) != 1:
        parser.error("--replay needs one --target")
    return options


def _print(tally: Tally, directory: Path) -> None:
    rate = tally.executions / max(tally.seconds, 1e-9)
    counts = f"{tally.accepted:>11,}{tally.kinds:>7,}" if tally.kinds else f"{'':18}"
    print(f"{tally.target:12}{tally.executions:>12,}{rate:>12,.0f}{counts}{len(tally.failures):>10}", flush=True)
    for failure in tally.failures:
        print(f"  {failure.write(directory)}  {failure.error}", flush=True)


def _replay(targets: list[Target], files: list[Path]) -> int:
    (target,), failed = targets, False
    warm_up(target)
    for file in files:
        with alarms(), limited_memory():
            verdict = judge(target.run, file.read_bytes(), target.seconds)
        print(f"{file}: {verdict.sentence or repr(verdict.failure or 'accepted')}")
        failed = failed or verdict.failure is not None
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
