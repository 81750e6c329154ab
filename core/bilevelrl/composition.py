"""From an experiment's names and options to the problem and the algorithm they mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bilevelrl import plugins
from bilevelrl.bilevel_problem import BilevelProblem
from bilevelrl.component_registry import Kind, Registry
from bilevelrl.configuration import build, options_of
from bilevelrl.experiment import ROLES, Experiment
from bilevelrl.outer_loop import Algorithm
from bilevelrl.validation import InputError


def compose(experiment: Experiment, registry: Registry | None = None) -> tuple[BilevelProblem, Algorithm]:
    """The problem and the algorithm that the experiment's tables name, from this process's registry by default.

    Raises:
        InputError: for a name that is missing or not registered, and for an option that its component rejects.
    """
    known = plugins.registry() if registry is None else registry
    return compose_problem(experiment, known), compose_algorithm(experiment, known)


def compose_problem(experiment: Experiment, registry: Registry) -> BilevelProblem:
    """The problem that the experiment's table names."""
    name, options = experiment.entries("problem")
    if name is None:
        raise InputError("problem.name", "missing", "the name of a problem; see `bilevelrl list problems`")
    problem: BilevelProblem = registry.create(Kind.PROBLEM, name, options)
    return problem


def compose_algorithm(experiment: Experiment, registry: Registry) -> Algorithm:
    """The recipe with the roles' changes, or the three roles composed."""
    recipe, options = experiment.entries("algorithm")
    base: Algorithm | None = None
    if recipe is not None:
        base = registry.create(Kind.ALGORITHM, recipe, options)
    elif options:
        raise InputError(f"option {next(iter(options))!r} of the algorithm", "given", "an algorithm's name too")
    components: dict[str, Any] = {}
    for role, kind in ROLES.items():
        name, changes = experiment.entries(role)
        if name is not None:
            components[role] = registry.create(kind, name, changes)
        elif base is not None:
            component = getattr(base, role)
            components[role] = build(type(component), options_of(component) | changes) if changes else component
        else:
            raise InputError(f"{role}.name", "missing", "the name of an algorithm, or of all three components")
    return Algorithm(**components, name=_algorithm_name(base, components))


def _algorithm_name(base: Algorithm | None, components: Mapping[str, Any]) -> str:
    if base is not None and all(type(getattr(base, role)) is type(components[role]) for role in ROLES):
        return base.name
    return " + ".join(component.name for component in components.values())
