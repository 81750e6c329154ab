"""Bilevel problems that are an expectation over contexts: `minimise Σ_c w_c f_c(x, π*_c(x))`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs
import numpy as np

from bilevelrl.objectives.protocols import PolicyObjective, TrajectoryObjective
from bilevelrl.problems.bilevel_problem import BilevelProblem
from bilevelrl.problems.contexts import ContextualMDP
from bilevelrl.problems.feasible_sets import FeasibleSet
from bilevelrl.sampling.simulators import Trajectories
from bilevelrl.validation.arrays import Array, Indices, check_shape
from bilevelrl.validation.errors import InputError, kind_words


@attrs.frozen(eq=False, slots=False)
class _ContextualParts:
    """The parts of objectives over contexts."""

    lower: ContextualMDP = attrs.field()
    objectives: tuple[Any, ...] = attrs.field(converter=tuple)

    @lower.validator
    def _check_lower(self, attribute: attrs.Attribute[Any], value: Any) -> None:
        if not isinstance(value, ContextualMDP):
            raise InputError(f"{type(self).__name__}.lower", kind_words(value), "a ContextualMDP")

    def _check_objectives(self, protocol: Any) -> None:
        label, count = f"{type(self).__name__}.objectives", len(self.lower.contexts)
        if len(self.objectives) != count:
            raise InputError(f"the number of {label}", str(len(self.objectives)), f"{count}, one a context")
        for index, objective in enumerate(self.objectives):
            if not isinstance(objective, protocol):
                raise InputError(f"{label}[{index}]", kind_words(objective), f"a {protocol.__name__}")


@attrs.frozen(eq=False, slots=False)
class ContextualObjective(_ContextualParts):
    """`f(x, π) = Σ_c w_c f_c(x, π_c)`, with π_c the rows of π that belong to context c: a `PolicyObjective`.

    Args:
        lower: the `ContextualMDP` whose weights and rows these are.
        objectives: f_c (C), each a `PolicyObjective` of x and the policy of its own context.
    """

    def __attrs_post_init__(self) -> None:
        self._check_objectives(PolicyObjective)

    def value_and_gradients(self, x: Array, policy: Array) -> tuple[float, Array, Array]:
        """`f`, `Σ_c w_c ∂f_c/∂x`, and `w_c ∂f_c/∂π_c` in the rows of context c. Contexts of weight zero are skipped."""
        check_shape("the policy judged by ContextualObjective", policy, (int(self.lower.starts[-1]), policy.shape[1]))
        total, by_x, by_policy = 0.0, np.zeros_like(x), np.zeros_like(policy)
        for index, objective in enumerate(self.objectives):
            weight, rows = float(self.lower.weights[index]), self.lower.rows(index)
            if weight == 0.0:
                continue
            value, part_by_x, part_by_policy = objective.value_and_gradients(x, policy[rows])
            total += weight * value
            by_x += weight * part_by_x
            by_policy[rows] = weight * part_by_policy
        return total, by_x, by_policy


@attrs.frozen(eq=False, slots=False)
class ContextualTrajectoryObjective(_ContextualParts):
    """`f(x, π) = Σ_c w_c E_c[l_c(d_1, …, d_I; x)]`, where a group's trajectories share a context.

    The weights act through the draw of the context, and are not used here.

    Args:
        lower: the `ContextualMDP` whose rows these are.
        objectives: l_c (C), each a `TrajectoryObjective`, all of one horizon and one number of trajectories.
    """

    def __attrs_post_init__(self) -> None:
        self._check_objectives(TrajectoryObjective)
        for field in ("horizon", "trajectories"):
            values = [int(getattr(objective, field)) for objective in self.objectives]
            if len(set(values)) > 1:
                told = ", ".join(map(str, values))
                raise InputError(f"{field} of the contexts' objectives", told, "one number, the same in all contexts")

    @property
    def horizon(self) -> int:
        """H, the number of steps of a trajectory."""
        return int(self.objectives[0].horizon)

    @property
    def trajectories(self) -> int:
        """I, the number of trajectories of one loss."""
        return int(self.objectives[0].trajectories)

    def loss_and_gradient(self, x: Array, trajectories: Trajectories, rng: np.random.Generator) -> tuple[Array, Array]:
        """The losses of all groups (G,), each by its own context's objective, and the mean of their `∂l/∂x` (n,).

        Raises `InputError` if a group's trajectories come from several contexts.
        """
        contexts = self._contexts_of(trajectories.observations[:, 0])
        losses, gradient = np.empty(contexts.size), np.zeros_like(x)
        for index in np.unique(contexts):
            chosen = contexts == index
            part = _own_states(trajectories, np.repeat(chosen, self.trajectories), int(self.lower.starts[index]))
            losses[chosen], part_gradient = self.objectives[index].loss_and_gradient(x, part, rng)
            gradient += chosen.mean() * part_gradient
        return losses, gradient

    def _contexts_of(self, first: Indices) -> Indices:
        """(G,) the context of each group, from the trajectories' first states."""
        each = (np.searchsorted(self.lower.starts, first, side="right") - 1).reshape(-1, self.trajectories)
        if (each != each[:, :1]).any():
            group = int((each != each[:, :1]).any(axis=1).argmax())
            told = f"from contexts {', '.join(str(int(context)) for context in np.unique(each[group]))}"
            expected = "trajectories of one context, as Simulator.rollout_groups (SupportsGroups) draws them"
            raise InputError(f"group {group} of the trajectories", told, expected)
        contexts: Indices = each[:, 0]
        return contexts


