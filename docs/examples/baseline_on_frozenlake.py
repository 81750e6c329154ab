"""M-SoBiRL on FrozenLake 8x8, with and without the per-state baseline in the leader's objective.

Run it with `python docs/examples/baseline_on_frozenlake.py [iterations]`; 3000 iterations, the default, take about ten
seconds. The page docs/explanation/m-sobirl-on-frozenlake.md discusses what it prints.
"""

from __future__ import annotations

import sys

import attrs
import numpy as np
import scipy.optimize

import bilevelrl as bl

STEP_SIZES = (0.1, 0.01, 0.001)


def hard_optimum(mdp: bl.SoftMDP, tolerance: float = 1e-12) -> float:
    """The best true return `ρᵀ max_π V^π`, by value iteration with a maximum in place of the soft maximum."""
    values = np.zeros(mdp.states)
    while True:
        backed_up = (mdp.rewards + mdp.discount * mdp.transitions.expectation(values)).max(axis=1)
        if np.abs(backed_up - values).max() <= tolerance:
            return float(mdp.initial @ backed_up)
        values = backed_up


def first_estimate(label: str, problem: bl.BilevelProblem) -> tuple[bl.Array, bl.Array]:
    """M-SoBiRL's first hyper-gradient beside the exact one, both at x = 0."""
    hyper = bl.algorithm("m-sobirl").start(problem).hyper
    _, exact = bl.value_and_gradient(problem, np.zeros(problem.dimension))
    length, true_length = np.linalg.norm(hyper.gradient), np.linalg.norm(exact)
    print(
        f"{label:28}{length:>10.4f}{true_length:>10.4f}{hyper.gradient @ exact / (length * true_length):>10.3f}"
        f"{int((hyper.gradient < 0).sum()):>10}{int((exact < 0).sum()):>10}{hyper.occupancy.weights.sum():>10.4f}"
    )
    return hyper.gradient, exact


def slowest_half_life(problem: bl.BilevelProblem, step_size: float = 0.5) -> float:
    """Calls of the tracked adjoint, at a fixed x = 0, that halve its slowest error: `log 2 / −log(1 − ξσ²)`."""
    solution = bl.algorithm("m-sobirl").start(problem).solution
    matrix = np.eye(solution.model.states) - solution.model.discount * solution.linearization.chain
    smallest = np.linalg.svd(matrix, compute_uv=False)[-1]
    return float(np.log(2.0) / -np.log1p(-step_size * smallest**2))


def first_steps(label: str, problem: bl.BilevelProblem, last: int = 5) -> None:
    """The first iterations of M-SoBiRL, each with the exact gradient at its x."""
    titles = ("k", "return", "norm", "exact", "mean x", "max x", "at bound")
    print(f"\n{f'first steps, {label}':28}" + "".join(f"{title:>10}" for title in titles))

    def show(state: bl.outer_loop.OuterState) -> None:
        x, hyper = state.x, state.hyper
        _, exact = bl.value_and_gradient(problem, x)
        print(
            f"{'':28}{state.iteration:>10}{-hyper.objective:>10.5f}{np.linalg.norm(hyper.gradient):>10.4f}"
            f"{np.linalg.norm(exact):>10.5f}{x.mean():>10.4f}{x.max():>10.4f}{at_bound(problem, x):>10}"
        )

    bl.algorithm("m-sobirl", step_size=0.1).run(problem, iterations=last, callback=show)


def at_bound(problem: bl.BilevelProblem, x: bl.Array) -> int:
    """The number of entries of x at the bound of the problem's box."""
    return int((np.abs(x) >= problem.feasible_set.upper).sum())


def trace(label: str, problem: bl.BilevelProblem, algorithm: bl.Algorithm, iterations: int) -> bl.Run:
    """Run the algorithm and print the true return and where x ended."""
    run = algorithm.run(problem, iterations=iterations)
    returns = -run.history["objective"]
    best = int(returns.argmax())
    _, exact = bl.value_and_gradient(problem, run.x)
    print(
        f"{label:28}{returns[0]:>10.4f}{returns[best]:>10.4f}{best:>10}{returns[-1]:>10.5f}"
        f"{at_bound(problem, run.x):>10}{run.history['gradient_norm'].max():>10.3f}{np.linalg.norm(exact):>10.4f}"
    )
    return run


def main(iterations: int = 3000) -> dict[str, float]:
    """Print the tables; return the true return at the end of each run, by its label."""
    problem = bl.problem("frozenlake-shaping", map_size=8)
    true_mdp = problem.objective.true_mdp
    plain = attrs.evolve(problem, objective=bl.objectives.ReturnObjective(true_mdp, baseline=False))
    baseline = attrs.evolve(problem, objective=bl.objectives.ReturnObjective(true_mdp, baseline=True))
    ends = {"hard optimum": hard_optimum(true_mdp)}
    print(f"hard optimum without shaping: {ends['hard optimum']:.4f}\n")

    titles = ("norm", "exact", "cosine", "negative", "exact", "sum of r̄")
    print(f"{f'first estimate, n = {problem.dimension}':28}" + "".join(f"{title:>10}" for title in titles))
    first_estimate("plain", plain)
    first_estimate("baseline", baseline)
    print(f"half-life of the adjoint's slowest error: {slowest_half_life(problem):.0f} calls")
    for level in (0.0, 0.1, 1.0):
        value, _ = bl.value_and_gradient(problem, np.full(problem.dimension, level))
        print(f"true return with x = {level:g} in every state: {-value:.4f}")

    first_steps("plain", plain)
    first_steps("baseline", baseline)

    titles = ("start", "best", "at k", "end", "at bound", "max |g|", "|∇φ| end")
    print(f"\n{f'true return, K = {iterations}':28}" + "".join(f"{title:>10}" for title in titles))
    for name, variant in (("plain", plain), ("baseline", baseline)):
        for step_size in STEP_SIZES:
            label = f"m-sobirl, {name}, β = {step_size:g}"
            run = trace(label, variant, bl.algorithm("m-sobirl", step_size=step_size), iterations)
            ends[label] = -run.objective
    exact_descent = bl.Algorithm(
        lower=bl.lower_level_solver("soft-policy-iteration"),
        estimator=bl.hypergradient_estimator("implicit"),
        upper=bl.upper_level_optimizer("gradient-descent", step_size=0.1),
    )
    ends["exact, β = 0.1"] = -trace("exact, β = 0.1", plain, exact_descent, iterations).objective

    answer = scipy.optimize.minimize(
        lambda x: bl.value_and_gradient(problem, x),
        np.zeros(problem.dimension),
        jac=True,
        method="L-BFGS-B",
        bounds=[(-1.0, 1.0)] * problem.dimension,
        options={"maxiter": iterations},
    )
    ends["L-BFGS-B"] = -float(answer.fun)
    print(f"\nL-BFGS-B with exact gradients: {ends['L-BFGS-B']:.4f} after {answer.nit} iterations")
    return ends


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:2]))
