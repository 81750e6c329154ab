"""A bilevel problem: the follower's parametric MDP, the leader's objective, the leader's feasible set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs
import numpy as np

from bilevelrl.mdp.solution import SupportsModel
from bilevelrl.objectives.protocols import PolicyObjective, TrajectoryObjective
from bilevelrl.problems.evaluation import GROUPS, Evaluation, evaluate
from bilevelrl.problems.feasible_sets import FeasibleSet, Free
from bilevelrl.protocols import LowerLevelSolver
from bilevelrl.sampling.solution import SupportsSampling
from bilevelrl.validation.arrays import Array, as_array
from bilevelrl.validation.errors import InputError, kind_words


@attrs.frozen(eq=False, repr=False)
class BilevelProblem:
    """`minimise f(x, π*(x)) over x in X`, with `π*(x)` the follower's optimal policy at x.

    Args:
        lower: the follower: `SupportsModel` (say, a `ParametricMDP`), `SupportsSampling`, or both.
        objective: the leader's f: `PolicyObjective`, `TrajectoryObjective`, or both.
        start: the starting point of runs: (n,), or a function of a `numpy.random.Generator`. Default: zero.
        feasible_set: X. Default: all of R^n.
        name: the problem's name in messages, tables and pictures.
        measures: `(x, solution) ↦ {label: number}`, figures for reports, such as the follower's true return.
        picture: `(axes, x, solution) ↦ None`, draws the solution on matplotlib axes.
        configuration: the options that made it, if it came from the registry; saved with every run.
        judge: `(x, seed) ↦ Evaluation`, the objective at x as comparisons report it. Default: see `evaluate`.
    """

    lower: Any
    objective: Any
    start: Array | Callable[[np.random.Generator], Array] | None = None
    feasible_set: FeasibleSet = attrs.field(factory=Free)
    name: str = "unnamed"
    measures: Callable[[Array, Any], Mapping[str, float]] | None = None
    picture: Callable[[Any, Array, Any], None] | None = None
    configuration: Mapping[str, Any] | None = None
    judge: Callable[[Array, int], Evaluation] | None = None

    def __attrs_post_init__(self) -> None:
        expectations = {
            "lower": (SupportsModel, SupportsSampling),
            "objective": (PolicyObjective, TrajectoryObjective),
            "feasible_set": (FeasibleSet,),
        }
        for field, protocols in expectations.items():
            value = getattr(self, field)
            if not isinstance(value, protocols):
                wanted = " or ".join(protocol.__name__ for protocol in protocols)
                raise InputError(f"{field} of problem {self.name!r}", kind_words(value), wanted)
        try:
            projected = self.feasible_set.project(np.zeros(self.dimension)).shape
        except ValueError as error:
            label, kind = f"feasible_set of problem {self.name!r}", type(self.feasible_set).__name__
            raise InputError(label, f"a {kind} of another dimension", f"a set in R^{self.dimension}") from error
        if projected != (self.dimension,):
            label = f"the dimension of feasible_set of problem {self.name!r}"
            raise InputError(label, str(projected), f"{(self.dimension,)}, as of x")
        if self.start is not None and not callable(self.start):
            as_array(f"start of problem {self.name!r}", self.start, (self.dimension,))

    @property
    def dimension(self) -> int:
        """n, the length of x."""
        return int(self.lower.dimension)

    def initial_point(self, rng: np.random.Generator) -> Array:
        """The starting point of a run, projected onto the feasible set."""
        if self.start is None:
            start: Any = np.zeros(self.dimension)
        else:
            start = self.start(rng) if callable(self.start) else self.start
        return self.feasible_set.project(self.point(start))

    def point(self, x: object) -> Array:
        """x as a finite float64 vector of length n; raises `InputError` otherwise."""
        return as_array("x", x, (self.dimension,))

    def evaluate(
        self, x: object, seed: int = 0, *, groups: int = GROUPS, follower: LowerLevelSolver | None = None
    ) -> Evaluation:
        """The leader's objective at x: by the problem's `judge`, else exact if there is a model, else sampled.

        Args:
            x: (n,).
            seed: keys the random numbers, which are the same at every x for one seed.
            groups: the number of losses drawn, if the objective is one over trajectories.
            follower: a solver that learns the follower's policy if there is no model to solve.

        Raises:
            InputError: if x is not a finite vector of length n, or there is neither a model nor a follower.
        """
        point = self.point(x)
        if self.judge is not None:
            return self.judge(point, seed)
        return evaluate(self, point, seed, groups=groups, follower=follower)

    def __repr__(self) -> str:
        return f"BilevelProblem({self.name!r}, dimension={self.dimension})"
