"""What a component needs against what a problem offers, in words."""

from __future__ import annotations

from typing import Any

import numpy as np

from bilevelrl.bilevel_problem import BilevelProblem
from bilevelrl.component_registry import Kind
from bilevelrl.plugins import registry
from bilevelrl.protocols import (
    OptimizerState,
    PolicyObjective,
    SampledSolution,
    StepwiseObjective,
    SupportsModel,
    SupportsSampling,
    TabularSolution,
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


def check_shape(what: str, label: str, value: object, shape: tuple[int, ...]) -> None:
    """Raise `InputError` where what a component answered is no array, or not of that shape."""
    if isinstance(value, np.ndarray):
        if value.shape == shape:
            return
        raise InputError(f"the shape of {what} from {label}", str(value.shape), str(shape))
    raise InputError(f"{what} from {label}", kind_words(value), f"an array of shape {shape}")


def check_update(label: str, answer: object) -> tuple[Any, OptimizerState]:
    """An optimizer's answer taken apart; raises `InputError` for anything but x and a state."""
    if not (isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], OptimizerState)):
        raise InputError(f"the answer of {label}", kind_words(answer), "a tuple of x and an OptimizerState")
    return answer


def check_tables(label: str, solution: object) -> None:
    """Raise `InputError` where the tables of a follower's answer do not fit its own model or simulator."""
    if type(solution) is TabularSolution:
        shape = solution.model.rewards.shape
        check_shape("the follower's values", label, solution.values, shape[:1])
    elif type(solution) is SampledSolution:
        shape = (solution.simulator.spec.states, solution.simulator.spec.actions)
    else:
        return
    check_shape("the follower's policy", label, solution.policy, shape)
    check_shape("the follower's action values", label, solution.action_values, shape)


def note_origin(error: Exception, label: str, iteration: int) -> None:
    """Add to a component's own error which component it was, and when; an `InputError` says all by itself."""
    if not isinstance(error, InputError):
        error.add_note(f"raised in {label} at iteration {iteration}")


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
