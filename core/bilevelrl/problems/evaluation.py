"""The leader's objective at an x, independent of any algorithm: exact, or from a large independent sample."""

from __future__ import annotations

import math
from typing import Any

import attrs
import numpy as np

from bilevelrl.mdp.newton import soft_policy_iteration
from bilevelrl.mdp.solution import SupportsModel
from bilevelrl.objectives.protocols import PolicyObjective
from bilevelrl.protocols import LowerLevelSolution, LowerLevelSolver, Problem
from bilevelrl.randomness import stream
from bilevelrl.sampling.simulators import draw_groups
from bilevelrl.sampling.solution import simulator_of
from bilevelrl.validation.arrays import Array
from bilevelrl.validation.errors import InputError

GROUPS = 20_000
# Much more accurate than tables show, and reached by Newton's method in a few steps.
TOLERANCE = 1e-10


@attrs.frozen
class Evaluation:
    """The leader's objective at an x.

    Args:
        objective: `f(x, π*(x))`; infinite if it cannot be computed.
        standard_error: the objective's standard error; 0 if it is exact.
    """

    objective: float
    standard_error: float = 0.0


def evaluate(
    problem: Problem, x: Array, seed: int, *, groups: int = GROUPS, follower: LowerLevelSolver | None = None
) -> Evaluation:
    """`f(x, π*(x))`: exact if there is a model and an objective of the policy, otherwise sampled.

    Args:
        problem: the problem.
        x: (n,).
        seed: keys the random numbers, which are the same at every x for one seed, so that differences have less
            variance.
        groups: the number of losses drawn, if the objective is one over trajectories.
        follower: a solver that learns the follower's policy if there is no model to solve.

    Raises:
        InputError: if there is no model, and no follower is given.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        solution: Any = answer(problem, x, seed, follower)
        policy = solution.policy
        if not solution.status.usable or (isinstance(policy, np.ndarray) and not np.isfinite(policy).all()):
            return Evaluation(math.inf)
        if isinstance(problem.objective, PolicyObjective):
            return _finite(float(problem.objective.value_and_gradients(x, policy)[0]), 0.0)
        losses = _losses(problem, x, policy, groups, stream(seed, "evaluation"))
        return _finite(float(losses.mean()), float(losses.std(ddof=1)) / math.sqrt(losses.size))


def answer(problem: Problem, x: Array, seed: int, follower: LowerLevelSolver | None) -> LowerLevelSolution:
    """The follower's answer: solved if there is a model, else learnt by the given solver; see `evaluate`."""
    if isinstance(problem.lower, SupportsModel):
        return soft_policy_iteration(problem.lower.model(x), tolerance=TOLERANCE)
    if follower is None:
        expected = "a lower-level solver that learns the policy, since the problem has no transition model to solve"
        raise InputError(f"the follower that evaluates problem {problem.name!r}", "None", expected)
    return follower.solve(problem, x, None, stream(seed, "evaluation of the follower"))


def _losses(problem: Problem, x: Array, policy: Any, groups: int, rng: np.random.Generator) -> Array:
    objective, simulator = problem.objective, simulator_of(problem.lower, x)
    batch = draw_groups(simulator, policy, groups, int(objective.trajectories), int(objective.horizon), rng)
    losses: Array = objective.loss_and_gradient(x, batch, rng)[0]
    return losses


def _finite(objective: float, standard_error: float) -> Evaluation:
    return Evaluation(objective, standard_error) if math.isfinite(objective) else Evaluation(math.inf)
