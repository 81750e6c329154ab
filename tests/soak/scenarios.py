"""What is done to runs, at random: each takes a random source and a path, and raises where a run is hurt."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

import bilevelrl as bl
from child_processes import HANGING, wait_until
from faults import broken
from faults.children import (
    ENDLESS,
    ITERATIONS,
    Child,
    end_at_operation,
    go_on,
    go_on_or_be_refused,
    go_on_watched,
)
from faults.injected import Operations
from faults.runs import assert_same, assert_whole_on_disk, every_subject, flip_bit, subject
from faults.terminal import ENDLESS as ENDLESS_RUN, RUN, newest, start

Scenario = Callable[[random.Random, Path], None]


def kills(source: random.Random, directory: Path) -> None:
    """SIGKILL at random moments, then the end: the same bit for bit."""
    name, every = source.choice(every_subject()), source.choice([1, 2, 5])
    for _ in range(source.randint(2, 6)):
        child = Child(go_on, directory, name, ENDLESS, every)
        time.sleep(source.uniform(0.0, 0.5))
        assert child.kill() == -signal.SIGKILL
    _end(name, _reached(name, directory) + 2, directory)


def operations(source: random.Random, directory: Path) -> None:
    """A kill or a loss of power at random operations on files, several times in a row."""
    name = source.choice(every_subject())
    for _ in range(source.randint(1, 4)):
        how, number = source.choice(["kill", "power"]), source.randint(1, 60)
        assert Child(end_at_operation, directory, name, how, number).wait() in (0, -signal.SIGKILL)
    _end(name, ITERATIONS, directory)


def disks(source: random.Random, directory: Path) -> None:
    """Operations on files that fail for a while: told or warned of, and the numbers are the same."""
    name = source.choice(every_subject())
    for _ in range(source.randint(1, 3)):
        first, reason = source.randint(1, 60), source.choice([errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT])
        last = first + int(source.expovariate(0.1))

        def act(_: Operations, at: int, first: int = first, last: int = last, reason: int = reason) -> None:
            if first <= at <= last:
                raise OSError(reason, os.strerror(reason))

        _, error = _told(lambda act=act: go_on_watched(name, directory, act))
        assert error is None or "not writable" in str(error) or "unreadable" in str(error), error
    _end(name, ITERATIONS, directory)


def damage(source: random.Random, directory: Path) -> None:
    """Files of a run flipped, cut, emptied or removed: a sentence, or the same numbers; never others."""
    name = source.choice(every_subject())
    go_on(name, ITERATIONS, 2, directory)
    removed = False
    for _ in range(source.randint(1, 3)):
        file = source.choice(sorted(path for path in directory.iterdir() if path.is_file()))
        size = file.stat().st_size
        # Without a checkpoint nothing would tell an experiment that was changed from one that was meant.
        how = source.choice(["flip", "cut", "empty", "append"] + ["remove"] * (not removed))
        if how == "flip" and size:
            flip_bit(file, source.randrange(size))
        elif how == "cut":
            os.truncate(file, source.randint(0, size))
        elif how == "empty":
            os.truncate(file, 0)
        elif how == "append":
            with file.open("ab") as end:
                end.write(source.randbytes(source.randint(1, 100)))
        elif how == "remove":
            file.unlink()
            removed = True
    algorithm, problem = subject(name)
    run, error = _told(lambda: algorithm.resume(problem, directory, iterations=ITERATIONS + 2))
    if run is None:
        assert "\n" not in str(error)
    else:
        assert_same(run, algorithm.run(problem, iterations=ITERATIONS + 2, seed=1))


def signals(source: random.Random, directory: Path) -> None:
    """Ctrl-C or SIGTERM, once or twice, to the whole program: saved, said, and gone on with."""
    process = start(*RUN, *ENDLESS_RUN, "--checkpoint-every", "20", "--out", str(directory))
    try:
        wait_until(lambda: newest(directory) > 0, process)
        time.sleep(source.uniform(0.0, 0.2))
        sent = [source.choice([signal.SIGINT, signal.SIGTERM]) for _ in range(source.choice([1, 1, 2]))]
        for number in sent:
            process.send_signal(number)
            time.sleep(source.uniform(0.0, 0.02))
        _, err = process.communicate(timeout=HANGING)
    finally:
        process.kill()
        process.wait()
    assert process.returncode in ({signal.SIGINT: 130, signal.SIGTERM: 143}[number] for number in sent), err
    assert err.splitlines()[-1] == f"Interrupted: resume with `bilevelrl resume {directory}`", err
    iterations = bl.load_run(directory).last.iteration + 2
    run = bl.resume_run(directory, iterations=iterations)
    assert_same(run, run.algorithm.run(run.problem, iterations=iterations, seed=1))


def rivals(source: random.Random, directory: Path) -> None:
    """Several processes at once on one directory: one of them has it, the others are refused."""
    name = source.choice(every_subject())
    children = []
    for _ in range(source.randint(2, 4)):
        children.append(Child(go_on_or_be_refused, directory, name, ITERATIONS))
        time.sleep(source.uniform(0.0, 0.05))
    for child in children:
        assert child.wait() == 0
    _end(name, ITERATIONS, directory)


def components(source: random.Random, directory: Path) -> None:
    """A component that fails at a random iteration: named, and all before it is kept."""
    role, kind = source.choice(list(broken.KINDS.items()))
    fault, good = source.choice(broken.FAULTS), source.randint(0, 5)
    sound = bl.Algorithm(
        bl.lower_level_solver("soft-policy-iteration"),
        bl.hypergradient_estimator("implicit"),
        bl.upper_level_optimizer("gradient-descent", step_size=0.05),
    )
    component = kind(fault=fault, at=good if role == "upper" else good + 1)
    algorithm, (_, problem) = attrs.evolve(sound, **{role: component}), subject("m-sobirl")
    every = source.choice([1, 3, None])
    run, error = _told(lambda: algorithm.run(problem, iterations=10, seed=1, out=directory, checkpoint_every=every))
    if error is not None:
        assert isinstance(error, ZeroDivisionError) == (fault == "raise"), error
        assert f"its {good} complete iterations are kept" in error.__notes__[-1]
        assert component.name in f"{error} {error.__notes__}"
    else:
        assert fault in ("not-a-number", "diverged")
        # An optimizer that leaps to 1e300 is not itself found out: what is evaluated there is.
        assert component.name in run.stopped_by or (role, fault) == ("upper", "diverged")
    saved = bl.load_run(directory, problem=problem, algorithm=algorithm)
    whole = sound.run(problem, iterations=good, seed=1)
    assert saved.last.iteration == good
    assert saved.x.tobytes() == whole.x.tobytes()
    assert saved.history["objective"].tobytes() == whole.history["objective"].tobytes()


def workers(source: random.Random, directory: Path) -> None:
    """SIGKILL to processes that have a seed's run: others take it up, and the numbers are the same."""
    iterations, seeds = 600, range(1, 4)
    several = ("--seeds", str(len(seeds)), "--jobs", "2", "--checkpoint-every", str(source.choice([5, 20, 100])))
    process = start(*RUN, "--iterations", str(iterations), *several, "--out", str(directory))
    try:
        for _ in range(source.randint(1, 2)):  # of a task that kills three workers the process would despair
            wait_until(lambda: bool(_owners(directory, process.pid)) or process.poll() is not None)
            time.sleep(source.uniform(0.0, 0.3))
            for worker in _owners(directory, process.pid)[:1]:
                os.kill(worker, signal.SIGKILL)
        _, err = process.communicate(timeout=HANGING)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, err
    for seed in seeds:
        run = bl.load_run(directory / f"seed-{seed}")
        assert_same(run, run.algorithm.run(run.problem, iterations=iterations, seed=seed))


