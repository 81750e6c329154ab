"""The common part of solver and estimator: an inner component, and the problem of one context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np

import bilevelrl as bl


class OfInner:
    """A member of the inner component; for the class itself, of the default inner component."""

    def __init__(self, default: type) -> None:
        self._default = default

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        return self._default if instance is None else getattr(instance.inner, self._name)


@attrs.frozen(eq=False)
class Question:
    """The data that the tasks of all contexts share."""

    component: Any
    x: bl.Array


def is_mapping(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    """An attrs validator for options by name."""
    if not isinstance(value, Mapping):
        raise bl.InputError(attribute.name, repr(value), "a table of options")


def draws(component: Any) -> bool:
    """Whether a component may draw random numbers."""
    return not component.tags.deterministic


def streams(component: Any, rng: np.random.Generator, count: int) -> list[np.random.Generator | None]:
    """A stream for each context; none for a deterministic component, since streams cost more than a small solve."""
    return list(rng.spawn(count)) if draws(component) else [None] * count


def stream_or_idle(stream: np.random.Generator | None) -> np.random.Generator:
    """The stream of a task, or one for a component that does not draw."""
    return bl.randomness.stream(0, "idle") if stream is None else stream


def problem_of(problem: Any, context: int) -> bl.BilevelProblem:
    """A context's own problem: its follower, its objective where each context has one."""
    objective = problem.objective.objectives[context] if is_sum(problem) else problem.objective
    own: bl.BilevelProblem = attrs.evolve(
        problem,
        lower=problem.lower.contexts[context],
        objective=objective,
        name=f"{problem.name}, context {context}",
        start=None,
        measures=None,
        picture=None,
        configuration=None,
    )
    return own


def is_sum(problem: bl.Problem) -> bool:
    """Whether the objective is `Σ_c w_c f_c` over the contexts of the follower."""
    kinds = bl.problems.ContextualObjective | bl.problems.ContextualTrajectoryObjective
    return isinstance(problem.objective, kinds) and problem.objective.lower is problem.lower


def check_contexts(label: str, component: Any, problem: bl.Problem) -> None:
    """Raise `IncompatibleError` if a context does not offer what the inner component needs."""
    for index, context in enumerate(problem.lower.contexts):
        if not isinstance(context, component.requires):
            needed = f"{label} needs {component.requires.__name__} of each context for {component.name!r}"
            raise bl.IncompatibleError(f"{needed}; context {index} of problem {problem.name!r} does not offer it")


SEVERITY = (
    bl.Status.CONVERGED,
    bl.Status.FELL_BACK,
    bl.Status.BUDGET_SPENT,
    bl.Status.STAGNATED,
    bl.Status.INTERRUPTED,
    bl.Status.STOPPED,
    bl.Status.DIVERGED,
    bl.Status.NON_FINITE,
)


def worst(statuses: Sequence[bl.Status]) -> bl.Status:
    """The worst status, which must be reported."""
    return max(statuses, key=SEVERITY.index)
