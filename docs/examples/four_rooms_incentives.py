"""Incentives in four rooms: three methods of ascent in a landscape with flat regions and poor local optima.

For each entropy weight λ of the follower and each price ρ of incentives: Adam from the starting point; continuation,
which runs Adam on the same problem with 20, 10, 5, 2 and 1 times λ, a fifth of the iterations each; and basin hopping.
All use the same number of exact hyper-gradients, one per iteration. Values are the leader's, averaged over the two
goals, and evaluated again at the end.

    python docs/examples/four_rooms_incentives.py 800 --starts 10 --jobs 2 --out docs/pictures
"""

from __future__ import annotations

import argparse
import concurrent.futures
import itertools
from pathlib import Path
from typing import Any

import numpy as np

import bilevelrl as bl

TEMPERATURES, PENALTIES = (0.001, 0.003, 0.005), (1.0, 3.0, 5.0)
STAGES = (20.0, 10.0, 5.0, 2.0, 1.0)
PERIOD = 40
# The starting points are close together, and nearly all runs of the other two methods end at the same point.
STARTS_OF_OTHERS = 3
SCHEMES = ("adam", "continuation", "basin hopping")
COLOURS = {"adam": "#999999", "continuation": "#E69F00", "basin hopping": "#0072B2"}

Task = tuple[str, float, float, int, int]


def make_problem(temperature: float, penalty: float) -> bl.BilevelProblem:
    """One of the nine cells."""
    return bl.problem("four-rooms", temperature=temperature, penalty=penalty)


def exact(upper: bl.UpperLevelOptimizer) -> bl.Algorithm:
    """Steps of an optimiser along the exact hyper-gradient."""
    lower = bl.lower_level_solver("soft-policy-iteration")
    return bl.Algorithm(lower, bl.hypergradient_estimator("implicit"), upper, name="exact")


def climb(task: Task) -> tuple[float, float, bl.Array]:
    """The leader's value at the start and at the end, and the x at the end."""
    scheme, temperature, penalty, seed, iterations = task
    problem = make_problem(temperature, penalty)
    w = start = problem.initial_point(bl.randomness.stream(seed, "start"))
    if scheme == "adam":
        w = exact(bl.upper_level_optimizer("adam", step_size=0.3)).run(problem, iterations=iterations, x=w).x
    elif scheme == "continuation":
        for factor in STAGES:
            stage = make_problem(factor * temperature, penalty)
            adam = bl.upper_level_optimizer("adam", step_size=0.1)
            w = exact(adam).run(stage, iterations=iterations // len(STAGES), x=w).x
    else:
        hops = max(iterations // PERIOD - 2, 0)
        hopping = bl.upper_level_optimizer("basin-hopping", period=PERIOD, hops=hops, seed=seed)
        w = exact(hopping).run(problem, iterations=iterations, x=w).x
    return -bl.value_and_gradient(problem, start)[0], -bl.value_and_gradient(problem, w)[0], w


def main(iterations: int = 800, starts: int = 1, jobs: int = 1, out: Path | None = None) -> dict[str, float]:
    """Run all cells and print the table; draw if a directory is given."""
    cells = list(itertools.product(TEMPERATURES, PENALTIES))
    tasks: list[Task] = [
        (scheme, *cell, seed, iterations)
        for cell in cells
        for scheme in SCHEMES
        for seed in range(starts if scheme == "basin hopping" else min(starts, STARTS_OF_OTHERS))
    ]
    if jobs == 1:
        answers = list(map(climb, tasks))
    else:
        with concurrent.futures.ProcessPoolExecutor(jobs) as pool:
            answers = list(pool.map(climb, tasks))
    ends = {task[:4]: answer for task, answer in zip(tasks, answers, strict=True)}
    print(f"the leader's value, averaged over both goals; {iterations} iterations, {starts} starts of basin hopping")
    columns = ("λ", "ρ", "start", "adam", "continuation", "hopping: mean ± sd", "worst", "best")
    print("".join(f"{label:>{width}}" for label, width in zip(columns, (6, 4, 9, 9, 14, 21, 9, 9), strict=True)))
    for temperature, penalty in cells:
        values = {scheme: values_of(ends, scheme, temperature, penalty) for scheme in SCHEMES}
        start = np.mean([answer[0] for key, answer in ends.items() if key[1:3] == (temperature, penalty)])
        found = values["basin hopping"]
        spread = f"{found.mean():.4f} ± {found.std(ddof=1) if found.size > 1 else 0.0:.4f}"
        print(
            f"{temperature:>6g}{penalty:>4g}{start:>9.4f}{values['adam'].mean():>9.4f}"
            f"{values['continuation'].mean():>14.4f}{spread:>21}{found.min():>9.4f}{found.max():>9.4f}"
        )
    if out is not None:
        draw(ends, out / "four-rooms.png")
    return {f"λ={t:g}, ρ={p:g}": float(values_of(ends, "basin hopping", t, p).max()) for t, p in cells}


def values_of(ends: dict[Any, Any], scheme: str, temperature: float, penalty: float) -> bl.Array:
    """The final values of a scheme in a cell, one for each start."""
    return np.array([end[1] for key, end in ends.items() if key[:3] == (scheme, temperature, penalty)])


def draw(ends: dict[Any, Any], path: Path) -> None:
    """The best incentives for λ = 0.001, ρ = 1; and the final value of every run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 4.3), layout="constrained")
    grid, dots = figure.subplots(1, 2, width_ratios=(1.25, 1))
    temperature, penalty = TEMPERATURES[0], PENALTIES[0]
    w = max((end for key, end in ends.items() if key[1:3] == (temperature, penalty)), key=lambda end: end[1])[2]
    problem = make_problem(temperature, penalty)
    assert problem.picture is not None
    problem.picture(grid, w, exact(bl.upper_level_optimizer("adam")).evaluate(problem, w).solution)
    cells = list(itertools.product(TEMPERATURES, PENALTIES))
    for scheme, shift in zip(SCHEMES, (-0.2, 0.0, 0.2), strict=True):
        places, values = [], []
        for place, cell in enumerate(cells):
            found = values_of(ends, scheme, *cell)
            places += [place + shift] * found.size
            values += found.tolist()
        dots.plot(places, values, "o", color=COLOURS[scheme], ms=4, alpha=0.6, mew=0, label=scheme)
    dots.set_xticks(range(len(cells)), [f"{1000 * t:g}\n{p:g}" for t, p in cells])
    dots.set_xlabel("1000 λ (above) and ρ (below)")
    dots.set_title("leader's value at the end of every run", loc="left", fontsize=9)
    dots.set_ylim(bottom=0.0)
    dots.spines[["top", "right"]].set_visible(False)
    dots.grid(axis="y", alpha=0.25, lw=0.6)
    dots.legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("iterations", type=int, nargs="?", default=800)
    parser.add_argument("--starts", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path)
    main(**vars(parser.parse_args()))
