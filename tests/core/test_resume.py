"""Runs that go on: bit for bit as if they had never stopped, whatever stopped them."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import attrs
import numpy as np
import pytest

import bilevelrl as bl
from bilevelrl.cli import main
from bilevelrl.directory_lock import LOCK
from bilevelrl.history import COLUMNS
from bilevelrl.run_directory import RunDirectory

# Whatever a component needs, one of these offers it, and both are small.
PROBLEMS: dict[str, dict[str, Any]] = {
    "synthetic-quadratic": {"states": 4, "actions": 3, "dimension": 3},
    "gridworld-preferences": {},
    "four-rooms": {},
    "frozenlake-shaping": {"map_size": 4, "horizon": 10},
    "gymnasium-preferences": {},
}
SOLVERS = [entry.name for entry in bl.registry().of_kind(bl.Kind.LOWER_LEVEL_SOLVER)]
OPTIMIZERS = [entry.name for entry in bl.registry().of_kind(bl.Kind.UPPER_LEVEL_OPTIMIZER)]
ALGORITHMS = [entry.name for entry in bl.registry().of_kind(bl.Kind.ALGORITHM)]


def fitting_problems(algorithm: bl.Algorithm) -> list[bl.BilevelProblem]:
    """All of the problems above that an algorithm can solve."""
    fitting = []
    for name, options in PROBLEMS.items():
        problem = bl.problem(name, **options)
        try:
            algorithm.check_compatible(problem)
        except bl.IncompatibleError:
            continue
        fitting.append(problem)
    return fitting


def assert_same(run: bl.Run, other: bl.Run) -> None:
    """Bit for bit, but for the clock."""
    assert run.x.tobytes() == other.x.tobytes()
    assert len(run.history) == len(other.history)
    for column in COLUMNS[:-1]:
        assert run.history[column].tobytes() == other.history[column].tobytes(), column
    assert (run.status, run.stopped_by, run.last.iteration) == (other.status, other.stopped_by, other.last.iteration)
    assert attrs.evolve(run.cost, seconds=0) == attrs.evolve(other.cost, seconds=0)
    assert run.gradient.tobytes() == other.gradient.tobytes()
    assert run.solution.policy.tobytes() == other.solution.policy.tobytes()


def check_that_it_goes_on(algorithm: bl.Algorithm, problem: bl.BilevelProblem, out: Path) -> None:
    whole = algorithm.run(problem, iterations=8, seed=3)
    algorithm.run(problem, iterations=3, seed=3, out=out)
    assert bl.load_run(out, problem=problem, algorithm=algorithm).last.iteration == min(3, whole.last.iteration)
    assert_same(algorithm.resume(problem, out, iterations=8), whole)
    assert_same(bl.load_run(out), whole)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_goes_on_bit_for_bit_from_its_checkpoint(name: str, tmp_path: Path) -> None:
    algorithm = bl.algorithm(name)
    problems = fitting_problems(algorithm)
    assert problems, f"no problem here for {name}"
    for problem in problems[:2]:
        check_that_it_goes_on(algorithm, problem, tmp_path / problem.name)


@pytest.mark.parametrize("upper", OPTIMIZERS)
@pytest.mark.parametrize("lower", SOLVERS)
def test_every_solver_and_optimizer_goes_on_bit_for_bit(lower: str, upper: str, tmp_path: Path) -> None:
    solver = bl.lower_level_solver(lower)
    algorithm = bl.Algorithm(
        lower=solver,
        estimator=bl.hypergradient_estimator("implicit" if solver.requires is bl.SupportsModel else "sobirl"),
        upper=bl.upper_level_optimizer(upper, step_size=0.01),
    )
    check_that_it_goes_on(algorithm, fitting_problems(algorithm)[0], tmp_path / "run")


def test_environment_behind_step_alone_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """A Gymnasium environment has a state of its own, which no checkpoint holds and no run may depend on."""
    algorithm = bl.Algorithm(
        lower=bl.lower_level_solver("soft-q-learning", samples=500),
        estimator=bl.hypergradient_estimator("sobirl", restarts=False),
        upper=bl.upper_level_optimizer("adam", step_size=0.01),
    )
    check_that_it_goes_on(algorithm, bl.problem("gymnasium-preferences"), tmp_path / "run")


def small(**options: Any) -> tuple[bl.Algorithm, bl.BilevelProblem]:
    return bl.algorithm("m-sobirl", step_size=0.05, **options), bl.problem("frozenlake-shaping", map_size=4)


def history_of(directory: Path) -> list[dict[str, str]]:
    """The file of the history, without the clock's column."""
    with (directory / "history.csv").open(encoding="utf-8", newline="") as file:
        return [{key: row[key] for key in row if key != "seconds"} for row in csv.DictReader(file)]


