"""Several seeds of one algorithm: each run is the one that a process alone would make, whatever happens to workers."""

from __future__ import annotations

import csv
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bilevelrl as bl
from bilevelrl.cli import main
from bilevelrl.storage.directory_lock import DirectoryLock
from bilevelrl.storage.history import COLUMNS
from child_processes import HANGING, start, wait_until
from worker_tasks import DiesOnce, Fussy, OwnSolver

SMALL = {"states": 4, "actions": 3, "dimension": 3}
PREFERENCES: dict[str, Any] = {"batch": 4, "samples": 500}


def small() -> bl.BilevelProblem:
    return bl.problem("synthetic-quadratic", **SMALL)


def composed(upper: Any, lower: Any = None) -> bl.Algorithm:
    solver = bl.lower_level_solver("soft-value-iteration", sweeps=5) if lower is None else lower
    return bl.Algorithm(solver, bl.hypergradient_estimator("implicit"), upper)


def assert_same(run: bl.Run, other: bl.Run) -> None:
    """Bit for bit, but for the clock."""
    assert run.seed == other.seed
    for column in COLUMNS[:-1]:
        assert run.history[column].tobytes() == other.history[column].tobytes(), column
    for state, twin in ((run.first, other.first), (run.last, other.last)):
        assert state.x.tobytes() == twin.x.tobytes()
        assert state.solution.policy.tobytes() == twin.solution.policy.tobytes()
        assert state.hyper.gradient.tobytes() == twin.hyper.gradient.tobytes()
        assert state.cost == twin.cost
    assert (run.status, run.stopped_by) == (other.status, other.stopped_by)


@pytest.mark.parametrize("name", ["m-sobirl", "stoc-sobirl"])
def test_runs_are_complete_and_those_of_run_bit_for_bit(name: str) -> None:
    """With measures, solution, histories and handles, as if `run` had been called for each seed."""
    problem = small() if name == "m-sobirl" else bl.problem("gridworld-preferences", size=3, horizon=6)
    algorithm = bl.algorithm(name, **({} if name == "m-sobirl" else PREFERENCES))
    alone = [algorithm.run(problem, iterations=4, seed=seed) for seed in (3, 1, 2)]
    for jobs in (None, 2):
        runs = algorithm.run_seeds(problem, seeds=[3, 1, 2], iterations=4, jobs=jobs)
        assert [run.seed for run in runs] == [3, 1, 2]
        for run, other in zip(runs, alone, strict=True):
            assert_same(run, other)
            assert (run.problem, run.algorithm) == (problem, algorithm)
            assert run.comparison() == other.comparison()
            continued = algorithm.step(problem, run.last, seed=run.seed)
            assert continued.x.tobytes() == algorithm.step(problem, other.last, seed=run.seed).x.tobytes()


def test_a_number_of_seeds_counts_from_zero_and_progress_is_told() -> None:
    told: list[tuple[int, int]] = []
    runs = bl.algorithm("m-sobirl").run_seeds(
        small(), seeds=3, iterations=2, progress=lambda *counts: told.append(counts)
    )
    assert [run.seed for run in runs] == [0, 1, 2]
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_answers_of_a_class_of_their_own_come_back_too() -> None:
    algorithm = composed(bl.upper_level_optimizer("adam"), OwnSolver())
    here = algorithm.run_seeds(small(), seeds=2, iterations=3)
    there = algorithm.run_seeds(small(), seeds=2, iterations=3, jobs=2)
    for run, other in zip(here, there, strict=True):
        assert_same(run, other)
        assert type(other.solution) is OwnSolver().solve(small(), run.x, None, None).__class__


