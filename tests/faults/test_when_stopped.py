"""What happens when something stops the process: every test is a section of the page."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

import bilevelrl as bl
from child_processes import HANGING, wait_until
from faults.children import ENDLESS, ITERATIONS, Child, end_at_operation, go_on, go_on_watched
from faults.injected import Operations, watched
from faults.page import Section
from faults.runs import assert_same, assert_whole_on_disk, history_of, small, subject
from faults.terminal import ENDLESS as ENDLESS_RUN, OUT, RUN, Terminal, newest, start, told
from slowness import slow_unless
from worker_tasks import DiesAgain

# In all fifty.
KILLS = {"m-sobirl": 14, "adam": 12, "sobirl": 12, "stoc-sobirl": 12}


@pytest.mark.parametrize("name", slow_unless("adam".__eq__, KILLS))
def test_the_process_is_killed(name: str, here: Path, section: Section) -> None:
    """SIGKILL at 50 random moments in all: while it starts, computes, or writes; then it may end."""
    algorithm, problem = subject(name)
    moments, directory = random.Random(name), here / "run"
    for kill in range(KILLS[name]):
        before = newest(directory)
        child = Child(go_on, directory, name, ENDLESS, 1)
        if kill % 2:  # as it goes on; otherwise most are killed as they start, where the machine is busy
            wait_until(lambda child=child, before=before: child.failed or newest(directory) not in (0, before))
        time.sleep(moments.uniform(0.0, 0.1))
        assert child.kill() == -signal.SIGKILL
    reached = bl.load_run(directory, problem=problem, algorithm=algorithm).last.iteration
    assert Child(go_on, directory, name, reached + 3, 1).wait() == 0
    assert_whole_on_disk(directory, algorithm.run(problem, iterations=reached + 3, seed=1))
    section.check_nothing_is_shown()


# Of the operations on files, `make test` takes each fifth.
each = pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.slow)])


def check_operations(how: str, memory: Path, step: int) -> None:
    """Stop the run at one of its operations on files after the other, and resume it."""
    algorithm, problem = subject("adam")
    whole = algorithm.run(problem, iterations=ITERATIONS, seed=1)
    count = go_on_watched("adam", memory / "counted", lambda *_: None)
    assert count > 40
    for number in range(1, count + 1, step):
        directory = memory / f"operation-{number}"
        assert Child(end_at_operation, directory, "adam", how, number).wait() == -signal.SIGKILL, number
        go_on("adam", ITERATIONS, 3, directory)
        assert_whole_on_disk(directory, whole)


@each
def test_the_process_is_killed_in_the_middle_of_a_write(step: int, memory: Path, section: Section) -> None:
    """Before each operation on a file, and in the middle of each write: there is no moment that is not one of these."""
    check_operations("kill", memory, step)
    section.check_nothing_is_shown()


@each
def test_the_machine_loses_power(step: int, memory: Path, section: Section) -> None:
    """The same, and what had not been synchronised with the disk is lost."""
    check_operations("power", memory, step)
    section.check_nothing_is_shown()


def test_the_process_is_killed_before_its_first_checkpoint(terminal: Terminal, section: Section) -> None:
    """Without a checkpoint a run begins anew, unless only its caller knew where."""
    algorithm, problem = small()
    algorithm.run(problem, iterations=3, out=OUT)
    (OUT / "checkpoint").unlink()
    (OUT / "checkpoint.previous").unlink()
    assert terminal("resume", str(OUT)) == ""
    assert_whole_on_disk(OUT, algorithm.run(problem, iterations=3))

    algorithm.run(problem, iterations=3, x=np.full(problem.dimension, 0.1), out=OUT)
    (OUT / "checkpoint").unlink()
    (OUT / "checkpoint.previous").unlink()
    section.check(terminal("resume", str(OUT), status=2))


def check_signal(number: signal.Signals, status: int, section: Section) -> None:
    process = start(*RUN, *ENDLESS_RUN, "--checkpoint-every", "50", "--out", str(OUT))
    wait_until(lambda: newest(OUT) > 0, process)
    process.send_signal(number)
    out, err = process.communicate(timeout=HANGING)
    assert process.returncode == status, err
    section.check(told(err))
    assert "interrupted: was interrupted; the last complete iteration is kept" in out
    saved = bl.load_run(OUT)
    assert saved.status is bl.Status.INTERRUPTED
    assert len(history_of(OUT)) == saved.last.iteration + 1
    algorithm, problem = small()
    target = saved.last.iteration + 5
    assert_same(bl.resume_run(OUT, iterations=target), algorithm.run(problem, iterations=target, seed=1))


def test_ctrl_c_is_pressed(here: Path, section: Section) -> None:
    check_signal(signal.SIGINT, 130, section)


@pytest.mark.slow
def test_sigterm_is_received(here: Path, section: Section) -> None:
    check_signal(signal.SIGTERM, 143, section)


@each
def test_ctrl_c_is_pressed_while_the_run_is_being_saved(
    step: int, terminal: Terminal, section: Section, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The impatient second Ctrl-C, at every operation of the end's saving in turn."""
    algorithm, problem = small()
    whole = algorithm.run(problem, iterations=3, seed=1)
    write_end, begun = bl.Run.write_end, []

    def end(self: bl.Run, directory: Any) -> None:
        begun.append(True)
        write_end(self, directory)

    monkeypatch.setattr(bl.Run, "write_end", end)

    def save(directory: Path, number: int | None, status: int) -> tuple[str, int]:
        begun.clear()
        operations = 0

        def act(watch: Operations, _: int) -> None:
            nonlocal operations
            if not begun or watch.path.endswith("run.png"):
                return
            operations += 1
            if operations == number:
                raise KeyboardInterrupt

        with watched(directory, act):
            return terminal(*RUN, "--iterations", "3", "--out", str(directory), status=status), operations

    _, count = save(Path("runs/counted"), None, 0)
    assert count > 15
    for number in range(1, count + 1, step):
        directory = Path(f"runs/{number}/long")
        came, _ = save(directory, number, 130)
        section.check(came.replace(str(directory), str(OUT)))
        assert_same(bl.resume_run(directory), whole)

    def draw(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bl.Run, "plot", draw)
    section.check(terminal(*RUN, "--iterations", "3", "--out", str(OUT), status=130))
    assert_whole_on_disk(OUT, whole)


