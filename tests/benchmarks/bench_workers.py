"""Two processes against one, and what travels between them.

Run with `make bench`. Both are measured alternately, with the processes already up (starting them is
reported by itself).
The ratio is that of the shortest times, since another program on the machine can only make them longer. A task takes
about a second.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import bilevelrl as bl
from bilevelrl.execution import dispatch
from bilevelrl.execution.pickling import dumps

ROUNDS = 3


def burn(shared: bl.Array, seconds: float) -> float:
    """Single-threaded arithmetic for about so many seconds of this machine's time: a fixed number of products."""
    product = shared
    for _ in range(round(seconds * shared[0, 0])):
        product = shared @ product
        product /= np.abs(product).max()
    return float(product.sum())


def calibrated() -> bl.Array:
    """A matrix whose first entry is the number of its products in a second, on one thread."""
    matrix = np.random.default_rng(0).random((200, 200))
    matrix[0, 0] = 200.0
    began = time.perf_counter()
    bl.execution.parallel_map(burn, matrix, [1.0])
    matrix[0, 0] = 200.0 / (time.perf_counter() - began)
    return matrix


def contexts(count: int, states: int) -> bl.BilevelProblem:
    """A problem of so many contexts, each with a dense table of its own."""
    rng = np.random.default_rng(0)

    def context() -> bl.BilevelProblem:
        kernel = rng.random((states, 4, states))
        kernel /= kernel.sum(axis=2, keepdims=True)
        lower = bl.ParametricMDP(kernel, bl.parametric.StateReward(rng.normal(size=(states, 4))), 0.99, 0.1)
        return bl.BilevelProblem(lower, bl.objectives.QuadraticObjective(), name="dense")

    return bl.problems.contextual_problem([context() for _ in range(count)])


def plain() -> Callable[[], Any]:
    matrix = calibrated()
    return lambda: bl.execution.parallel_map(burn, matrix, [1.0] * 8)


def one_by_one() -> Callable[[], Any]:
    problem = contexts(4, 2000)
    solver, estimator = bl.lower_level_solver("per-context"), bl.hypergradient_estimator("per-context")
    x = np.zeros(problem.dimension)

    def once() -> Any:
        answer = solver.solve(problem, x, None, bl.randomness.stream(0, "lower"))
        return estimator.estimate(problem, x, answer, None, bl.randomness.stream(0, "estimator"))

    return once


def seeds() -> Callable[[], Any]:
    problem, algorithm = bl.problem("synthetic-quadratic", states=60, dimension=200), bl.algorithm("exact-gradient")
    return lambda: algorithm.run_seeds(problem, seeds=6, iterations=1000)


def comparison() -> Callable[[], Any]:
    problem = bl.problem("synthetic-quadratic", states=40)
    return lambda: bl.compare(
        problem, ["m-sobirl", "aid"], seeds=3, budget="iterations=1200", grid=[1.0], checkpoints=3
    )


CASES = {
    "eight tasks of a second": plain,
    "four contexts, S=2000 dense, solved and differentiated": one_by_one,
    "six seeds of a second": seeds,
    "a comparison, six runs of a second": comparison,
}