def damage(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@attrs.frozen
class Stumbling:
    """An optimizer that fails at its fifth step for as long as a file exists: with an error, or with Ctrl-C."""

    name: ClassVar[str] = "stumbling"

    obstacle: Path
    error: type[BaseException]

    def init(self, x: bl.Array) -> bl.OptimizerState:
        return bl.OptimizerState()

    def update(self, x: bl.Array, hyper: Any, state: bl.OptimizerState) -> tuple[bl.Array, bl.OptimizerState]:
        if state.steps == 4 and self.obstacle.exists():
            raise self.error("in the way")
        return x - 0.1 * hyper.gradient, bl.OptimizerState(state.steps + 1)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_what_was_computed_before_an_error_or_an_interrupt_is_saved(tmp_path: Path, error: Any) -> None:
    obstacle = tmp_path / "obstacle"
    obstacle.touch()
    base, problem = small()
    algorithm = attrs.evolve(base, upper=Stumbling(obstacle, error), name="stumbling")
    if error is KeyboardInterrupt:
        assert algorithm.run(problem, iterations=9, out=tmp_path / "run").status is bl.Status.INTERRUPTED
    else:
        with pytest.raises(RuntimeError, match="in the way"):
            algorithm.run(problem, iterations=9, out=tmp_path / "run")
    assert len(history_of(tmp_path / "run")) == 5
    obstacle.unlink()
    resumed = algorithm.resume(problem, tmp_path / "run")
    assert_same(resumed, algorithm.run(problem, iterations=9))
    assert len(history_of(tmp_path / "run")) == 10


def test_run_that_met_its_tolerance_ends_at_the_same_iteration(tmp_path: Path) -> None:
    problem = bl.problem("synthetic-quadratic", **PROBLEMS["synthetic-quadratic"])
    algorithm = bl.Algorithm(
        lower=bl.lower_level_solver("soft-policy-iteration"),
        estimator=bl.hypergradient_estimator("implicit"),
        upper=bl.upper_level_optimizer("gradient-descent", step_size=0.3),
    )
    whole = algorithm.run(problem, iterations=500, tolerance=1e-6)
    assert whole.status is bl.Status.CONVERGED
    algorithm.run(problem, iterations=3, tolerance=1e-6, out=tmp_path)
    assert_same(algorithm.resume(problem, tmp_path, iterations=500), whole)


def test_history_cut_in_the_middle_of_a_line_is_repaired(tmp_path: Path) -> None:
    algorithm, problem = small()
    algorithm.run(problem, iterations=4, out=tmp_path)
    file = tmp_path / "history.csv"
    file.write_bytes(file.read_bytes()[:-30])
    algorithm.resume(problem, tmp_path, iterations=6)
    algorithm.run(problem, iterations=6, out=tmp_path / "whole")
    assert history_of(tmp_path) == history_of(tmp_path / "whole")


def test_damaged_checkpoint_falls_back_to_the_one_before_it_and_says_so(tmp_path: Path) -> None:
    algorithm, problem = small()
    algorithm.run(problem, iterations=6, out=tmp_path, checkpoint_every=2)
    damage(tmp_path / "checkpoint")
    with pytest.warns(bl.CheckpointWarning, match=r"checksum does not fit.*the one before it, of iteration 6") as told:
        resumed = algorithm.resume(problem, tmp_path, iterations=9)
    assert len(told) == 1
    assert_same(resumed, algorithm.run(problem, iterations=9))
    assert_same(bl.load_run(tmp_path), resumed)


def test_fallback_is_not_lost_when_the_damaged_checkpoint_is_replaced(tmp_path: Path) -> None:
    """The damaged one must not take the place of the good one before it."""
    algorithm, problem = small()
    algorithm.run(problem, iterations=6, out=tmp_path, checkpoint_every=2)
    damage(tmp_path / "checkpoint")
    with pytest.warns(bl.CheckpointWarning):
        algorithm.resume(problem, tmp_path)
    damage(tmp_path / "checkpoint")
    with pytest.warns(bl.CheckpointWarning):
        assert bl.load_run(tmp_path).last.iteration == 6


def test_run_that_was_killed_between_two_renames_goes_on_from_the_checkpoint_before(tmp_path: Path) -> None:
    """No warning: nothing was lost but a few iterations."""
    algorithm, problem = small()
    algorithm.run(problem, iterations=6, out=tmp_path, checkpoint_every=4)
    (tmp_path / "checkpoint").rename(tmp_path / "checkpoint.partial")
    assert_same(algorithm.resume(problem, tmp_path), algorithm.run(problem, iterations=6))


def test_two_damaged_checkpoints_are_one_sentence(tmp_path: Path) -> None:
    algorithm, problem = small()
    algorithm.run(problem, iterations=6, out=tmp_path, checkpoint_every=2)
    for name in ("checkpoint", "checkpoint.previous"):
        damage(tmp_path / name)
    with pytest.raises(bl.InputError, match="is damaged"):
        algorithm.resume(problem, tmp_path)


def test_checkpoint_of_other_versions_is_told_with_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm, problem = small()
    with monkeypatch.context() as patch:
        versions = {"bilevelrl": bl.__version__, "lower 'soft-value-iteration' from": "bilevelrl 0.0.7"}
        patch.setattr("bilevelrl.run_directory.versions_of", lambda *_: versions)
        algorithm.run(problem, iterations=3, out=tmp_path)
    told = r"written with lower 'soft-value-iteration' from bilevelrl 0\.0\.7, and here it is bilevelrl 0\.1\.0"
    with pytest.warns(bl.CheckpointWarning, match=told):
        resumed = algorithm.resume(problem, tmp_path, iterations=5)
    assert_same(resumed, algorithm.run(problem, iterations=5))


def test_run_of_another_algorithm_or_problem_is_refused_with_the_difference(tmp_path: Path) -> None:
    algorithm, problem = small()
    algorithm.run(problem, iterations=3, out=tmp_path)
    other, _ = small(sweeps=7)
    with pytest.raises(bl.InputError, match=r"lower\.sweeps is 7; expected 10, as in the directory"):
        other.resume(problem, tmp_path)
    with pytest.raises(bl.InputError, match=r"problem\.discount is 0\.5; expected 0\.9"):
        algorithm.resume(bl.problem("frozenlake-shaping", map_size=4, discount=0.5), tmp_path)
    with pytest.raises(
        bl.InputError, match=r"the problem of .* is 'frozenlake-shaping'; expected 'synthetic-quadratic'"
    ):
        algorithm.resume(bl.problem("synthetic-quadratic"), tmp_path)


def test_directory_in_use_is_refused_and_free_again_afterwards(tmp_path: Path) -> None:
    algorithm, problem = small()

    def again(state: bl.OuterState) -> None:
        with pytest.raises(bl.InputError, match=f"in use by process {os.getpid()}; expected one that no other run"):
            algorithm.run(problem, iterations=1, out=tmp_path)

    algorithm.run(problem, iterations=1, out=tmp_path, callback=again)
    assert not (tmp_path / LOCK).exists()
    algorithm.run(problem, iterations=1, out=tmp_path)


def test_lock_of_a_dead_process_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text("4194303\n")
    algorithm, problem = small()
    assert algorithm.run(problem, iterations=1, out=tmp_path).last.iteration == 1
    assert not (tmp_path / LOCK).exists()


def test_unfinished_run_is_not_written_over(tmp_path: Path) -> None:
    algorithm, problem = small()
    algorithm.run(problem, iterations=3, out=tmp_path)
    (tmp_path / "summary.json").unlink()  # as after a crash
    with pytest.raises(bl.InputError, match=r"a run that is not finished; expected another one, or to go on with it"):
        algorithm.run(problem, iterations=3, out=tmp_path)
    assert algorithm.resume(problem, tmp_path).status is bl.Status.BUDGET_SPENT
    algorithm.run(problem, iterations=2, out=tmp_path)
    assert len(history_of(tmp_path)) == 3


def test_full_disk_costs_a_warning_and_the_last_good_checkpoint_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    algorithm, problem = small()
    sync, full = os.fsync, []

    def fsync(handle: int) -> None:
        if full:
            raise OSError(28, "No space left on device")
        sync(handle)

    def fill(state: bl.OuterState) -> None:
        if state.iteration == 4:
            full.append(True)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.warns(bl.CheckpointWarning) as told:
        run = algorithm.run(problem, iterations=6, out=tmp_path, checkpoint_every=2, callback=fill)
    texts = [str(warning.message) for warning in told]
    assert texts[0].startswith(
        f"iteration 6 could not be saved to the directory '{tmp_path}' (No space left on device)"
    )
    assert texts[1].startswith("the end of the run could not be written")
    assert len(texts) == 2
    full.clear()
    assert_same(run, algorithm.run(problem, iterations=6))
    assert bl.load_run(tmp_path).last.iteration == 4
    assert_same(algorithm.resume(problem, tmp_path), run)
    assert len(history_of(tmp_path)) == 7


@attrs.frozen
class Answer:
    """A follower's answer of a class of its own."""

    policy: bl.Array
    model: bl.SoftMDP
    residual: float = 0.0
    status: bl.Status = bl.Status.CONVERGED
    cost: bl.Cost = attrs.field(factory=bl.Cost)


@attrs.frozen
class OwnSolver:
    """A solver that answers with an `Answer`."""

    name: ClassVar[str] = "own"
    requires: ClassVar[type] = bl.SupportsModel

    def solve(self, problem: Any, x: bl.Array, warm_start: Any, rng: Any) -> Answer:
        found = bl.lower_level_solver("soft-policy-iteration").solve(problem, x, None, rng)
        return Answer(found.policy, found.model)


def test_answer_of_a_class_of_its_own_is_told_before_anything_is_computed(tmp_path: Path) -> None:
    base, problem = small()
    algorithm = attrs.evolve(base, lower=OwnSolver(), estimator=bl.hypergradient_estimator("direct-only"))
    told = "the follower's answer is an Answer; expected a TabularSolution or a SampledSolution"
    with pytest.raises(bl.InputError, match=told):
        algorithm.run(problem, iterations=10**9, out=tmp_path)
    algorithm.run(problem, iterations=2).save(tmp_path, picture=False)
    assert len(history_of(tmp_path)) == 3
    with pytest.raises(bl.InputError, match="without a checkpoint"):
        bl.load_run(tmp_path, problem=problem, algorithm=algorithm)


def test_run_composed_in_python_is_loaded_with_its_problem_given(tmp_path: Path) -> None:
    algorithm, problem = small()
    composed = attrs.evolve(problem, name="composed in Python", configuration=None)
    run = algorithm.run(composed, iterations=3, x=np.full(problem.dimension, 0.1), out=tmp_path)
    with pytest.raises(bl.UnknownNameError, match="composed in Python"):
        bl.load_run(tmp_path)
    loaded = bl.load_run(tmp_path, problem=composed)
    assert_same(loaded, run)
    assert str(loaded).splitlines()[:-1] == str(run).splitlines()[:-1]
    assert loaded.first.x.tobytes() == run.first.x.tobytes()


def test_run_that_was_killed_before_its_first_checkpoint_begins_anew(tmp_path: Path) -> None:
    algorithm, problem = small()
    algorithm.run(problem, iterations=3, out=tmp_path)
    (tmp_path / "checkpoint").unlink()
    (tmp_path / "checkpoint.previous").unlink()
    assert_same(bl.resume_run(tmp_path), algorithm.run(problem, iterations=3))


def test_run_without_a_checkpoint_that_began_at_an_x_of_its_callers_is_not_begun_elsewhere(tmp_path: Path) -> None:
    algorithm, problem = small()
    algorithm.run(problem, iterations=1, x=np.full(problem.dimension, 0.1), out=tmp_path)
    (tmp_path / "checkpoint").unlink()
    (tmp_path / "checkpoint.previous").unlink()
    with pytest.raises(bl.InputError, match="without a checkpoint"):
        bl.resume_run(tmp_path)


def test_directory_without_a_run_is_one_sentence(tmp_path: Path) -> None:
    for call in (bl.load_run, bl.resume_run):
        with pytest.raises(bl.InputError, match=r"without a run; expected one that a run was saved to"):
            call(tmp_path)


@pytest.mark.parametrize(
    ("option", "value"), [("checkpoint_every", 0), ("checkpoint_seconds", 0), ("checkpoint_seconds", float("nan"))]
)
def test_interval_of_nothing_is_rejected(tmp_path: Path, option: str, value: Any) -> None:
    algorithm, problem = small()
    with pytest.raises(bl.InputError, match=option):
        algorithm.run(problem, iterations=1, out=tmp_path / "run", **{option: value})
    assert not (tmp_path / "run").exists()


def test_time_between_checkpoints_counts_too(tmp_path: Path) -> None:
    algorithm, problem = small()
    seen = []

    def look(state: bl.OuterState) -> None:
        seen.append(bl.load_run(tmp_path).last.iteration)

    algorithm.run(problem, iterations=3, out=tmp_path, checkpoint_seconds=1e-9, callback=look)
    assert seen == [0, 1, 2, 3]
    algorithm.run(problem, iterations=3, out=tmp_path, checkpoint_seconds=1e9, callback=look)
    assert seen[4:] == [0, 0, 0, 0]


def test_environment_names_versions_plugins_and_seed_and_no_path(tmp_path: Path) -> None:
    algorithm, problem = small()
    algorithm.run(problem, iterations=1, seed=7, out=tmp_path)
    text = (tmp_path / "environment.json").read_text(encoding="utf-8")
    facts = json.loads(text)
    assert facts["seed"] == 7
    assert facts["versions"]["bilevelrl"] == bl.__version__
    assert facts["versions"]["lower 'soft-value-iteration' from"] == f"bilevelrl {bl.__version__}"
    assert facts["plugins"]["model-based"] == f"bilevelrl {bl.__version__}"
    assert str(Path.home()) not in text
    assert str(tmp_path) not in text


def test_history_is_a_data_frame_with_whole_numbers_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm, problem = small()
    run = algorithm.run(problem, iterations=3)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(bl.InputError, match=r"pandas is not installed; expected pip install 'bilevelrl\[pandas\]'"):
        run.to_pandas()
    monkeypatch.undo()
    frame = run.to_pandas()
    assert tuple(frame.columns) == COLUMNS
    assert frame["iteration"].tolist() == [0, 1, 2, 3]
    assert frame["backups"].dtype.kind == "i"
    assert frame["objective"].to_numpy().tobytes() == run.history["objective"].tobytes()


def test_callbacks_see_only_the_states_from_the_checkpoint_on(tmp_path: Path) -> None:
    algorithm, problem = small()
    algorithm.run(problem, iterations=2, out=tmp_path)
    seen: list[int] = []
    algorithm.resume(problem, tmp_path, iterations=4, callback=lambda state: seen.append(state.iteration))
    assert seen == [2, 3, 4]


# The command line, in processes of its own.

RUN = ("run", "frozenlake-shaping", "--set", "problem.map_size=4", "--set", "step_size=0.05", "--seed", "1")


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "bilevelrl", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )


