"""Runs that go on: bit for bit as if they had never stopped, whatever stopped them."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import attrs
import numpy as np
import pytest
import scipy.sparse

import bilevelrl as bl
from bilevelrl.cli import main
from bilevelrl.storage.directory_lock import LOCK
from bilevelrl.storage.run_directory import RunDirectory
from child_processes import HANGING, wait_until
from faults.runs import PROBLEMS, assert_same, assert_whole_on_disk, fitting_problems, flip_bit, history_of, small
from faults.terminal import ENDLESS, RUN, newest, start

SOLVERS = [entry.name for entry in bl.plugins.registry().of_kind(bl.plugins.Kind.LOWER_LEVEL_SOLVER)]
OPTIMIZERS = [entry.name for entry in bl.plugins.registry().of_kind(bl.plugins.Kind.UPPER_LEVEL_OPTIMIZER)]
ALGORITHMS = [entry.name for entry in bl.plugins.registry().of_kind(bl.plugins.Kind.ALGORITHM)]


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


# Each solver with the first optimizer, and each optimizer with the first solver; the other pairs are slow.
PAIRS = [
    pytest.param(lower, upper, marks=[] if lower == SOLVERS[0] or upper == OPTIMIZERS[0] else pytest.mark.slow)
    for lower, upper in itertools.product(SOLVERS, OPTIMIZERS)
]


@pytest.mark.parametrize(("lower", "upper"), PAIRS)
def test_every_solver_and_optimizer_goes_on_bit_for_bit(lower: str, upper: str, tmp_path: Path) -> None:
    solver = bl.lower_level_solver(lower)
    algorithm = bl.Algorithm(
        lower=solver,
        estimator=bl.hypergradient_estimator("implicit" if solver.requires is bl.mdp.SupportsModel else "sobirl"),
        upper=bl.upper_level_optimizer(upper, step_size=0.01),
    )
    check_that_it_goes_on(algorithm, fitting_problems(algorithm)[0], tmp_path / "run")


@pytest.mark.parametrize("linear_solver", ["direct", "iterative"])
def test_systems_solved_by_factorisation_or_by_iteration_go_on_bit_for_bit(linear_solver: str, tmp_path: Path) -> None:
    """Factorisations and preconditioners are handles: rebuilt, never saved, and no number may depend on that."""
    lower = bl.lower_level_solver("soft-policy-iteration", linear_solver=linear_solver)
    algorithm = bl.Algorithm(lower, bl.hypergradient_estimator("implicit"), bl.upper_level_optimizer("adam"))
    dense = bl.problem("frozenlake-shaping", map_size=8, discount=0.99)
    table = dense.lower.transitions.probabilities
    sparse = bl.mdp.SparseTransitions(scipy.sparse.csr_array(table.reshape(-1, table.shape[-1])))
    problem = attrs.evolve(dense, lower=attrs.evolve(dense.lower, transitions=sparse))
    check_that_it_goes_on(algorithm, problem, tmp_path / "run")


def test_environment_behind_step_alone_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """A Gymnasium environment has a state of its own, which no checkpoint holds and no run may depend on."""
    algorithm = bl.Algorithm(
        lower=bl.lower_level_solver("soft-q-learning", samples=100),
        estimator=bl.hypergradient_estimator("sobirl", restarts=False, groups=16),
        upper=bl.upper_level_optimizer("adam", step_size=0.01),
    )
    check_that_it_goes_on(algorithm, bl.problem("gymnasium-preferences"), tmp_path / "run")


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


def test_fallback_is_not_lost_when_the_damaged_checkpoint_is_replaced(tmp_path: Path) -> None:
    """The damaged one must not take the place of the good one before it."""
    algorithm, problem = small()
    algorithm.run(problem, iterations=6, out=tmp_path, checkpoint_every=2)
    flip_bit(tmp_path / "checkpoint")
    with pytest.warns(bl.storage.CheckpointWarning):
        algorithm.resume(problem, tmp_path)
    flip_bit(tmp_path / "checkpoint")
    with pytest.warns(bl.storage.CheckpointWarning):
        assert bl.load_run(tmp_path).last.iteration == 6


def test_run_that_was_killed_between_two_renames_goes_on_from_the_checkpoint_before(tmp_path: Path) -> None:
    """No warning: nothing was lost but a few iterations."""
    algorithm, problem = small()
    algorithm.run(problem, iterations=6, out=tmp_path, checkpoint_every=4)
    (tmp_path / "checkpoint").rename(tmp_path / "checkpoint.partial")
    assert_same(algorithm.resume(problem, tmp_path), algorithm.run(problem, iterations=6))


def test_checkpoint_of_other_versions_is_told_with_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm, problem = small()
    with monkeypatch.context() as patch:
        versions = {"bilevelrl": bl.__version__, "lower 'soft-value-iteration' from": "bilevelrl 0.0.7"}
        patch.setattr("bilevelrl.storage.run_directory.versions_of", lambda *_: versions)
        algorithm.run(problem, iterations=3, out=tmp_path)
    told = r"written with lower 'soft-value-iteration' from bilevelrl 0\.0\.7, and here it is bilevelrl 0\.1\.0"
    with pytest.warns(bl.storage.CheckpointWarning, match=told):
        resumed = algorithm.resume(problem, tmp_path, iterations=5)
    assert_same(resumed, algorithm.run(problem, iterations=5))


def test_directory_in_use_is_refused_and_free_again_afterwards(tmp_path: Path) -> None:
    algorithm, problem = small()

    def again(state: bl.outer_loop.OuterState) -> None:
        with pytest.raises(bl.InputError, match=f"in use by process {os.getpid()}; expected one that no other run"):
            algorithm.run(problem, iterations=1, out=tmp_path)

    algorithm.run(problem, iterations=1, out=tmp_path, callback=again)
    assert not (tmp_path / LOCK).exists()
    algorithm.run(problem, iterations=1, out=tmp_path)


def test_run_composed_in_python_is_loaded_with_its_problem_given(tmp_path: Path) -> None:
    algorithm, problem = small()
    composed = attrs.evolve(problem, name="composed in Python", configuration=None)
    run = algorithm.run(composed, iterations=3, x=np.full(problem.dimension, 0.1), out=tmp_path)
    with pytest.raises(bl.validation.UnknownNameError, match="composed in Python"):
        bl.load_run(tmp_path)
    loaded = bl.load_run(tmp_path, problem=composed)
    assert_same(loaded, run)
    assert str(loaded).splitlines()[:-1] == str(run).splitlines()[:-1]
    assert loaded.first.x.tobytes() == run.first.x.tobytes()


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

    def look(state: bl.outer_loop.OuterState) -> None:
        seen.append(bl.load_run(tmp_path).last.iteration)

    algorithm.run(problem, iterations=3, out=tmp_path, checkpoint_seconds=1e-9, callback=look)
    assert seen == [0, 1, 2, 3]
    algorithm.run(problem, iterations=3, out=tmp_path, checkpoint_seconds=1e9, callback=look)
    assert seen[4:] == [0, 0, 0, 0]


def test_interval_is_kept_when_a_run_goes_on(tmp_path: Path) -> None:
    algorithm, problem = small()
    seen: list[int] = []

    def look(state: bl.outer_loop.OuterState) -> None:
        seen.append(bl.load_run(tmp_path).last.iteration)

    algorithm.run(problem, iterations=2, out=tmp_path, checkpoint_every=2, checkpoint_seconds=1e9)
    algorithm.resume(problem, tmp_path, iterations=6, callback=look)
    assert seen == [2, 2, 4, 4, 6]
    seen.clear()
    algorithm.resume(problem, tmp_path, iterations=8, checkpoint_every=1, callback=look)
    assert seen == [6, 7, 8]
    assert bl.storage.Experiment.read(tmp_path / "experiment.toml").intervals == {
        "checkpoint_every": 1,
        "checkpoint_seconds": 1e9,
    }


def test_intervals_of_an_experiment_file_count_and_options_override_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "experiment.toml", tmp_path / "run"
    file.write_text(
        "iterations = 3\ncheckpoint_every = 2\ncheckpoint_seconds = 60\n"
        "[problem]\nname = 'synthetic-quadratic'\n[algorithm]\nname = 'm-sobirl'\n",
        encoding="utf-8",
    )
    for options, expected in (((), (2, 60.0)), (("--checkpoint-every", "5", "--checkpoint-seconds", "7"), (5, 7.0))):
        with pytest.raises(SystemExit) as ended:
            main(["run", str(file), *options, "--out", str(out)])
        assert not ended.value.code, capsys.readouterr().err
        saved = bl.storage.Experiment.read(out / "experiment.toml")
        assert (saved.checkpoint_every, saved.checkpoint_seconds) == expected
    for line in ("checkpoint_every = 0", "checkpoint_seconds = 0.0", "checkpoint_every = 1.5"):
        file.write_text(f"{line}\n[problem]\nname = 'synthetic-quadratic'\n[algorithm]\nname = 'm-sobirl'\n")
        with pytest.raises(SystemExit) as ended:
            main(["run", str(file), "--iterations", "1"])
        assert ended.value.code == 2
        assert f"Error: {line.split()[0]} is {line.split()[2]}; expected" in capsys.readouterr().err


@pytest.mark.parametrize(("setting", "value"), [("seed", 5), ("tolerance", 0.5)])
def test_seed_or_tolerance_that_was_changed_in_the_file_is_told(tmp_path: Path, setting: str, value: float) -> None:
    """The numbers to come would be those of neither run."""
    algorithm, problem = small()
    algorithm.run(problem, iterations=2, seed=1, out=tmp_path)
    file = tmp_path / "experiment.toml"
    attrs.evolve(bl.storage.Experiment.read(file), **{setting: value}).write(file)
    before = file.read_bytes()
    with pytest.raises(
        bl.InputError, match=rf"{setting} in '.*experiment.toml' is {value}; expected .*, as in the che"
    ):
        bl.resume_run(tmp_path)
    assert file.read_bytes() == before


def test_links_in_a_directory_from_elsewhere_lead_no_write_out_of_it(tmp_path: Path) -> None:
    """Somebody's run directory is data: going on with it must not empty or replace the files that its links name."""
    algorithm, problem = small()
    algorithm.run(problem, iterations=2, out=tmp_path / "run", checkpoint_every=1)
    written = [path.name for path in (tmp_path / "run").iterdir() if not path.name.startswith(("checkpoint", "exp"))]
    valuable = tmp_path / "valuable"
    valuable.write_text("as it was", encoding="utf-8")
    for name in [*written, "run.png", *(f"{name}.partial" for name in (*written, "checkpoint", "experiment.toml"))]:
        (tmp_path / "run" / name).unlink(missing_ok=True)
        (tmp_path / "run" / name).symlink_to(valuable)
    resumed = algorithm.resume(problem, tmp_path / "run", iterations=4)
    assert valuable.read_text(encoding="utf-8") == "as it was"
    assert_whole_on_disk(tmp_path / "run", resumed)
    (tmp_path / "run" / "lock").symlink_to(valuable)
    with pytest.raises(bl.InputError, match="is not writable"):
        algorithm.resume(problem, tmp_path / "run")
    assert valuable.read_text(encoding="utf-8") == "as it was"


