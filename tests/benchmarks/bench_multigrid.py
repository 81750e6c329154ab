"""Our aggregation multigrid against pyamg's, as preconditioners of the same Krylov method on the same systems.

Run with `make bench`, or alone: `python -m pytest tests/benchmarks/bench_multigrid.py -o python_files='bench_*.py' -s`.
The systems are those of Newton's method: `(I − γP^π) v = b` to 1e-10 for its first five policies on one kernel, and
the transposed system of the last. What is prepared is counted: of ours once a kernel (the pattern, the aggregates, the
aggregates of the transposes) and once a policy, of pyamg's once a policy: to keep the first policy's hierarchy for the
others was tried and does not converge. Figures are the least of some rounds; those of pyamg are multiples of ours.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import pytest
import scipy.sparse

import bilevelrl as bl
from bilevelrl.linear.chain_patterns import ChainStructure
from bilevelrl.linear.iterative import Preconditioner, solve_iteratively
from bilevelrl.linear.multilevel import Aggregation
from bilevelrl.linear.products import minus_discounted

ACTIONS, TEMPERATURE, TOLERANCE, POLICIES, ITERATIONS = 4, 0.05, 1e-10, 5, 300
LinearMap = Callable[[Any], Any]
SetUp = Callable[[Any, bool], LinearMap]
"""From a chain, and whether its transpose is meant, to an approximate inverse."""


def of_moves(targets: Any) -> Any:
    """Action a goes to targets[:, a] with probability 0.8, and to each of the others with an equal part of the rest."""
    states, count = targets.shape
    chances = np.full((count, count), 0.2 / (count - 1))
    np.fill_diagonal(chances, 0.8)
    data = np.broadcast_to(chances, (states, count, count)).reshape(-1)
    columns = np.repeat(targets[:, None, :], count, axis=1).reshape(-1).astype(np.int32)
    pointers = np.arange(0, count * count * states + 1, count, dtype=np.int32)
    matrix = scipy.sparse.csr_array((data, columns, pointers), shape=(count * states, states))
    matrix.sum_duplicates()
    return matrix


def grid(states: int) -> Any:
    """A square with walls around."""
    side = round(states**0.5)
    row, column = np.divmod(np.arange(states), side)
    moves = ((-1, 0), (0, 1), (1, 0), (0, -1))
    last = side - 1
    return of_moves(
        np.stack([np.clip(row + d, 0, last) * side + np.clip(column + e, 0, last) for d, e in moves], axis=1)
    )


def random_graph(states: int) -> Any:
    """Four successors a state, anywhere."""
    return of_moves(np.random.default_rng(0).integers(states, size=(states, ACTIONS)))


def rewards(states: int, kind: str) -> Any:
    """Noise, or one goal in the middle."""
    if kind == "noise":
        return np.random.default_rng(1).standard_normal((states, ACTIONS))
    table = np.zeros((states, ACTIONS))
    table[states // 2 + round(states**0.5) // 2] = 1.0
    return table


def systems(kernel: Any, table: Any, discount: float) -> list[tuple[Any, Any]]:
    """The chain and the right-hand side of each of Newton's first steps."""
    model = bl.SoftMDP(bl.mdp.SparseTransitions(kernel), table, discount, TEMPERATURE)
    values, found = np.zeros(model.states), []
    for _ in range(POLICIES):
        backup, system = bl.mdp.linearized_backup(model, values, method="iterative")
        gap = backup.values - values
        found.append((system.chain, gap))
        values = values + system.solve(gap, tolerance=0.1)
    return found


def ours(kernel: Any, discount: float) -> SetUp:
    """Aggregates that serve every policy of the kernel."""
    structure = ChainStructure.of(kernel)

    def set_up(chain: Any, transpose: bool) -> LinearMap:
        if not transpose:
            return Aggregation(structure.levels, chain.data, discount)
        levels, order = structure.transposed
        return Aggregation(levels, chain.data[order], discount)

    return set_up


def theirs(solver: Callable[[Any], Any]) -> Callable[[Any, float], SetUp]:
    """A solver of pyamg, set up anew for each matrix."""

    def of_kernel(kernel: Any, discount: float) -> SetUp:
        def set_up(chain: Any, transpose: bool) -> LinearMap:
            matrix = scipy.sparse.csr_array(scipy.sparse.eye_array(chain.shape[0]) - discount * chain)
            matrix = scipy.sparse.csr_matrix(matrix.T.tocsr() if transpose else matrix)
            multiplication: LinearMap = solver(matrix).aspreconditioner().matvec
            return multiplication

        return set_up

    return of_kernel