def wait_for_checkpoint(directory: Path, after: int = 0) -> None:
    """Until one is there that was not there at a time, in nanoseconds."""
    until = time.monotonic() + 60
    while True:
        try:
            if (directory / "checkpoint").stat().st_mtime_ns > after:
                return
        except FileNotFoundError:  # between the two renames
            pass
        assert time.monotonic() < until
        time.sleep(0.001)


def test_run_killed_at_random_moments_ends_as_the_one_that_was_not(tmp_path: Path) -> None:
    """SIGKILL ten times: while it starts, computes, or writes; the last process ends the run."""
    moments, directory = random.Random(0), tmp_path / "run"
    often = ("--checkpoint-every", "3")
    arguments: tuple[str, ...] = (*RUN, "--iterations", "10000000", *often, "--out", str(directory))
    for kill in range(10):
        began = time.time_ns()
        process = start(*arguments)
        if kill % 4 == 3:
            time.sleep(moments.uniform(0.0, 1.0))
        else:
            wait_for_checkpoint(directory, began)
            time.sleep(moments.uniform(0.0, 0.1))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        arguments = ("resume", str(directory), *often)
    reached = bl.load_run(directory).last.iteration
    assert reached > 10
    iterations = reached + 20
    process = start("resume", str(directory), "--iterations", str(iterations))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    algorithm, problem = small()
    whole = algorithm.run(problem, iterations=iterations, seed=1)
    assert_same(bl.load_run(directory), whole)
    whole.history.write_csv(tmp_path / "history.csv")
    assert history_of(directory) == history_of(tmp_path)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_saves_first_and_says_how_to_go_on(tmp_path: Path, number: signal.Signals, status: int) -> None:
    directory = tmp_path / "run"
    process = start(*RUN, "--iterations", "10000000", "--checkpoint-every", "50", "--out", str(directory))
    wait_for_checkpoint(directory)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == status, err
    assert "interrupted" in out
    assert err.splitlines()[-1] == f"Interrupted: go on with `bilevelrl resume {directory}`"
    saved = bl.load_run(directory)
    assert saved.status is bl.Status.INTERRUPTED
    assert len(history_of(directory)) == saved.last.iteration + 1
    algorithm, problem = small()
    target = saved.last.iteration + 5
    assert_same(
        algorithm.resume(problem, directory, iterations=target), algorithm.run(problem, iterations=target, seed=1)
    )