@pytest.mark.slow
def test_a_worker_process_dies(here: Path, section: Section) -> None:
    """SIGKILL to the process that has a seed's directory, in the middle of its run; the lock names it."""
    iterations, seeds = 1_500, 3
    several = ("--seeds", str(seeds), "--jobs", "2", "--checkpoint-every", "50")
    process = start(*RUN, "--iterations", str(iterations), *several, "--out", str(OUT))
    victim, lock = OUT / "seed-2", OUT / "seed-2" / "lock"
    wait_until(lambda: newest(victim) > 0, process)
    worker = int(lock.read_text(encoding="ascii"))
    assert worker != process.pid
    os.kill(worker, signal.SIGKILL)
    _, err = process.communicate(timeout=HANGING)
    assert process.returncode == 0, err
    section.check_nothing_is_shown()
    assert err.splitlines() == [f"run {done:>6,} of {seeds}" for done in range(1, seeds + 1)]
    assert "resumed" in json.loads((victim / "environment.json").read_text(encoding="utf-8"))
    algorithm, problem = small()
    for seed in range(1, 1 + seeds):
        assert_same(bl.load_run(OUT / f"seed-{seed}"), algorithm.run(problem, iterations=iterations, seed=seed))


@pytest.mark.slow
def test_a_worker_process_dies_again_and_again(here: Path, section: Section) -> None:
    """Of one seed, whichever worker has it; the others end, and once it is repaired it goes on."""
    problem = bl.problem("synthetic-quadratic", dimension=3)
    starts = [problem.initial_point(bl.randomness.stream(seed, "start"))[0] for seed in range(3)]
    assert [bool(start > 0) for start in starts] == [False, True, False]
    algorithm = attrs.evolve(bl.algorithm("m-sobirl"), upper=DiesAgain())
    with pytest.raises(bl.validation.WorkerLost) as caught:
        algorithm.run_seeds(problem, seeds=3, iterations=6, out=OUT, jobs=2, checkpoint_every=1)
    section.check(f"bilevelrl.validation.WorkerLost: {caught.value}")
    for seed in (0, 2):
        assert_same(
            bl.load_run(OUT / f"seed-{seed}", algorithm=algorithm), algorithm.run(problem, iterations=6, seed=seed)
        )
    whole = algorithm.run(problem, iterations=6, seed=1)  # no worker does it, so that it does not die
    assert bl.load_run(OUT / "seed-1", algorithm=algorithm).last.iteration == 3
    assert_same(algorithm.resume(problem, OUT / "seed-1"), whole)
