"""The rare branches: what a system lacks, what a factory raises, how a number is written."""

from __future__ import annotations

import fcntl
import math
from pathlib import Path
from typing import Any, ClassVar

import attrs
import numpy as np
import pytest

import bilevelrl as bl
from bilevelrl.comparison import results as comparison_report
from bilevelrl.plugins.components import Plugin, Registry
from bilevelrl.storage import checkpoint
from bilevelrl.storage.directory_lock import DirectoryLock
from bilevelrl.storage.run_directory import RunDirectory

PROBLEM = bl.problem("synthetic-quadratic", states=3, actions=2, dimension=2)
ALGORITHM = bl.algorithm("m-sobirl")
SETTINGS = {"iterations": 1, "seed": 0, "tolerance": 0.0}


def test_directory_is_used_where_there_are_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on some network file systems: then the directory is the user's own care."""

    def refuse(handle: int, operation: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    lock = DirectoryLock(tmp_path)
    lock.acquire()
    lock.release()
    assert ALGORITHM.run(PROBLEM, iterations=1, out=tmp_path / "run").last.iteration == 1


def test_lock_that_its_owner_removes_meanwhile_is_taken_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between opening the file and locking it: what is locked then is a file that nobody else will find."""
    real, calls = fcntl.flock, []

    def slow(handle: int, operation: int) -> None:
        if not calls:
            (tmp_path / "lock").unlink()
        calls.append(operation)
        real(handle, operation)

    monkeypatch.setattr(fcntl, "flock", slow)
    lock = DirectoryLock(tmp_path)
    lock.acquire()
    assert len(calls) == 2
    with pytest.raises(bl.InputError, match="in use by process"):
        DirectoryLock(tmp_path).acquire()
    lock.release()
    assert list(tmp_path.iterdir()) == []


def test_directory_that_is_not_there_cannot_be_gone_on_with(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "none", PROBLEM, ALGORITHM, SETTINGS)
    with pytest.raises(bl.InputError, match="none' is missing; expected one that a run was saved to"):
        directory.reopen()


@attrs.frozen
class Greedy:
    """A problem whose factory raises what it is told to."""

    name: ClassVar[str] = "greedy"
    error: Any = None

    def build(self) -> bl.BilevelProblem:
        """Raises."""
        raise self.error


@pytest.mark.parametrize(
    ("error", "reason"), [(MemoryError(), "MemoryError"), (ValueError("array is\ntoo big"), "array is too big")]
)
def test_factory_that_runs_out_of_memory_is_one_sentence(error: Exception, reason: str) -> None:
    registry = Registry()
    registry.add(Plugin("greed", "this test", first_party=False), [(bl.plugins.Kind.PROBLEM, Greedy)])
    with pytest.raises(
        bl.InputError, match=rf"configuration of 'greedy' is .*; expected options that .* \({reason}\)$"
    ):
        registry.create(bl.plugins.Kind.PROBLEM, "greedy", {"error": error})


def test_checkpoint_of_settings_that_are_no_numbers_is_refused() -> None:
    run = ALGORITHM.run(PROBLEM, iterations=1)
    made = checkpoint.Checkpoint(
        run.first, run.last, run.history, run.best, SETTINGS | {"tolerance": np.float64(0.5)},
        {"problem": {"name": PROBLEM.name}}, {}, run.status, "", 0.0,
    )  # fmt: skip
    assert (
        checkpoint.decode(checkpoint.encode(made, ALGORITHM.lower), "it", PROBLEM, ALGORITHM.lower).settings[
            "tolerance"
        ]
        == 0.5
    )
    with pytest.raises(bl.InputError, match=r"a figure to be saved is <object .*; expected a number, a flag, a string"):
        checkpoint.encode(attrs.evolve(made, settings={"seed": object()}), ALGORITHM.lower)


def test_options_that_are_code_are_no_part_of_what_two_runs_must_share() -> None:
    options = {"plain": 1, "nested": {"list": [1, "a"], "array": np.arange(2)}, "code": print, "hidden": [{"f": print}]}
    experiment = bl.storage.Experiment({"problem": {"name": "mine", **options}})
    assert experiment.comparable() == {
        "problem": {"name": "mine", "plain": 1, "nested": {"list": [1, "a"], "array": [0, 1]}}
    }


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (math.nan, 0.1, "not finite"),
        (0.41461, math.nan, "0.41461"),
        (0.41461, 0.0, "0.41461 ± 0"),
        (0.41461, 0.0003, "0.41461 ± 0.00030"),
        (1234.5, 10.0, "1,234 ± 10"),
        (1e9, 1e5, "1e+09 ± 1.0e+05"),
        (1e-9, 1e-11, "1e-09 ± 1.0e-11"),
    ],
)
def test_mean_has_the_digits_that_its_error_leaves_meaning_to(value: float, error: float, words: str) -> None:
    assert comparison_report._with_error(value, error) == words


@pytest.mark.parametrize(
    ("budget", "needed", "words"),
    [("backups=5", 23.2, "backups=24"), ("seconds=1", 0.1234, "seconds=0.13")],
)
def test_budget_that_would_have_been_enough_is_rounded_up(budget: str, needed: float, words: str) -> None:
    assert bl.comparison.Budget.parse(budget).enough(needed) == words


def test_initial_distribution_in_float32_is_scaled_to_sum_to_one() -> None:
    """Sums of rounded numbers miss one by that rounding, which is no mistake of the caller."""
    initial = np.full(3, 1.0 / 3.0, dtype=np.float32)
    mdp = bl.SoftMDP(np.full((3, 1, 3), 1 / 3), np.zeros((3, 1)), 0.5, 1.0, initial)
    assert mdp.initial.sum() == pytest.approx(1.0, abs=1e-15)