@attrs.frozen(eq=False, slots=False)
class _ContextualBoth(ContextualObjective, ContextualTrajectoryObjective):
    """The sum if every context's objective is both one of the policy and one over trajectories."""

    def __attrs_post_init__(self) -> None:
        ContextualObjective.__attrs_post_init__(self)
        ContextualTrajectoryObjective.__attrs_post_init__(self)


def _own_states(trajectories: Trajectories, rows: Any, first: int) -> Trajectories:
    """Some of the trajectories, with states numbered from the context's first one."""
    part = trajectories.part(rows)
    return attrs.evolve(part, observations=part.observations - first)


def contextual_problem(
    problems: Iterable[BilevelProblem],
    weights: Any = None,
    *,
    name: str = "contextual",
    start: Any = None,
    feasible_set: FeasibleSet | None = None,
    picture: Callable[[Any, Array, Any], None] | None = None,
) -> BilevelProblem:
    """`minimise Σ_c w_c f_c(x, π*_c(x)) over x in X`: one problem of several that share x.

    The contexts' followers become one `ContextualMDP`, so that every algorithm accepts the problem: exact ones average
    over contexts, sampling ones draw the context with the first state. Measures that all problems have are averaged by
    weight, and reported for each context too.

    Args:
        problems: the contexts, each with a follower, an objective, and the same X.
        weights: w (C,), not negative, sum one. Default: uniform.
        name: the problem's name in messages, tables and pictures.
        start: the starting point of runs. Default: that of the first problem.
        feasible_set: X. Default: the problems' own, which must then be the same.
        picture: draws the solution. Default: the first problem's picture of its own context.

    Raises:
        InputError: if there is no problem; if they disagree on the dimension of x, on X, or on their followers'
            discount, temperature or number of actions; if their objectives have no kind in common; if the weights are
            not a distribution.
    """
    parts = _problems(problems)
    lower = ContextualMDP(tuple(problem.lower for problem in parts), weights)
    first = parts[0].picture
    return BilevelProblem(
        lower=lower,
        objective=_objective(lower, [problem.objective for problem in parts]),
        start=parts[0].start if start is None else start,
        feasible_set=_common_set(parts) if feasible_set is None else feasible_set,
        name=name,
        measures=_measures(lower, parts) if all(problem.measures is not None for problem in parts) else None,
        picture=picture if picture is not None or first is None else _first_picture(lower, first),
    )


def _problems(value: Any) -> list[BilevelProblem]:
    try:
        problems = list(value)
    except TypeError:
        raise InputError("problems", kind_words(value), "a list of BilevelProblems, one a context") from None
    if not problems:
        raise InputError("problems", "empty", "at least one BilevelProblem")
    for index, problem in enumerate(problems):
        if not isinstance(problem, BilevelProblem):
            raise InputError(f"problems[{index}]", kind_words(problem), "a BilevelProblem")
    return problems


def _objective(lower: ContextualMDP, objectives: list[Any]) -> Any:
    """The sum, with every kind that all of the objectives have."""
    of_policy = all(isinstance(objective, PolicyObjective) for objective in objectives)
    of_trajectories = all(isinstance(objective, TrajectoryObjective) for objective in objectives)
    if of_policy and of_trajectories:
        return _ContextualBoth(lower, objectives)
    if of_policy:
        return ContextualObjective(lower, objectives)
    if of_trajectories:
        return ContextualTrajectoryObjective(lower, objectives)
    told = ", ".join(type(objective).__name__ for objective in objectives)
    raise InputError("the problems' objectives", told, "all of them PolicyObjective, or all TrajectoryObjective")


def _common_set(problems: list[BilevelProblem]) -> FeasibleSet:
    first = problems[0].feasible_set
    for index, problem in enumerate(problems):
        if not _same_set(problem.feasible_set, first):
            told = kind_words(problem.feasible_set)
            expected = f"equal to the {type(first).__name__} of problems[0], since x is shared; or give feasible_set"
            raise InputError(f"the feasible set of problems[{index}]", told, expected)
    return first


def _same_set(one: FeasibleSet, other: FeasibleSet) -> bool:
    """Whether two sets are the same object, or instances of one attrs class with equal fields."""
    if one is other:
        return True
    kind: Any = type(one)
    if type(other) is not kind or not attrs.has(kind):
        return False
    names = [field.name for field in attrs.fields(kind)]
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)


def _measures(lower: ContextualMDP, problems: list[BilevelProblem]) -> Callable[[Array, Any], Mapping[str, float]]:
    """The contexts' measures: those that all have, averaged, and each context's own."""

    def measures(x: Array, solution: Any) -> dict[str, float]:
        each = [
            dict(problem.measures(x, lower.restrict(x, solution, index)))  # type: ignore[misc]  # all have measures
            for index, problem in enumerate(problems)
        ]
        common = [label for label in each[0] if all(label in own for own in each)]
        averages = {
            label: float(sum(weight * own[label] for weight, own in zip(lower.weights, each, strict=True)))
            for label in common
        }
        own = {f"  {label}, context {index}": own[label] for index, own in enumerate(each) for label in own}
        return averages | own

    return measures


def _first_picture(
    lower: ContextualMDP, picture: Callable[[Any, Array, Any], None]
) -> Callable[[Any, Array, Any], None]:
    def draw(axes: Any, x: Array, solution: Any) -> None:
        picture(axes, x, lower.restrict(x, solution, 0))

    return draw
