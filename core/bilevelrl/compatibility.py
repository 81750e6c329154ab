"""What a component needs against what a problem offers, in words."""

from __future__ import annotations

from typing import Any

from bilevelrl.bilevel_problem import BilevelProblem
from bilevelrl.component_registry import Kind
from bilevelrl.plugins import registry
from bilevelrl.protocols import (
    PolicyObjective,
    StepwiseObjective,
    SupportsModel,
    SupportsSampling,
    TrajectoryObjective,
)
from bilevelrl.validation import IncompatibleError, InputError, kind_words

NEEDS: dict[type, str] = {
    SupportsModel: "a transition model",
    SupportsSampling: "a simulator",
    PolicyObjective: "an objective of the policy",
    TrajectoryObjective: "an objective over trajectories",
    StepwiseObjective: "an objective that adds up over the steps of a trajectory",
}


def check_protocol(field: str, value: object, protocol: Any) -> None:
    """Raise `InputError` for a class instead of an instance, and for an object that is no such thing."""
    if isinstance(value, type):
        raise InputError(field, f"the class {value.__name__}", f"an instance, such as {value.__name__}()")
    if not isinstance(value, protocol):
        raise InputError(field, kind_words(value), f"a {protocol.__name__}")


def check_requirement(
    kind: Kind, role: str, component: Any, member: str, problem: BilevelProblem, offered: object
) -> None:
    """Raise `IncompatibleError` where the problem does not offer what a component requires, naming what would work."""
    wanted = getattr(component, member)
    if isinstance(offered, wanted):
        return
    alternatives = (SupportsModel, SupportsSampling, PolicyObjective, TrajectoryObjective)
    has = " and ".join(p.__name__ for p in alternatives if isinstance(offered, p)) or type(offered).__name__
    working = [
        repr(entry.name)
        for entry in registry().of_kind(kind)
        if isinstance(problem.lower, getattr(entry.component, "requires", object))
        and isinstance(problem.objective, getattr(entry.component, "requires_objective", object))
    ]
    plural = role[0].upper() + role[1:] + "s"
    advice = f"{plural} that would work: {', '.join(working)}" if working else f"No registered {role} would work"
    raise IncompatibleError(
        f"{role} {component.name!r} needs {NEEDS.get(wanted, 'more')} ({wanted.__name__}); "
        f"problem {problem.name!r} offers only {has}. {advice}"
    )
