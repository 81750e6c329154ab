"""Newton's systems by a factorisation and by iteration, side by side: where "auto" should draw the line.

Run with `make bench`. For each follower, the seconds that the iteration takes over those of the factorisation, for the
solve to 1e-8 and the gradient after it: above 1 the factorisation wins. `*` marks what "auto" takes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import pytest
import scipy.sparse

import bilevelrl as bl
from bilevelrl.mdp.linearization import iterates

ACTIONS, TEMPERATURE, TOLERANCE = 4, 0.1, 1e-8
DISCOUNTS = (0.9, 0.99, 0.999)
ROUNDS = 5


def dense(states: int) -> Any:
    """Every state can follow every other."""
    kernel = np.random.default_rng(0).random((states, ACTIONS, states))
    return kernel / kernel.sum(axis=2, keepdims=True)


def _of_steps(targets: Any) -> Any:
    """Action a goes to targets[a] with probability 0.7, and to each of the others with an equal part of the rest."""
    count, states = targets.shape
    astray = 0.3 / (count - 1)
    rows, columns, data = [], [], []
    for action in range(count):
        for move in range(count):
            rows.append(np.arange(states) * count + action)
            columns.append(targets[move])
            data.append(np.full(states, 0.7 if move == action else astray))
    entries = (np.concatenate(data), (np.concatenate(rows), np.concatenate(columns)))
    matrix = scipy.sparse.csr_array(entries, shape=(states * count, states))
    matrix.sum_duplicates()
    return matrix


def grid(states: int) -> Any:
    """A square of four noisy moves."""
    side = round(states**0.5)
    row, column = np.divmod(np.arange(side * side), side)
    moves = ((0, -1), (1, 0), (0, 1), (-1, 0))
    return _of_steps(
        np.stack([np.clip(row + r, 0, side - 1) * side + np.clip(column + c, 0, side - 1) for r, c in moves])
    )


def line(states: int) -> Any:
    """A line, with steps and leaps of two both ways."""
    here = np.arange(states)
    return _of_steps(np.stack([np.clip(here + step, 0, states - 1) for step in (-2, -1, 1, 2)]))


def random_graph(states: int) -> Any:
    """Four successors a state, anywhere."""
    return _of_steps(np.random.default_rng(0).integers(states, size=(ACTIONS, states)))


def seconds(problem: bl.BilevelProblem, method: str) -> float:
    """The least of some trials of a solve with its gradient."""
    solver = bl.lower_level_solver("soft-policy-iteration", tolerance=TOLERANCE, linear_solver=method)
    implicit, x = bl.hypergradient_estimator("implicit"), np.zeros(problem.dimension)
    least = np.inf
    for _ in range(ROUNDS):
        began = time.perf_counter()
        solution = solver.solve(problem, x, None, bl.randomness.stream(0, "lower"))
        assert solution.status in (bl.Status.CONVERGED, bl.Status.FELL_BACK)
        implicit.estimate(problem, x, solution, None, bl.randomness.stream(0, "estimator"))
        least = min(least, time.perf_counter() - began)
        if least > 2.0:
            break
    return least


CASES: dict[Callable[[int], Any], tuple[int, ...]] = {
    dense: (50, 100, 200, 300, 400, 600, 1000),
    grid: (400, 1_600, 3_600, 6_400, 10_000, 40_000),
    line: (1_000, 4_000, 16_000, 64_000),
    random_graph: (300, 600, 1_200, 2_500, 5_000),
}


@pytest.mark.benchmark(group="linear solvers")
@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
def test_iteration_over_factorisation(benchmark, make) -> None:
    """Rewards are noise, the hardest case for both; the gradient's system is solved to rounding."""
    print(f"\n{make.__name__}: seconds by iteration over seconds by factorisation")
    print(f"{'S':>8}" + "".join(f"{f'γ = {discount}':>12}" for discount in DISCOUNTS) + f"{'direct, ms':>12}")
    for size in CASES[make]:
        kernel = make(size)
        states = kernel.shape[-1]
        rewards = bl.parametric.TabularReward(np.random.default_rng(1).standard_normal((states, ACTIONS)))
        lower = bl.ParametricMDP(kernel, rewards, 0.5, TEMPERATURE)
        words = ""
        for discount in DISCOUNTS:
            problem = bl.BilevelProblem(attrs.evolve(lower, discount=discount), bl.objectives.QuadraticObjective())
            seconds(problem, "iterative")  # what a kernel keeps for all policies, and compiled loops
            direct, iterative = seconds(problem, "direct"), seconds(problem, "iterative")
            words += f"{iterative / direct:>12.2f}"
            benchmark.extra_info[f"S={states} γ={discount}"] = {"direct": direct, "iterative": iterative}
        mark = "*" if iterates(lower.model(np.zeros(lower.dimension)).transitions, "auto") else ""
        print(f"{states:>8}{words}{1e3 * direct:>12.1f}  {mark}")
    benchmark.pedantic(lambda: None, rounds=1)