def test_second_process_is_refused_and_the_lock_of_a_killed_one_is_recognised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "run"
    process = start(*RUN, "--iterations", "10000000", "--out", str(directory))
    wait_for_checkpoint(directory)
    with pytest.raises(SystemExit) as ended:
        main(["resume", str(directory)])
    assert ended.value.code == 2
    assert f"'{directory}' is in use by process {process.pid}; expected one" in capsys.readouterr().err
    process.kill()
    process.communicate()
    assert (directory / LOCK).read_text() == f"{process.pid}\n"
    iterations = bl.load_run(directory).last.iteration + 1
    assert bl.resume_run(directory, iterations=iterations).last.iteration == iterations


def test_resume_from_the_command_line_reports_the_whole_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = str(tmp_path / "run")
    for arguments in (
        [*RUN, "--iterations", "4", "--out", directory],
        ["resume", directory, "--iterations", "6"],
    ):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert not ended.value.code, capsys.readouterr().err
    assert "6 of 6" in capsys.readouterr().out
    assert (tmp_path / "run" / "run.png").exists()
    for arguments, complaint in (
        (("resume", str(tmp_path)), "without a run"),
        (("resume", directory, "--checkpoint-every", "0"), "checkpoint_every is 0"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
        assert complaint in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_directory_without_write_permission_is_one_sentence(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    algorithm, problem = small()
    with pytest.raises(bl.InputError, match="a directory that can be written"):
        algorithm.run(problem, iterations=1, out=tmp_path)


def test_forbidden_directory_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same where everything is allowed: the refusal is injected."""

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied", "experiment.toml")

    monkeypatch.setattr(bl.Experiment, "write", refuse)
    algorithm, problem = small()
    with pytest.raises(bl.InputError, match=r"out is .*a directory that can be written \(Permission denied"):
        algorithm.run(problem, iterations=1, out=tmp_path)
    assert not (tmp_path / LOCK).exists()


def test_directory_is_given_back_where_a_run_cannot_begin(tmp_path: Path) -> None:
    algorithm, problem = small()
    held = RunDirectory(tmp_path, problem, algorithm, {"iterations": 1, "seed": 0, "tolerance": 0.0})
    with pytest.raises(bl.InputError, match="without a checkpoint"):
        held.reopen()
    assert not (tmp_path / LOCK).exists()
