"""How the cost of a solve and of its hyper-gradient grows: with the states, the parameters, 1/(1−γ) and 1/τ.

Run it with `python docs/examples/growth.py [milliseconds] [picture]`: it measures for some minutes, prints a table with
the slopes of log seconds against log size, and draws them all (needs the extra `plot`). A curve ends at the first point
that takes longer than this many milliseconds, 10 000 by default. The page docs/explanation/speed.md discusses what it
shows.
"""

from __future__ import annotations

import functools
import itertools
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

import bilevelrl as bl

ACTIONS = 4
TOLERANCE = 1e-8
TRIALS = 5
SOLVERS = {"policy iteration": "soft-policy-iteration", "value iteration": "soft-value-iteration"}

Curve = list[tuple[float, float]]


def dense_kernel(states: int) -> bl.Array:
    """(S, 4, S): every state can follow every other."""
    kernel = np.random.default_rng(0).random((states, ACTIONS, states))
    return np.asarray(kernel / kernel.sum(axis=2, keepdims=True))


def grid_kernel(side: int) -> Any:
    """(S·4, S) in CSR: a square grid, where a move goes to each other neighbour with probability 0.1."""
    cells = np.arange(side * side)
    row, column = np.divmod(cells, side)
    moves = ((0, -1), (1, 0), (0, 1), (-1, 0))
    targets = [np.clip(row + r, 0, side - 1) * side + np.clip(column + c, 0, side - 1) for r, c in moves]
    rows, columns, data = [], [], []
    for action, move in itertools.product(range(ACTIONS), range(ACTIONS)):
        rows.append(cells * ACTIONS + action)
        columns.append(targets[move])
        data.append(np.full(cells.size, 0.7 if move == action else 0.1))
    entries = (np.concatenate(data), (np.concatenate(rows), np.concatenate(columns)))
    matrix = scipy.sparse.csr_array(entries, shape=(cells.size * ACTIONS, cells.size))
    matrix.sum_duplicates()
    return matrix


def problem_of(
    kernel: Any, states: int, *, parameters: int = 1, discount: float = 0.99, temperature: float = 0.1
) -> Any:
    """A follower with random rewards, to which the leader adds a mixture of so many features."""
    rng = np.random.default_rng(1)
    features = rng.standard_normal((states * ACTIONS, parameters)) / np.sqrt(parameters)
    reward = bl.parametric.LinearReward(rng.standard_normal((states, ACTIONS)), features)
    lower = bl.ParametricMDP(kernel, reward, discount, temperature)
    return bl.BilevelProblem(lower, bl.objectives.QuadraticObjective())


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """The minimum over some trials, and the result: other programs can only add to the time."""
    least, answer = np.inf, None
    for _ in range(TRIALS):
        began = time.perf_counter()
        answer = work()
        least = min(least, time.perf_counter() - began)
        if least > 1.0:
            break
    return least, answer


def measure(problem: bl.BilevelProblem, solver: str = "soft-policy-iteration") -> dict[str, float]:
    """Seconds of the solve, of the gradient after it, and of the one pullback (VJP) that the gradient ends with."""
    x, rng = np.zeros(problem.dimension), bl.randomness.stream(0, "lower")
    chosen, implicit = bl.lower_level_solver(solver, tolerance=TOLERANCE), bl.hypergradient_estimator("implicit")
    chosen.solve(problem, x, None, rng)  # compiles kernels, and computes what a kernel keeps for all policies
    solve, solution = seconds(lambda: chosen.solve(problem, x, None, rng))
    gradient, hyper = seconds(lambda: implicit.estimate(problem, x, solution, None, rng))
    pullback, _ = seconds(lambda: problem.lower.pullback(x, hyper.occupancy))
    return {"solve": solve, "gradient": gradient, "pullback": pullback}


def curves(
    points: Iterable[tuple[float, Any]], longest: float, solver: str = "soft-policy-iteration"
) -> dict[str, Curve]:
    """Points of each curve; the first that takes too long is the last."""
    drawn: dict[str, Curve] = {"solve": [], "gradient": [], "pullback": []}
    for size, make in points:
        took = measure(make(), solver)
        for name, value in took.items():
            drawn[name].append((size, value))
        if took["solve"] > longest:
            break
    return drawn