SCENARIOS: dict[str, Scenario] = {
    scenario.__name__: scenario for scenario in (kills, operations, disks, damage, signals, rivals, components, workers)
}


def _owners(directory: Path, parent: int) -> list[int]:
    """The worker processes that have a seed's directory at the moment."""
    found = []
    for lock in directory.glob("seed-*/lock"):
        with contextlib.suppress(OSError, ValueError):  # gone, or not written yet
            owner = int(lock.read_text(encoding="ascii"))
            os.kill(owner, 0)  # raises where it is dead
            found.append(owner)
    return [owner for owner in found if owner != parent]  # who makes the directories before the workers have them


def _told(call: Callable[[], Any]) -> tuple[Any, Exception | None]:
    """What a call gives, and the error that it tells of; warnings about checkpoints are expected."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", bl.storage.CheckpointWarning)
        try:
            return call(), None
        except (bl.InputError, ZeroDivisionError) as error:
            return None, error


def _reached(name: str, directory: Path) -> int:
    """The iterations of the last good checkpoint; 0 where the run was killed before it had got anywhere."""
    algorithm, problem = subject(name)
    run, error = _told(lambda: bl.load_run(directory, problem=problem, algorithm=algorithm))
    assert error is None or "is without a" in str(error), error
    return 0 if run is None else int(run.last.iteration)


def _end(name: str, iterations: int, directory: Path) -> None:
    """Go on undisturbed, and compare with a run that was never disturbed."""
    algorithm, problem = subject(name)
    go_on(name, iterations, 1, directory)
    assert_whole_on_disk(directory, algorithm.run(problem, iterations=iterations, seed=1))
