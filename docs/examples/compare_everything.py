"""Every algorithm on seven problems: one table and one picture a problem.

    python docs/examples/compare_everything.py 500 --jobs 2 --out docs/pictures

takes about eight minutes on two cores; 20 instead of 500 gives a taste, with two seeds and untuned steps. Six of the
problems are registered, and what is printed of them is what this prints, with --spread where it is given below:

    bilevelrl compare PROBLEM --algorithms … --budget … --grid 0.1,0.3,1,3,10,30,100,300 --tuning-seeds 3

The seventh, a leader's return along the follower's trajectories, is composed here: HPGD needs a loss that adds up.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import bilevelrl as bl

FULL = 500
GRID = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
ALGORITHMS = [
    "m-sobirl",
    "exact-gradient",
    "aid",
    "itd",
    "amd",
    "pbrl",
    "zero-order",
    "direct-only",
    "sobirl",
    "stoc-sobirl",
    "hpgd",
]
# Problem: the full budget, and noise on the starting point where the problem's own is a single one.
PROBLEMS: dict[str, tuple[str, float, float]] = {
    "synthetic-quadratic": ("backups", 2_000, 0.0),
    "frozenlake-shaping": ("backups", 4_000, 0.3),
    "inverse-rl": ("backups", 5_000, 0.1),
    "stackelberg-game": ("backups", 5_000, 0.5),
    "four-rooms": ("backups", 1_500, 0.0),
    "gridworld-preferences": ("samples", 1_000_000, 0.1),
    "gridworld-return": ("samples", 1_000_000, 0.1),
}
# Where samples are counted nobody should have a follower for nothing who can do without: he learns as the others' do.
# SoBiRL and zero-order draw smaller batches than their defaults, whose price would leave them a handful of iterations.
SAMPLED_OPTIONS: dict[str, dict[str, Any]] = {
    "direct-only": {"follower": "samples", "lower": {"samples": 20_000}},
    "sobirl": {"groups": 16, "truncation": 20},
    "zero-order": {"directions": 8, "groups": 32},
}
# A first evaluation of most of them.
LEAST = {"backups": 100.0, "samples": 100_000.0}
COLOURS = 128


def gridworld_return() -> bl.BilevelProblem:
    """The follower of gridworld-preferences, and a leader who wants him in the far corner, soon."""
    lower = bl.problem("gridworld-preferences").lower
    corner = np.zeros((25, 4))
    corner[24] = 1.0
    objective = bl.TrajectoryReturnObjective(corner, horizon=15, discount=0.9)
    return bl.BilevelProblem(lower, objective, name="gridworld-return")


def compare(name: str, iterations: int, jobs: int) -> bl.Comparison:
    """All algorithms on one problem; those that it cannot support are skipped."""
    unit, amount, spread = PROBLEMS[name]
    composed = name == "gridworld-return"
    brief = iterations < FULL
    return bl.compare(
        gridworld_return() if composed else name,
        ALGORITHMS,
        budget=bl.Budget(unit, max(LEAST[unit], amount * iterations / FULL)),
        options=SAMPLED_OPTIONS if unit == "samples" else {},
        seeds=2 if brief else 10,
        grid=(1.0,) if brief else GRID,
        tuning_seeds=3,
        checkpoints=3 if brief else 20,
        groups=1_000 if brief else 10_000,
        spread=spread,
        jobs=1 if composed else jobs,
    )


def draw(comparison: bl.Comparison, path: Path) -> None:
    """The comparison's picture with fewer colours: a third of the bytes, and nothing that a reader would miss."""
    from PIL import Image

    comparison.plot(path)
    with Image.open(path) as picture:
        fewer = picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    fewer.save(path, optimize=True)


def main(iterations: int = FULL, jobs: int = 1, out: Path | None = None) -> dict[str, bl.Comparison]:
    """Compare, print, and draw where a directory is given."""
    comparisons = {}
    for name in PROBLEMS:
        comparisons[name] = compare(name, iterations, jobs)
        print(f"## {name}\n\n{comparisons[name]}\n", flush=True)
        if out is not None:
            draw(comparisons[name], out / f"compare-{name}.png")
    return comparisons


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("iterations", type=int, nargs="?", default=FULL)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path)
    main(**vars(parser.parse_args()))