def slope(curve: Curve) -> float:
    """Of log seconds against log size, over the upper half of the sizes: small sizes measure overhead."""
    size, took = np.log(np.array(curve)).T
    upper = size >= (size[0] + size[-1]) / 2 - 1e-9
    return float(np.polyfit(size[upper], took[upper], 1)[0]) if upper.sum() > 1 else float("nan")


def growth(longest: float) -> dict[str, dict[str, Curve]]:
    """All curves, by panel and name."""
    sizes, sides = (50, 100, 200, 400, 800, 1600, 2500), (8, 16, 32, 64, 128, 256, 512)
    dense = curves(((s, lambda s=s: problem_of(dense_kernel(s), s)) for s in sizes), longest)
    grid = curves(((n * n, lambda n=n: problem_of(grid_kernel(n), n * n)) for n in sides), longest)
    kernels = {"dense": (dense_kernel(300), 300), "grid": (grid_kernel(100), 10_000)}
    table, states = kernels["dense"]
    of_parameters = (
        (n, functools.partial(problem_of, table, states, parameters=n)) for n in (1, 10, 100, 1_000, 10_000)
    )
    parameters = curves(of_parameters, longest)
    panels = {
        "states": {
            "dense, solve": dense["solve"],
            "dense, gradient": dense["gradient"],
            "grid, solve": grid["solve"],
            "grid, gradient": grid["gradient"],
        },
        "parameters": {"gradient": parameters["gradient"], "its pullback": parameters["pullback"]},
        "horizon": {},
        "sharpness": {},
    }
    for (label, (table, states)), (method, solver) in itertools.product(kernels.items(), SOLVERS.items()):
        made = functools.partial(problem_of, table, states)
        horizons = ((h, functools.partial(made, discount=1.0 - 1.0 / h)) for h in (10, 30, 100, 300, 1_000, 3_000))
        sharpness = ((k, functools.partial(made, temperature=1.0 / k)) for k in (1, 3, 10, 30, 100, 300))
        panels["horizon"][f"{label}, {method}"] = curves(horizons, longest, solver)["solve"]
        panels["sharpness"][f"{label}, {method}"] = curves(sharpness, longest, solver)["solve"]
    return panels


TITLES = {
    "states": ("states S", "A = 4, γ = 0.99, τ = 0.1"),
    "parameters": ("parameters n of the reward", "S = 300, dense"),
    "horizon": ("1/(1−γ)", "S = 300 dense, S = 10 000 grid, τ = 0.1"),
    "sharpness": ("1/τ", "S = 300 dense, S = 10 000 grid, γ = 0.99"),
}


BELOW: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.14), "ncols": 2, "frameon": False}


def draw(panels: dict[str, dict[str, Curve]], path: Path) -> None:
    """Four panels, the slope of each curve in the legend."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.0, 8.6), layout="constrained")
    markers = "osD^"
    for axes, (panel, drawn) in zip(figure.subplots(2, 2).flat, panels.items(), strict=True):
        label, title = TITLES[panel]
        for index, (name, curve) in enumerate(drawn.items()):
            size, took = np.array(curve).T
            style = "--" if "gradient" in name or "value" in name or "pullback" in name else "-"
            colour = f"C{index // 2}" if panel != "parameters" else f"C{index}"
            axes.loglog(
                size, 1e3 * took, style, marker=markers[index], color=colour, ms=4, label=f"{name}: {slope(curve):+.2f}"
            )
        axes.set(xlabel=label, ylabel="milliseconds")
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.3)
        axes.legend(title="slope, upper half of the sizes", fontsize=8, title_fontsize=8, **BELOW)
    figure.savefig(path, dpi=110)


def main(iterations: int = 10_000, picture: str | None = None) -> dict[str, dict[str, float]]:
    """Measure, print, draw. `iterations` stands for the milliseconds after which a curve ends."""
    panels = growth(iterations / 1e3)
    for panel, drawn in panels.items():
        print(f"\n{TITLES[panel][0]} ({TITLES[panel][1]})")
        for name, curve in drawn.items():
            figures = "  ".join(f"{size:g}: {1e3 * took:.3g}" for size, took in curve)
            print(f"  {name:24} slope {slope(curve):+.2f}   ms at {figures}")
    if picture is not None:
        draw(panels, Path(picture))
    return {panel: {name: slope(curve) for name, curve in drawn.items()} for panel, drawn in panels.items()}


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 10_000, sys.argv[2] if sys.argv[2:] else "growth.png")