def seconds_of(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


@pytest.mark.benchmark(group="workers")
def test_two_processes_against_one(benchmark) -> None:
    rows, starting = [], time.perf_counter()
    with bl.use_jobs(2):
        bl.execution.parallel_map(burn, np.ones((2, 2)), [1.0, 1.0])
        starting = time.perf_counter() - starting
        for name, make in CASES.items():
            work = make()
            work()  # what is shared arrives, libraries are loaded
            one, two = [], []
            for _ in range(ROUNDS):
                with bl.use_jobs(1):
                    one.append(seconds_of(work))
                two.append(seconds_of(work))
            rows.append((name, min(one), min(two)))
    print(f"\n{os.cpu_count()} cores; starting two processes takes {starting:.1f} s")
    print(f"{'':>56} {'one (s)':>8} {'two (s)':>8} {'ratio':>6}")
    for name, first, second in rows:
        print(f"{name:>56} {first:>8.2f} {second:>8.2f} {first / second:>6.2f}")
        benchmark.extra_info[name] = {"one": first, "two": second, "ratio": first / second}
    benchmark.pedantic(bl.execution.parallel_map, args=(burn, np.ones((2, 2)), [1.0, 1.0]), rounds=1)


@pytest.mark.benchmark(group="workers")
def test_what_a_task_costs_beside_its_work(benchmark) -> None:
    """An empty task, and the first one on a P of 320 MB."""
    kernel = np.full((2000, 10, 2000), 1 / 2000)
    shared = bl.mdp.DenseTransitions.trusted(kernel)
    with bl.use_jobs(2):
        bl.execution.parallel_map(nothing, None, range(100))
        empty = min(seconds_of(lambda: bl.execution.parallel_map(nothing, None, range(1000))) for _ in range(3)) / 1000
        first = seconds_of(lambda: bl.execution.parallel_map(first_entry, shared, range(2)))
        again = min(seconds_of(lambda: bl.execution.parallel_map(first_entry, shared, range(2))) for _ in range(5))
    print(
        f"\nan empty task: {1e6 * empty:.0f} µs; two tasks on P of {kernel.nbytes / 1e6:.0f} MB: "
        f"{first:.2f} s the first time, {1e3 * again:.1f} ms from then on"
    )
    benchmark.extra_info.update(empty=empty, first=first, again=again)
    benchmark.pedantic(lambda: None, rounds=1)


def nothing(shared: Any, task: int) -> int:
    return task


def first_entry(shared: Any, task: int) -> float:
    return float(shared.probabilities[0, 0, 0])


@pytest.mark.benchmark(group="workers")
def test_traffic_of_an_iteration_by_its_samples(benchmark, monkeypatch) -> None:
    """Stoc-SoBiRL on a sparse torus of 10,000 states: beside the losses, what is sent stays the same."""
    out: list[int] = []
    back: list[int] = []

    class Metered(dispatch.Dispatch):
        """Counts the bytes of tasks and answers."""

        def results(self) -> Any:
            out.extend(len(dumps(task, "a task")) for task in self._tasks)
            for index, result in super().results():
                back.append(len(dumps(result, "a result")))
                yield index, result

    monkeypatch.setattr(dispatch, "Dispatch", Metered)
    problem, x = torus(100), np.zeros(10_000)
    solution = bl.lower_level_solver("soft-value-iteration", sweeps=50).solve(
        problem, x, None, bl.randomness.stream(0, "lower")
    )
    print(f"\n{'groups':>8} {'samples':>9} {'seconds':>8} {'out MB':>8} {'back MB':>8}")
    for groups in (1_000, 10_000, 100_000, 1_000_000):
        estimator = bl.hypergradient_estimator("stoc-sobirl", batch=groups, truncation=10, blocks=16)
        with bl.use_jobs(2):
            estimator.estimate(problem, x, solution, None, bl.randomness.stream(0, "estimator"))
            out.clear()
            back.clear()
            began = time.perf_counter()
            hyper = estimator.estimate(problem, x, solution, None, bl.randomness.stream(1, "estimator"))
            took = time.perf_counter() - began
        row = {"samples": hyper.cost.samples, "seconds": took, "out": sum(out), "back": sum(back)}
        benchmark.extra_info[str(groups)] = row
        print(f"{groups:>8} {hyper.cost.samples:>9.1e} {took:>8.2f} {sum(out) / 1e6:>8.2f} {sum(back) / 1e6:>8.2f}")
    benchmark.pedantic(lambda: None, rounds=1)


def torus(side: int) -> bl.BilevelProblem:
    """Four noisy moves; the leader pays for steps in each state, and earns by the follower's visits."""
    import scipy.sparse

    states = side * side
    row, column = np.divmod(np.arange(states), side)
    steps = ((0, 0), (-1, 0), (0, 1), (1, 0), (0, -1))
    targets = np.stack([(row + d) % side * side + (column + e) % side for d, e in steps], axis=1)
    kernel = np.full((states, 4, 5), 0.1)
    kernel[:, np.arange(4), 1 + np.arange(4)] = 0.6
    successors = np.repeat(targets[:, None, :], 4, axis=1).reshape(-1)
    matrix = scipy.sparse.csr_array(
        (kernel.reshape(-1), successors, np.arange(states * 4 + 1) * 5), shape=(states * 4, states)
    )
    lower = bl.ParametricMDP(matrix, bl.parametric.StateReward(np.zeros((states, 4))), 0.9, 1.0)
    earned = np.random.default_rng(0).random((states, 4))
    return bl.BilevelProblem(
        lower, bl.objectives.TrajectoryReturnObjective(earned, horizon=5, discount=0.9), name="torus"
    )
