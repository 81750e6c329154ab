"""The rivals on FrozenLake 8x8: the error of each gradient, its cost, and the result of descent.

First at one x, with a solved and with an inaccurate follower; then whole runs of the recipes from x = 0.

    python docs/examples/rivals.py 300
"""

from __future__ import annotations

import sys
import time

import numpy as np

import bilevelrl as bl

CASES = {
    "implicit": ("implicit", {}),
    "warm-start-adjoint": ("warm-start-adjoint", {}),
    "aid": ("aid", {}),
    "aid, damping=0": ("aid", {"damping": 0.0}),
    "aid, no preconditioner": ("aid", {"damping": 0.0, "preconditioner": "none"}),
    "itd, 10 backups": ("itd", {"backups": 10}),
    "itd, 100 backups": ("itd", {"backups": 100}),
    "amd, first call": ("amd", {}),
    "amd, 20th call": ("amd", {}),
    "pbrl, σ=30": ("pbrl", {}),
    "pbrl, σ=300": ("pbrl", {"penalty": 300.0}),
    "zero-order, 16": ("zero-order", {}),
    "zero-order, 512": ("zero-order", {"directions": 512}),
    "direct-only": ("direct-only", {}),
}
CALLS = {"warm-start-adjoint": 20, "amd, 20th call": 20, "pbrl, σ=30": 20, "pbrl, σ=300": 20}


RECIPES = ("m-sobirl", "itd", "amd", "aid", "pbrl", "zero-order", "direct-only")


def gradients() -> dict[tuple[str, str], float]:
    """Print a table for each kind of follower; the errors by follower and estimator."""
    errors: dict[tuple[str, str], float] = {}
    problem = bl.problem("frozenlake-shaping")
    x = np.random.default_rng(0).uniform(-1.0, 1.0, problem.dimension)
    _, exact = bl.value_and_gradient(problem, x)
    followers = {
        "solved to 1e-10": bl.lower_level_solver("soft-policy-iteration"),
        "after 10 sweeps": bl.lower_level_solver("soft-value-iteration", sweeps=10),
    }
    for label, solver in followers.items():
        solution = solver.solve(problem, x, None, bl.randomness.stream(0, "lower"))
        print(f"follower {label}: residual {solution.residual:.1e}")
        print(f"{'estimator':24}{'error':>9}{'backups':>9}{'solves':>8}{'products':>10}{'ms':>8}  status")
        for name, (kind, options) in CASES.items():
            estimator, previous, seconds = bl.hypergradient_estimator(kind, **options), None, []
            for call in range(CALLS.get(name, 1)):
                rng, began = bl.randomness.stream(0, "estimator", call), time.perf_counter()
                previous = estimator.estimate(problem, x, solution, previous, rng)
                seconds.append(time.perf_counter() - began)
            error = np.linalg.norm(previous.gradient - exact) / np.linalg.norm(exact)
            errors[label, name] = float(error)
            cost, status = previous.cost, previous.status.name.lower().replace("_", " ")
            if "negative_curvatures" in previous.carry:
                status += f", {int(previous.carry['negative_curvatures'])} negative Ritz values"
            print(
                f"{name:24}{error:9.1e}{cost.backups:9}{cost.linear_solves:8}{cost.products:10}"
                f"{1e3 * min(seconds):8.1f}  {status}"
            )
        print()
    return errors


def runs(iterations: int) -> None:
    """Print what `iterations` steps of 0.1 reach; of zero-order 0.01, since its gradient is mostly noise."""
    problem = bl.problem("frozenlake-shaping")
    print(f"after {iterations} iterations{'':6}{'return':>9}{'backups':>9}{'solves':>8}{'products':>10}{'s':>8}")
    for name in RECIPES:
        run = bl.algorithm(name, step_size=0.01 if name == "zero-order" else 0.1).run(problem, iterations=iterations)
        value, _ = bl.value_and_gradient(problem, run.x)
        cost = run.cost
        print(
            f"{name:24}{-value:9.4f}{cost.backups:9}{cost.linear_solves:8}{cost.products:10}{run.last.seconds:8.2f}"
            f"  {run.status.name.lower().replace('_', ' ')}"
        )


def main(iterations: int = 300) -> dict[tuple[str, str], float]:
    """Print all tables."""
    errors = gradients()
    runs(iterations)
    return errors


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:2]))
