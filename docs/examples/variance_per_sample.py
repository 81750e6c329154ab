"""The effect of the baseline, common random numbers and the length of continuations on the variance per sample.

At one x of `gridworld-preferences`, the trace of the covariance of one estimate times the samples it drew: lower is
better. The last column is the average over batches of the squared standard errors that the estimator itself
reports.

    python docs/examples/variance_per_sample.py 400
"""

from __future__ import annotations

import sys

import numpy as np

import bilevelrl as bl

VARIANTS: dict[str, dict[str, object]] = {
    "baseline and common numbers": {},
    "no baseline": {"baseline": False},
    "no common numbers": {"common_random_numbers": False},
    "neither": {"baseline": False, "common_random_numbers": False},
}
LENGTHS = {"geometric": None, "T = 1": 1, "T = 10": 10, "T = 40": 40}
BATCH = 64


def main(iterations: int = 20) -> dict[tuple[str, str], float]:
    """Print variance × samples from `iterations` independent estimates of every kind."""
    problem = bl.problem("gridworld-preferences", temperature=0.5)
    x = 0.3 * bl.randomness.stream(0, "x").standard_normal(problem.dimension)
    solver = bl.lower_level_solver("soft-policy-iteration", tolerance=1e-10)
    answer = solver.solve(problem, x, None, bl.randomness.stream(0, "lower"))
    products: dict[tuple[str, str], float] = {}
    print(f"{'':12}{'':30}{'variance × samples':>20}{'reported':>12}")
    for length, truncation in LENGTHS.items():
        for name, options in VARIANTS.items():
            estimator = bl.hypergradient_estimator("stoc-sobirl", batch=BATCH, truncation=truncation, **options)
            estimates = [
                estimator.estimate(problem, x, answer, None, bl.randomness.stream(seed, "estimator"))
                for seed in range(iterations)
            ]
            spread = np.var([hyper.gradient for hyper in estimates], axis=0, ddof=1).sum()
            reported = np.mean([(hyper.standard_error**2).sum() for hyper in estimates])
            samples = np.mean([hyper.cost.samples for hyper in estimates])
            products[length, name] = float(spread * samples)
            print(f"{length:12}{name:30}{spread * samples:>20,.0f}{reported * samples:>12,.0f}")
    return products


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:2]))