def test_every_seed_has_a_directory_that_can_be_loaded_and_gone_on_with(tmp_path: Path) -> None:
    problem, algorithm = small(), bl.algorithm("m-sobirl")
    longer = algorithm.run_seeds(problem, seeds=2, iterations=6)
    short = algorithm.run_seeds(problem, seeds=2, iterations=3, jobs=2, out=tmp_path, checkpoint_every=2)
    for run in short:
        assert_same(bl.load_run(tmp_path / f"seed-{run.seed}"), run)
    for run, expected in zip(bl.resume_seeds(tmp_path, iterations=6, jobs=2), longer, strict=True):
        assert_same(run, expected)
    with (tmp_path / "seeds.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["objective"]) for row in rows] == [run.objective for run in longer]


def test_a_directory_without_seeds_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(bl.InputError, match=r"is without runs; expected one that several seeds were saved to"):
        bl.resume_seeds(tmp_path)


def contents(directory: Path) -> dict[str, bytes]:
    """Every file below a directory, with its bytes."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def refused(directory: Path, complaint: str, attempt: Any) -> None:
    """The attempt is told in that sentence, and changes nothing in the directory."""
    before = contents(directory)
    with pytest.raises(bl.InputError) as caught:
        attempt()
    assert str(caught.value) == complaint
    assert contents(directory) == before


@pytest.mark.parametrize("unfinished", [0, 1, 2])
def test_an_unfinished_run_is_refused_and_costs_none_of_the_finished_ones(unfinished: int, tmp_path: Path) -> None:
    """Whichever it is: all directories are looked at before the first is taken over, and no new one is made."""
    problem, algorithm = small(), bl.algorithm("m-sobirl")
    algorithm.run_seeds(problem, seeds=3, iterations=3, out=tmp_path)
    cut_off = tmp_path / f"seed-{unfinished}"
    (cut_off / "summary.json").unlink()  # as if it had been killed
    complaint = f"the directory {str(cut_off)!r} is that of a run that is not finished; expected another one, or to "
    complaint += f"resume it (bilevelrl resume {cut_off})"
    refused(tmp_path, complaint, lambda: algorithm.run_seeds(problem, seeds=4, iterations=3, out=tmp_path))
    assert not (tmp_path / "seed-3").exists()


def test_a_seed_that_another_process_writes_costs_none_of_the_others(tmp_path: Path) -> None:
    problem, algorithm = small(), bl.algorithm("m-sobirl")
    algorithm.run_seeds(problem, seeds=2, iterations=3, out=tmp_path)
    lock = DirectoryLock(tmp_path / "seed-1")
    lock.acquire()
    try:
        before = contents(tmp_path / "seed-0")
        with pytest.raises(bl.InputError, match=r"seed-1' is in use by process"):
            algorithm.run_seeds(problem, seeds=2, iterations=3, out=tmp_path)
        assert contents(tmp_path / "seed-0") == before
    finally:
        lock.release()


@pytest.mark.parametrize("ended", [True, False])
def test_a_single_run_and_several_seeds_do_not_share_a_directory(ended: bool, tmp_path: Path) -> None:
    """`resume` could only go on with one of the two."""
    problem, algorithm = small(), bl.algorithm("m-sobirl")
    single, several = tmp_path / "single", tmp_path / "several"
    algorithm.run(problem, iterations=3, out=single)
    run = algorithm.run_seeds(problem, seeds=2, iterations=3, out=several)[0]
    if not ended:
        for path in (single, several / "seed-0", several / "seed-1"):
            (path / "summary.json").unlink()
    complaint = (
        f"the directory {str(several)!r} is that of several seeds' runs; expected another one for a single run, "
    )
    complaint += "which would hide them"
    refused(several, complaint, lambda: algorithm.run(problem, iterations=3, out=several))
    refused(several, complaint, lambda: run.save(several))
    complaint = f"the directory {str(single)!r} is that of a single run; expected another one for several seeds, "
    complaint += "which would hide it"
    refused(single, complaint, lambda: algorithm.run_seeds(problem, seeds=2, iterations=3, out=single))


def test_seeds_that_stay_in_a_directory_must_be_of_the_same_problem_and_algorithm(tmp_path: Path) -> None:
    """`resume` goes on with all of them as one; those that are taken over do not matter."""
    problem, algorithm = small(), bl.algorithm("m-sobirl")
    algorithm.run_seeds(problem, seeds=2, iterations=3, out=tmp_path)
    harder = bl.problem("synthetic-quadratic", **SMALL, discount=0.9)
    there = f"the directory {str(tmp_path)!r} is that of seed-0, whose"
    for other, by, complaint in (
        (bl.problem("frozenlake-shaping", map_size=4), algorithm, "problem.name is 'synthetic-quadratic'"),
        (harder, algorithm, "problem.discount is 0.5"),
        (problem, bl.algorithm("m-sobirl", step_size=0.5), "upper.step_size is 0.1"),
        (problem, composed(bl.upper_level_optimizer("adam")), "estimator.name is 'warm-start-adjoint'"),
    ):
        before = contents(tmp_path)
        with pytest.raises(bl.InputError) as caught:
            by.run_seeds(other, seeds=[10, 11], iterations=3, out=tmp_path)
        assert str(caught.value).startswith(f"{there} {complaint}"), str(caught.value)
        assert contents(tmp_path) == before
    algorithm.run_seeds(problem, seeds=[10], iterations=2, out=tmp_path)
    assert [run.seed for run in bl.resume_seeds(tmp_path)] == [0, 1, 10]
    algorithm.run_seeds(harder, seeds=[0, 1, 10], iterations=2, out=tmp_path)


def test_seeds_that_have_made_more_iterations_than_asked_for_are_refused_before_any_goes_on(tmp_path: Path) -> None:
    problem, algorithm = small(), bl.algorithm("m-sobirl")
    algorithm.run_seeds(problem, seeds=[0], iterations=3, out=tmp_path)
    algorithm.run_seeds(problem, seeds=[1], iterations=6, out=tmp_path)
    complaint = f"iterations is 5; expected at least the 6 that the run in the directory {str(tmp_path / 'seed-1')!r} "
    refused(tmp_path, complaint + "has made", lambda: bl.resume_seeds(tmp_path, iterations=5))
    assert [run.last.iteration for run in bl.resume_seeds(tmp_path, iterations=6)] == [6, 6]


@pytest.mark.parametrize(
    ("seeds", "complaint"),
    [(0, "seeds is 0"), ([], "seeds is []"), ([1, 1], "none twice"), ([-1], "a seed is -1"), ("3", "seeds is '3'")],
    ids=str,
)
def test_seeds_that_are_none_are_rejected(seeds: Any, complaint: str) -> None:
    with pytest.raises(bl.InputError) as caught:
        bl.algorithm("m-sobirl").run_seeds(small(), seeds=seeds, iterations=1)
    assert complaint in str(caught.value)


@pytest.mark.parametrize("parallel", [False, True])
def test_a_seed_that_fails_does_not_cost_the_others(parallel: bool, tmp_path: Path) -> None:
    """Its error is raised when they have ended; their directories have them."""
    problem, algorithm = small(), composed(Fussy())
    starts = {seed: problem.initial_point(bl.randomness.stream(seed, "start"))[0] for seed in range(6)}
    fine = [seed for seed, start in starts.items() if start <= 0]
    assert 0 < len(fine) < 6
    with pytest.raises(ZeroDivisionError, match="above zero"):
        algorithm.run_seeds(problem, seeds=6, iterations=5, out=tmp_path, jobs=2 if parallel else 1)
    for seed in fine:
        saved = bl.load_run(tmp_path / f"seed-{seed}", problem=problem, algorithm=algorithm)
        assert_same(saved, algorithm.run(problem, iterations=5, seed=seed))


def test_a_seed_whose_worker_is_killed_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    """By SIGKILL in the tenth of its iterations: the run is the one that nobody killed."""
    problem = small()
    marker = tmp_path / "killed"
    killed = composed(DiesOnce(marker=str(marker)))
    runs = killed.run_seeds(problem, seeds=3, iterations=20, jobs=2, out=tmp_path / "runs", checkpoint_every=3)
    assert marker.exists()
    for run in runs:
        assert_same(run, composed(DiesOnce()).run(problem, iterations=20, seed=run.seed))


def test_seeds_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["run", "synthetic-quadratic", "--set", "problem.dimension=3", "--iterations", "4", "--seed", "5"]
    _main([*given, "--seeds", "3", "--jobs", "2", "--out", str(tmp_path)])
    told = capsys.readouterr()
    assert "run      3 of 3" in told.err
    rows = [line.split() for line in told.out.splitlines()]
    runs = [bl.load_run(tmp_path / f"seed-{seed}") for seed in (5, 6, 7)]
    objectives = np.array([run.objective for run in runs])
    for run in runs:
        assert [str(run.seed), f"{run.objective:.5g}"] in [row[:2] for row in rows]
    assert ["mean", f"{objectives.mean():.5g}"] in [row[:2] for row in rows]
    assert ["deviation", f"{objectives.std(ddof=1):.3g}"] in [row[:2] for row in rows]
    _main(["resume", str(tmp_path), "--iterations", "6"])
    assert "3 seeds" in capsys.readouterr().out
    assert bl.load_run(tmp_path / "seed-7").last.iteration == 6


def _main(arguments: list[str]) -> None:
    """The command line, which leaves with status 0."""
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code in (0, None)


@pytest.mark.parametrize(
    ("jobs", "number", "status"),
    [
        (1, signal.SIGTERM, 143),
        (2, signal.SIGINT, 130),
        pytest.param(1, signal.SIGINT, 130, marks=pytest.mark.slow),
        pytest.param(2, signal.SIGTERM, 143, marks=pytest.mark.slow),
    ],
)
def test_a_signal_saves_all_seeds_and_says_how_to_go_on(
    tmp_path: Path, jobs: int, number: signal.Signals, status: int
) -> None:
    """The signal goes to the command alone, which has its workers save what they have."""
    out = tmp_path / "runs"
    words = ["run", "synthetic-quadratic", "--set", "problem.dimension=3", "--iterations", "1000000", "--seeds", "2"]
    command = [sys.executable, "-m", "bilevelrl", *words, "--jobs", str(jobs), "--out", str(out)]
    running = start(*command, "--checkpoint-every", "50")
    awaited = [out / f"seed-{seed}" / "checkpoint" for seed in range(jobs)]
    wait_until(lambda: all(path.exists() for path in awaited), running)
    running.send_signal(number)
    _, errors = running.communicate(timeout=HANGING)
    assert running.returncode == status, errors
    assert f"Interrupted: resume with `bilevelrl resume {out}`" in errors
    reached = [bl.load_run(path.parent) for path in awaited]
    assert all(run.status is bl.Status.INTERRUPTED for run in reached)
    more = max(run.last.iteration for run in reached) + 5
    problem = bl.problem("synthetic-quadratic", dimension=3)
    for run in bl.resume_seeds(out, iterations=more):
        assert_same(run, bl.algorithm("m-sobirl").run(problem, iterations=more, seed=run.seed))
