"""The laws of a composed algorithm: one seed gives one run, in one piece or in steps."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import attrs
import numpy as np

from bilevelrl.outer_loop import StepFailed
from bilevelrl.plugins.components import Kind
from bilevelrl.problems.bilevel_problem import BilevelProblem
from bilevelrl.testing.law import Law, law
from bilevelrl.testing.snapshots import restored_estimate, restored_solution, through_a_file
from bilevelrl.testing.violation import NotApplicable, expect, expect_same

ALGORITHM = Kind.ALGORITHM
STEPS = 4


def algorithm_law(function: Callable[[Any, BilevelProblem], None]) -> Law:
    """A law of algorithms; a run that reports its failure is not a violation."""

    @functools.wraps(function)
    def without_failures(subject: Any, problem: BilevelProblem) -> None:
        try:
            function(subject, problem)
        except StepFailed as failure:
            raise NotApplicable(f"the run fails ({failure})") from None

    return law(ALGORITHM, examples=0.25)(without_failures)


def _trace(states: list[Any]) -> dict[str, Any]:
    return {
        "x": np.array([state.x for state in states]),
        "gradient": np.array([state.hyper.gradient for state in states]),
        "objective": np.array([state.hyper.objective for state in states]),
    }


def _run(subject: Any, problem: BilevelProblem, seed: int) -> tuple[Any, dict[str, Any]]:
    states: list[Any] = []
    run = subject.run(problem, iterations=STEPS, seed=seed, callback=states.append)
    return run, _trace(states)


@algorithm_law
def same_seed_same_run(subject: Any, problem: BilevelProblem) -> None:
    """Two runs of one seed are the same, bit for bit."""
    _, expected = _run(subject, problem, 5)
    _, came = _run(subject, problem, 5)
    for name, values in expected.items():
        expect_same(f"{name} of a second run", came[name], values)


@algorithm_law
def steps_make_the_run(subject: Any, problem: BilevelProblem) -> None:
    """`start` and repeated `step` give the same as `run`, bit for bit."""
    _, expected = _run(subject, problem, 5)
    state = subject.start(problem, seed=5)
    states = [state]
    while len(states) < len(expected["x"]):
        state = subject.step(problem, state, seed=5)
        states.append(state)
    for name, values in _trace(states).items():
        expect_same(f"{name}, step by step", values, expected[name])


@algorithm_law
def saved_and_restored_continues_identically(subject: Any, problem: BilevelProblem) -> None:
    """A state restored from a file continues to the same x as the state itself, bit for bit."""
    state = subject.start(problem, seed=5)
    state = subject.step(problem, state, seed=5)
    restored = attrs.evolve(
        state,
        x=through_a_file(x=state.x)["x"],
        solution=restored_solution(subject.lower, problem, state.x, state.solution),
        hyper=restored_estimate(state.hyper),
        optimizer=attrs.evolve(state.optimizer, arrays=through_a_file(**state.optimizer.arrays)),
    )
    for step in range(STEPS):
        state, restored = subject.step(problem, state, seed=5), subject.step(problem, restored, seed=5)
        expect_same(f"x {step + 1} steps after the file", restored.x, state.x)


@algorithm_law
def history_is_true(subject: Any, problem: BilevelProblem) -> None:
    """The run's history has a row for each iteration, and its cost is the sum of the components' costs."""
    run, trace = _run(subject, problem, 5)
    rows = len(run.history)
    expect("rows of the history", rows == len(trace["x"]), expected=len(trace["x"]), came=rows)
    state = subject.start(problem, seed=5)
    spent = state.solution.cost.plus(state.hyper.cost)
    for _ in range(run.last.iteration):
        state = subject.step(problem, state, seed=5)
        spent = spent.plus(state.solution.cost, state.hyper.cost)
    for name in ("backups", "linear_solves", "products", "samples"):
        came, expected = getattr(run.last.cost, name), getattr(spent, name)
        expect(f"the run's cost.{name}", came == expected, expected=expected, came=came)
