"""The evaluation of a comparison: the leader's objective at the x of every run, by the same method."""

from __future__ import annotations

import functools
import math

import attrs
import numpy as np

from bilevelrl.mdp.solution import SupportsModel
from bilevelrl.objectives.protocols import PolicyObjective
from bilevelrl.plugins.components import Kind
from bilevelrl.plugins.configuration import build, option_fields
from bilevelrl.plugins.discovery import registry
from bilevelrl.problems.bilevel_problem import BilevelProblem
from bilevelrl.problems.evaluation import GROUPS, Evaluation, answer
from bilevelrl.problems.exact import implicit_gradient
from bilevelrl.problems.feasible_sets import stationarity
from bilevelrl.protocols import LowerLevelSolver
from bilevelrl.validation.arrays import Array
from bilevelrl.validation.errors import IncompatibleError

FOLLOWER_SAMPLES = 1_000_000


@attrs.frozen(eq=False, slots=False)
class Judge:
    """Evaluates the objective at any x, by the best method that the problem supports.

    Args:
        problem: the problem.
        groups: the number of losses drawn, if the objective is one over trajectories.
        follower_samples: transitions for learning the follower's policy, if there is no model to solve.
    """

    problem: BilevelProblem
    groups: int = GROUPS
    follower_samples: int = FOLLOWER_SAMPLES

    @property
    def solves(self) -> bool:
        """Whether the follower is solved exactly."""
        return isinstance(self.problem.lower, SupportsModel)

    @property
    def exact(self) -> bool:
        """Whether an evaluation has no error at all."""
        return self.solves and isinstance(self.problem.objective, PolicyObjective) and self.problem.judge is None

    @property
    def words(self) -> str:
        """The method of evaluation, in words."""
        if self.problem.judge is not None:
            return "evaluated by the problem's own judge"
        follower = "the follower solved exactly"
        if self.follower is not None:
            samples = f"{self.follower_samples:,} transitions of its own"
            follower = f"the follower learnt by {self.follower.name} from {samples}"
        if isinstance(self.problem.objective, PolicyObjective):
            return f"{follower}, the objective computed from its policy"
        return f"{follower}, {self.groups:,} losses drawn from its policy with random numbers of their own"

    @functools.cached_property
    def follower(self) -> LowerLevelSolver | None:
        """The solver that learns the follower's policy if there is no model: the first suitable registered one."""
        if self.solves or self.problem.judge is not None:
            return None
        for entry in registry():
            if entry.kind is Kind.LOWER_LEVEL_SOLVER and _learns(entry.component, self.problem):
                learner: LowerLevelSolver = build(entry.component, {"samples": self.follower_samples})
                return learner
        raise IncompatibleError(
            f"problem {self.problem.name!r} has no transition model, and no registered lower-level solver learns its "
            "follower from samples: give the problem a judge"
        )

    def __call__(self, x: Array, seed: int) -> Evaluation:
        """The objective at x. One seed gives the same random numbers at every x, so differences have less variance."""
        return self.problem.evaluate(x, seed, groups=self.groups, follower=self.follower)

    def stationarity(self, x: Array) -> float:
        """`‖x − Π_X(x − ∇φ(x))‖₂` of the exact gradient; NaN if there is none."""
        if not self.exact:
            return math.nan
        with np.errstate(over="ignore", invalid="ignore"):
            solution = answer(self.problem, x, 0, None)
            if not solution.status.usable:
                return math.nan
            hyper = implicit_gradient(self.problem, x, solution)  # type: ignore[arg-type]  # a TabularSolution
            return stationarity(self.problem.feasible_set, x, hyper.gradient)


def _learns(component: type, problem: BilevelProblem) -> bool:
    """Whether a solver needs no model, accepts the problem, and has an option for the number of samples."""
    requires = component.requires  # type: ignore[attr-defined]
    takes = isinstance(requires, type) and isinstance(problem.lower, requires)
    return takes and "samples" in {field.name for field in option_fields(component)}