def test_environment_tells_of_every_machine_that_worked_on_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    algorithm, problem = small()
    algorithm.run(problem, iterations=1, out=tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    algorithm.resume(problem, tmp_path, iterations=2)
    algorithm.resume(problem, tmp_path, iterations=4)
    facts = json.loads((tmp_path / "environment.json").read_text(encoding="utf-8"))
    assert {"versions", "plugins", "seed", "began", "python", "system", "machine", "processors", "memory_gib"} <= set(
        facts
    )
    assert [entry["iteration"] for entry in facts["resumed"]] == [1, 2]
    assert all(entry["threads"]["OMP_NUM_THREADS"] == "3" for entry in facts["resumed"])
    assert all(entry["versions"] == facts["versions"] for entry in facts["resumed"])


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
    assert tuple(frame.columns) == run.history.columns
    assert frame["iteration"].tolist() == [0, 1, 2, 3]
    assert frame["backups"].dtype.kind == "i"
    assert frame["objective"].to_numpy().tobytes() == run.history["objective"].tobytes()


def test_history_file_is_the_data_frame(tmp_path: Path) -> None:
    """It opens with `pandas.read_json`, and its export with `pandas.read_csv` and in a spreadsheet."""
    pandas = pytest.importorskip("pandas")
    algorithm, problem = small()
    run = algorithm.run(problem, iterations=3, out=tmp_path, checkpoint_every=1)
    run.history.to_csv(tmp_path / "history.csv")
    # The digits are all there; pandas' fast parsers may miss the last bit of what they say.
    for read in (
        pandas.read_json(tmp_path / "history.jsonl", lines=True, precise_float=True),
        pandas.read_csv(tmp_path / "history.csv"),
    ):
        # JSON has one type of number: pandas takes a column of whole ones for integers.
        pandas.testing.assert_frame_equal(read, run.to_pandas(), rtol=1e-15, check_dtype=False)


def test_callbacks_see_only_the_states_from_the_checkpoint_on(tmp_path: Path) -> None:
    algorithm, problem = small()
    algorithm.run(problem, iterations=2, out=tmp_path)
    seen: list[int] = []
    algorithm.resume(problem, tmp_path, iterations=4, callback=lambda state: seen.append(state.iteration))
    assert seen == [2, 3, 4]


@pytest.mark.slow
def test_command_line_killed_as_it_starts_and_as_it_runs_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    """The same with the whole program: imports and plugins take most of its first second."""
    moments, directory, often = random.Random(0), tmp_path / "run", ("--checkpoint-every", "3")
    arguments: tuple[str, ...] = (*RUN, *ENDLESS, *often, "--out", str(directory))
    for kill in range(4):
        before = newest(directory)
        process = start(*arguments)
        if kill % 2:
            time.sleep(moments.uniform(0.0, 1.5))
        else:
            wait_until(lambda before=before: newest(directory) not in (0, before), process)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        arguments = ("resume", str(directory), *often)
    iterations = bl.load_run(directory).last.iteration + 20
    process = start("resume", str(directory), "--iterations", str(iterations))
    _, err = process.communicate(timeout=HANGING)
    assert process.returncode == 0, err
    algorithm, problem = small()
    assert_whole_on_disk(directory, algorithm.run(problem, iterations=iterations, seed=1))


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


def test_directory_is_given_back_where_a_run_cannot_begin(tmp_path: Path) -> None:
    algorithm, problem = small()
    held = RunDirectory(tmp_path, problem, algorithm, {"iterations": 1, "seed": 0, "tolerance": 0.0})
    with pytest.raises(bl.InputError, match="without a checkpoint"):
        held.reopen()
    assert not (tmp_path / LOCK).exists()


@pytest.mark.parametrize("ended", [True, False])
def test_fewer_iterations_than_were_made_are_refused_and_nothing_is_written(ended: bool, tmp_path: Path) -> None:
    """The run would be told as having made more than it may, and as one that has ended."""
    algorithm, problem = small()
    algorithm.run(problem, iterations=6, seed=1, out=tmp_path)
    if not ended:
        (tmp_path / "summary.json").unlink()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    words = f"iterations is 5; expected at least the 6 that the run in the directory {str(tmp_path)!r} has made"
    for attempt in (
        lambda: algorithm.resume(problem, tmp_path, iterations=5),
        lambda: bl.resume_run(tmp_path, iterations=5),
    ):
        with pytest.raises(bl.InputError) as caught:
            attempt()
        assert str(caught.value) == words
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert algorithm.resume(problem, tmp_path, iterations=6).status is bl.Status.BUDGET_SPENT
