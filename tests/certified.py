"""Drawn certificates beside the true errors that they bound: what the tests and the documentation's figures measure."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
from hypothesis import strategies as st

import bilevelrl as bl
from precise_answers import hypergradient, long
from strategies import (
    KERNELS,
    OBJECTIVES,
    PARTS,
    REFERENCES,
    REWARDS,
    DrawnProblem,
    discounts,
    drawn_objective,
    drawn_problems,
    filled_problem,
    seeds,
    solved,
    temperatures,
)

FOLLOWERS = ("solved", "swept", "perturbed")
ADJOINTS = ("solved", "truncated", "blurred")


@attrs.frozen(eq=False)
class CertifiedDraw:
    """A hyper-gradient of a drawn problem, computed as inexactly as the draw says.

    Args:
        drawn: the follower, at one x.
        objective: f.
        follower: "solved", as exactly as doubles allow; "swept", by value iteration that stops at the tolerance;
            "perturbed": solved, with noise as large as the tolerance on the values.
        tolerance: see there.
        adjoint: "solved"; "truncated": the adjoint's Neumann series, cut off; "blurred": the occupancy solved, with
            noise as large as the tolerance on it.
        terms: of the series, where it is cut off.
        seed: of the noise.
    """

    drawn: DrawnProblem
    objective: Any
    follower: str
    tolerance: float
    adjoint: str
    terms: int
    seed: int

    def computed(self) -> tuple[bl.BilevelProblem, bl.mdp.TabularSolution, bl.HyperGradient]:
        """The problem, the follower's answer and the estimate."""
        problem = bl.BilevelProblem(self.drawn.lower, self.objective)
        rng = np.random.default_rng(self.seed)
        model = problem.lower.model(self.drawn.x)
        solution = solved(model)
        if self.follower == "swept":
            solver = bl.lower_level_solver("soft-value-iteration", tolerance=self.tolerance, maximum_sweeps=20_000)
            solution = solver.solve(problem, self.drawn.x, None, rng)
        elif self.follower == "perturbed":
            values = solution.values + self.tolerance * rng.normal(size=model.states)
            backup = bl.mdp.soft_backup(model, values)
            residual = bl.validation.maximum_norm(backup.values - values)
            kept = (model, backup.policy, values, backup.action_values, residual)
            solution = bl.mdp.TabularSolution(*kept, solution.iterations, bl.Status.BUDGET_SPENT, solution.cost)
        with np.errstate(all="ignore"):  # as in the outer loop: where a policy underflows, a likelihood overflows
            return problem, solution, self._estimate(problem, solution, rng)

    def _estimate(self, problem: Any, solution: Any, rng: Any) -> bl.HyperGradient:
        x, model, policy = self.drawn.x, solution.model, solution.policy
        exact = bl.hypergradient_estimator("implicit").estimate(problem, x, solution, None, rng)
        if self.adjoint == "solved" or exact.occupancy is None:  # of a policy that underflowed the loss is infinite
            return exact
        if self.adjoint == "truncated":
            _, _, by_policy = problem.objective.value_and_gradients(x, policy)
            cotangent = bl.mdp.policy_cotangent(model, policy, by_policy)
            first = adjoint = bl.mdp.adjoint_right_hand_side(model, cotangent)
            for _ in range(self.terms):
                adjoint = first + adjoint - solution.linearization.apply_transpose(adjoint)
            occupancy = bl.mdp.adjoint_occupancy(model, policy, solution.values, cotangent, adjoint)
        else:
            noise = rng.normal(size=policy.shape) * self.tolerance
            occupancy = attrs.evolve(exact.occupancy, weights=exact.occupancy.weights * (1.0 + noise))
        return attrs.evolve(exact, occupancy=occupancy, implicit=problem.lower.pullback(x, occupancy))

    def judged(self, *corrections: int) -> tuple[float, list[bl.certificates.Certificate]]:
        """The true `‖gradient − ∇φ(x)‖₂`, infinite of one that is no number; a certificate by number of corrections."""
        problem, solution, hyper = self.computed()
        certificates = [
            bl.certificates.certify(problem, self.drawn.x, solution, hyper, corrections=each) for each in corrections
        ]
        if not np.isfinite(hyper.gradient).all():
            return np.inf, certificates
        error = long(hyper.gradient) - hypergradient(self.drawn, self.objective)
        return float(np.sqrt((error * error).sum())), certificates


def tolerances() -> st.SearchStrategy[float]:
    """From 0.1 to rounding."""
    return st.floats(-13.0, -1.0).map(lambda power: 10.0**power)


@st.composite
def certified_draws(draw: st.DrawFn) -> CertifiedDraw:
    """γ up to 0.99, τ from 0.001 to 10, every kind of part and of objective, answers loose and tight."""
    drawn = draw(drawn_problems(discount=discounts(high=0.99), temperature=temperatures()))
    seed = draw(seeds)
    objective = drawn_objective(drawn, draw(st.sampled_from(OBJECTIVES)), np.random.default_rng(seed))
    adjoint = draw(st.sampled_from(ADJOINTS))
    follower = draw(st.sampled_from(FOLLOWERS))
    return CertifiedDraw(drawn, objective, follower, draw(tolerances()), adjoint, draw(st.integers(0, 50)), seed)


def random_draw(seed: int) -> CertifiedDraw:
    """One of the same kind by the generator alone: Hypothesis prefers corners, where errors are often exactly zero.

    Two to twelve states, two to five actions; `1 − γ` log-uniform in [0.01, 1], τ in [0.001, 10], the tolerance in
    [1e-13, 0.1]; the follower's answer solved, swept or perturbed, and the adjoint solved, truncated or blurred, with
    equal chances.
    """
    rng = np.random.default_rng(seed)
    states, actions = int(rng.integers(2, 13)), int(rng.integers(2, 6))
    names = [name for name in PARTS if rng.random() < 0.5] or ["rewards"]
    ranges = {name: (int(rng.integers(4)), int(rng.integers(1, 4))) for name in names}
    blocks = {name: slice(first, first + size) for name, (first, size) in ranges.items()}
    drawn = filled_problem(
        rng,
        states,
        actions,
        max(block.stop for block in blocks.values()),
        blocks,
        1.0 - 10.0 ** rng.uniform(-2, 0),
        10.0 ** rng.uniform(-3, 1),
        kernel=str(rng.choice(KERNELS)),
        rewards=str(rng.choice(REWARDS)),
        reference=REFERENCES[rng.integers(3)],
        curved=bool(rng.integers(2)),
        sparse=bool(rng.integers(2)),
        unreachable=int(rng.integers(states)) if rng.random() < 0.3 else 0,
        pinned=bool(rng.integers(2)),
    )
    objective = drawn_objective(drawn, str(rng.choice(OBJECTIVES)), rng)
    adjoint, terms = str(rng.choice(ADJOINTS)), int(rng.integers(51))
    follower = str(rng.choice(FOLLOWERS))
    return CertifiedDraw(drawn, objective, follower, 10.0 ** rng.uniform(-13, -1), adjoint, terms, seed)
