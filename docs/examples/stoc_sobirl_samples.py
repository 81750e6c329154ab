"""How many samples Stoc-SoBiRL needs to reach a gradient of a given size, on log–log axes beside the paper's rate.

The follower acts in the paper's synthetic MDP (S = 10, A = 5, γ = 0.5, τ = 1, rewards scaled by xᵀMx); the leader's
loss is a cost summed along trajectories of five steps, plus a ridge that draws x to a point away from zero (at zero the
rewards vanish, and the noise with them). The follower is solved exactly, so that the samples are those of the gradient
alone. The exact gradient, computed from the model, is only recorded.

    python docs/examples/stoc_sobirl_samples.py 500 --seeds 10 --out docs/pictures
"""

from __future__ import annotations

import argparse
from pathlib import Path

import attrs
import numpy as np

import bilevelrl as bl

HORIZON, RIDGE, STEP_SIZE = 5, 0.3, 0.1
PAPER_EXPONENT = 3.5


@attrs.frozen(eq=False)
class HorizonCost:
    """`f(x, π) = E[Σ_h cost(s_h, a_h)] + ½·ridge·‖x − x̂‖²` over H steps: a loss of trajectories, and of the policy."""

    mdp: bl.SoftMDP
    cost: bl.Array
    target: bl.Array
    horizon: int = HORIZON
    trajectories: int = 1

    def loss_and_gradient(
        self, x: bl.Array, paths: bl.sampling.Trajectories, rng: np.random.Generator
    ) -> tuple[bl.Array, bl.Array]:
        """The loss of every trajectory and `∂l/∂x`."""
        losses = self.cost[paths.observations[:, :-1], paths.actions].sum(axis=1)
        offset = x - self.target
        return losses + 0.5 * RIDGE * (offset @ offset), RIDGE * offset

    def value_and_gradients(self, x: bl.Array, policy: bl.Array) -> tuple[float, bl.Array, bl.Array]:
        """The expectation: visits forward in time, costs-to-go backward."""
        states, visits = self.mdp.initial, []
        for _ in range(self.horizon):
            visits.append(states)
            states = self.mdp.transitions.transpose_expectation(states[:, None] * policy)
        to_go, by_policy = np.zeros(self.mdp.states), np.zeros_like(policy)
        for states in reversed(visits):
            ahead = self.cost + self.mdp.transitions.expectation(to_go)
            by_policy += states[:, None] * ahead
            to_go = (policy * ahead).sum(axis=1)
        offset = x - self.target
        value = float(self.mdp.initial @ to_go) + 0.5 * RIDGE * float(offset @ offset)
        return value, RIDGE * offset, by_policy


def make_problem(dimension: int = 20) -> bl.BilevelProblem:
    """The synthetic MDP with the trajectory loss."""
    synthetic = bl.problem("synthetic-quadratic", dimension=dimension)
    mdp = synthetic.lower.model(np.zeros(dimension))
    cost = bl.randomness.stream(0, "cost").random((mdp.states, mdp.actions))
    start, target = 0.3 * bl.randomness.stream(0, "points").standard_normal((2, dimension))
    objective = HorizonCost(mdp, 5.0 * cost, target)
    return attrs.evolve(synthetic, objective=objective, start=start, name="synthetic-trajectories")


def samples_and_gradients(problem: bl.BilevelProblem, seed: int, iterations: int) -> tuple[bl.Array, bl.Array]:
    """Samples drawn so far, and the smallest exact ‖∇φ‖² so far, at every iteration."""
    algorithm = bl.Algorithm(
        lower=bl.lower_level_solver("soft-policy-iteration", tolerance=1e-9),
        estimator=bl.hypergradient_estimator("stoc-sobirl", batch=1, batch_growth=4 / 3, blocks=1),
        upper=bl.upper_level_optimizer("gradient-descent", step_size=STEP_SIZE),
        name="stoc-sobirl",
    )
    rows: list[tuple[float, float]] = []

    def observe(state: bl.outer_loop.OuterState) -> None:
        _, gradient = bl.value_and_gradient(problem, state.x)
        rows.append((state.cost.samples, float(gradient @ gradient)))

    algorithm.run(problem, iterations=iterations, seed=seed, callback=observe)
    samples, squares = np.array(rows).T
    return samples, np.minimum.accumulate(squares)


def samples_to_reach(levels: bl.Array, samples: bl.Array, squares: bl.Array) -> bl.Array:
    """For every ε the samples at the first iterate with ‖∇φ‖² ≤ ε; NaN if there is none."""
    reached = squares[:, None] <= levels
    return np.where(reached.any(axis=0), samples[reached.argmax(axis=0)], np.nan)


def main(iterations: int = 300, seeds: int = 2, out: Path | None = None) -> dict[str, float]:
    """Run, print the table and the fitted exponent; draw if a directory is given."""
    problem = make_problem()
    curves = [samples_and_gradients(problem, seed, iterations) for seed in range(seeds)]
    highest = min(squares[0] for _, squares in curves) / 10
    lowest = max(squares[-1] for _, squares in curves) * 1.01
    levels = np.geomspace(highest, lowest, 8)
    needed = np.array([samples_to_reach(levels, *curve) for curve in curves])
    middle = np.exp(np.log(needed).mean(axis=0))
    exponent = -float(np.polyfit(np.log(levels[2:]), np.log(middle[2:]), 1)[0])
    print(f"{seeds} seeds, {iterations} iterations\n{'ε':>12}{'samples (geometric mean)':>28}")
    for level, count in zip(levels, middle, strict=True):
        print(f"{level:>12.3g}{count:>28,.0f}")
    print(f"fitted: samples ~ ε^-{exponent:.2f}; the paper's bound: ε^-{PAPER_EXPONENT}")
    if out is not None:
        draw(levels, needed, exponent, out / "stoc-sobirl-samples.png")
    return {"exponent": exponent}


def draw(levels: bl.Array, needed: bl.Array, exponent: float, path: Path) -> None:
    """One dot for each seed and ε, the fitted line, the paper's slope."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    axes = figure.subplots()
    middle = np.exp(np.log(needed).mean(axis=0))
    for row in needed:
        axes.loglog(levels, row, ".", color="#999999", ms=4)
    axes.loglog(levels, middle, "o", color="#0072B2", label="geometric mean over seeds")
    anchor, fitted = len(levels) - 1, levels[2:]
    fit = middle[2:].prod() ** (1 / fitted.size) * (fitted / fitted.prod() ** (1 / fitted.size)) ** -exponent
    axes.loglog(fitted, fit, color="#0072B2", lw=1.4, label=f"fitted slope −{exponent:.2f}")
    paper = middle[anchor] * (levels / levels[anchor]) ** -PAPER_EXPONENT
    axes.loglog(levels, paper, "--", color="#E69F00", lw=1.4, label=f"slope of the paper's bound, −{PAPER_EXPONENT}")
    axes.set_ylim(bottom=needed.min() / 3)
    axes.set_xlabel("ε, the size of ‖∇φ‖² to reach")
    axes.set_ylabel("samples drawn")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, lw=0.6, which="both")
    axes.legend(frameon=False, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("iterations", type=int, nargs="?", default=500)
    parser.add_argument("--out", type=Path)
    main(**vars(parser.parse_args()))
