"""Every algorithm on seven problems: one table and one picture for each problem.

    python docs/examples/compare_everything.py 500 --jobs 2 --out docs/pictures

takes about a quarter of an hour on two busy cores; 20 instead of 500 is a short form, with two seeds and untuned steps.
The command line gives each table too:

    bilevelrl compare inverse-rl --algorithms … --budget backups=5000 --spread 0.1 --grid … --tuning-seeds 3 --jobs 2
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import bilevelrl as bl

FULL = 500
# Factors on the default step sizes, by the unit of the budget: noisy gradients need short steps.
GRIDS = {
    "backups": (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0),
    "samples": (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
    "seconds": (0.01, 0.1, 1.0, 10.0, 100.0),
}
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
# Table: the problem, the full budget, and noise on the starting point for a problem with a single one.
TABLES: dict[str, tuple[dict[str, Any], str, float, float]] = {
    "synthetic-quadratic": ({"name": "synthetic-quadratic"}, "backups", 2_000, 0.0),
    "frozenlake-shaping": ({"name": "frozenlake-shaping"}, "backups", 4_000, 0.3),
    "inverse-rl": ({"name": "inverse-rl"}, "backups", 5_000, 0.1),
    "stackelberg-game": ({"name": "stackelberg-game"}, "backups", 5_000, 0.5),
    "four-rooms": ({"name": "four-rooms"}, "backups", 1_500, 0.0),
    "gridworld-preferences": ({"name": "gridworld-preferences"}, "samples", 2_000_000, 0.1),
    # A return of 50 steps has an exact gradient and a sampled one: the one problem for all eleven.
    "frozenlake-return": ({"name": "frozenlake-shaping", "map_size": 4, "horizon": 50}, "seconds", 1.0, 0.3),
}
# With a budget in samples direct-only must learn the follower from samples too, since an exact one would be free.
# SoBiRL and zero-order draw smaller batches than their defaults, which would leave only a handful of iterations.
SAMPLED_OPTIONS: dict[str, dict[str, Any]] = {
    "direct-only": {"follower": "samples", "lower": {"samples": 20_000}},
    "sobirl": {"groups": 16, "truncation": 20},
    "zero-order": {"directions": 8, "groups": 32},
}
# Enough for a first evaluation by most algorithms.
LEAST = {"backups": 100.0, "samples": 100_000.0, "seconds": 0.1}
COLOURS = 128


def compare(table: str, iterations: int, jobs: int) -> bl.comparison.Comparison:
    """All algorithms on one problem; those that the problem does not support are skipped."""
    problem, unit, amount, spread = TABLES[table]
    brief = iterations < FULL
    return bl.compare(
        problem,
        ALGORITHMS,
        budget=bl.comparison.Budget(unit, max(LEAST[unit], amount * iterations / FULL)),
        options={} if unit == "backups" else SAMPLED_OPTIONS,
        seeds=2 if brief else 10,
        grid=(1.0,) if brief else GRIDS[unit],
        tuning_seeds=3,
        checkpoints=3 if brief else 20,
        groups=1_000 if brief else 20_000,
        spread=spread,
        jobs=jobs,
    )


def draw(comparison: bl.comparison.Comparison, path: Path) -> None:
    """The comparison's picture with fewer colours, which saves two thirds of the bytes without a visible difference."""
    from PIL import Image

    comparison.plot(path)
    with Image.open(path) as picture:
        fewer = picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    fewer.save(path, optimize=True)


def main(iterations: int = FULL, jobs: int = 1, out: Path | None = None) -> dict[str, bl.comparison.Comparison]:
    """Compare, print, and draw if a directory is given."""
    comparisons = {}
    for name in TABLES:
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