def rivals() -> dict[str, Callable[[Any, float], SetUp]]:
    """pyamg's, with its own defaults; smoothed aggregation for matrices that are not symmetric."""
    import pyamg

    solvers: dict[str, Callable[[Any], Any]] = {
        "AIR": pyamg.air_solver,
        "Ruge–Stüben": pyamg.ruge_stuben_solver,
        "smoothed aggr.": lambda matrix: pyamg.smoothed_aggregation_solver(matrix, symmetry="nonsymmetric"),
        "pairwise aggr.": pyamg.pairwise_solver,
    }
    return {name: theirs(solver) for name, solver in solvers.items()}


@attrs.frozen
class Figures:
    """Seconds; infinite where the tolerance was not met.

    Args:
        set_up: for the first policy; of ours with what is prepared once a kernel.
        solve: the first system.
        set_up_transposed: for the transpose of the last policy.
        solve_transposed: its system.
        five: all five systems and the transposed one, all that is prepared included.
    """

    set_up: float
    solve: float
    set_up_transposed: float
    solve_transposed: float
    five: float

    def least(self, other: Figures) -> Figures:
        """The smaller of each."""
        return Figures(*map(min, attrs.astuple(self), attrs.astuple(other)))


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """The answer, and the seconds of this thread on a processor: none of the contestants uses another."""
    began = time.thread_time()
    answer = call()
    return answer, time.thread_time() - began


def seconds_to_solve(chain: Any, discount: float, inverse: LinearMap, right_hand_side: Any) -> float:
    """BiCGSTAB with the approximate inverse, to the tolerance."""

    def apply(vector: Any) -> Any:
        return minus_discounted(chain, discount, vector)

    found, seconds = timed(
        lambda: solve_iteratively(
            apply, Preconditioner(inverse, 1.0), right_hand_side, tolerance=TOLERANCE, iterations=ITERATIONS
        )
    )
    return seconds if found.converged else math.inf


def measured(
    make: Callable[[Any, float], SetUp], kernel: Any, discount: float, steps: list[tuple[Any, Any]]
) -> Figures:
    """One contestant, once."""
    set_up, once = timed(lambda: make(kernel, discount))
    settings, solves = [], []
    for chain, gap in steps:
        inverse, seconds = timed(lambda chain=chain: set_up(chain, False))
        settings.append(seconds)
        solves.append(seconds_to_solve(chain, discount, inverse, gap))
    turned, (chain, _) = steps[-1][0].T.tocsr(), steps[-1]
    right_hand_side = np.random.default_rng(2).standard_normal(chain.shape[0])
    inverse, set_up_transposed = timed(lambda: set_up(chain, True))
    solve_transposed = seconds_to_solve(turned, discount, inverse, right_hand_side)
    five = once + sum(settings) + sum(solves) + set_up_transposed + solve_transposed
    return Figures(once + settings[0], solves[0], set_up_transposed, solve_transposed, five)


CASES = [
    ("grid", 40_000, "one goal"),
    ("grid", 40_000, "noise"),
    ("grid", 250_000, "one goal"),
    ("grid", 250_000, "noise"),
    ("random graph", 40_000, "noise"),
]
MAKE = {"grid": grid, "random graph": random_graph}


@pytest.mark.benchmark(group="multigrid")
@pytest.mark.parametrize("discount", [0.99, 0.999])
@pytest.mark.parametrize(("kind", "states", "reward"), CASES)
def test_multigrid_against_pyamg(benchmark, kind: str, states: int, reward: str, discount: float) -> None:
    kernel = MAKE[kind](states)
    steps = systems(kernel, rewards(states, reward), discount)
    contestants = {"ours": ours} | rivals()
    best: dict[str, Figures] = {}
    for _ in range(3 if states < 100_000 else 2):
        for name, make in contestants.items():
            figures = measured(make, kernel, discount, steps)
            best[name] = best[name].least(figures) if name in best else figures
    print(f"\n{kind}, {states:,} states, {reward}, γ = {discount}; ours in ms, the others as multiples of ours")
    labels = ("set-up", "solve", "set-up ᵀ", "solve ᵀ", "five + ᵀ")
    print(f"{'':<16}" + "".join(f"{label:>10}" for label in labels))
    base = attrs.astuple(best["ours"])
    print(f"{'ours':<16}" + "".join(f"{1e3 * each:>10.0f}" for each in base))
    for name, figures in best.items():
        benchmark.extra_info[name] = attrs.asdict(figures)
        if name != "ours":
            ratios = [mine / own for mine, own in zip(attrs.astuple(figures), base, strict=True)]
            print(f"{name:<16}" + "".join(f"{ratio:>10.2f}" for ratio in ratios))
    benchmark.pedantic(lambda: None, rounds=1)
