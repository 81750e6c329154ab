"""How a law calls a component: the inputs, the outputs, and the comparison of two answers."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np

from bilevelrl.mdp.solution import SupportsModel, TabularSolution
from bilevelrl.objectives.protocols import PolicyObjective
from bilevelrl.plugins.components import Kind
from bilevelrl.problems.bilevel_problem import BilevelProblem
from bilevelrl.protocols import Cost, HyperGradient, LowerLevelSolution, Status
from bilevelrl.randomness import stream
from bilevelrl.sampling.solution import SampledSolution
from bilevelrl.testing.exact import Exact, solved
from bilevelrl.testing.law import tags_of
from bilevelrl.testing.rounding import TINY, policy_error, value_error
from bilevelrl.testing.violation import expect, expect_close
from bilevelrl.validation.arrays import Array
from bilevelrl.validation.errors import kind_words

# The allowed difference of two deterministic but inexact answers to two forms of one question, relative to the answer's
# natural size: an iteration that stops at a threshold may stop a step sooner.
INEXACT = 1e-8


def rng_of(key: int) -> np.random.Generator:
    """The generator of a key: the same key, the same numbers."""
    return stream(key, "law")


def kind_of(subject: Any) -> Kind:
    """Whether a component solves or estimates."""
    return Kind.LOWER_LEVEL_SOLVER if hasattr(subject, "solve") else Kind.HYPERGRADIENT_ESTIMATOR


def needs_model(subject: Any) -> bool:
    """Whether it requires a transition model."""
    return subject.requires is SupportsModel


def given_answer(subject: Any, problem: BilevelProblem, x: Array) -> Any:
    """The follower's exact solution at x, in the form that matches an estimator's `requires`."""
    solution = solved(problem.lower.model(x))
    if needs_model(subject):
        return solution
    return SampledSolution(
        problem.lower.simulator(x), solution.policy, solution.action_values, 0.0, Status.CONVERGED, Cost()
    )


def ask(
    subject: Any, problem: BilevelProblem, x: Array, *, previous: Any = None, solution: Any = None, key: int = 0
) -> Any:
    """One call, at x: of a solver, warm-started by `previous`; of an estimator, with the follower's exact solution.

    Raises:
        LawViolation: if the answer does not satisfy the protocol.
    """
    if kind_of(subject) is Kind.LOWER_LEVEL_SOLVER:
        answer = subject.solve(problem, x, previous, rng_of(key))
        expect("the answer", isinstance(answer, LowerLevelSolution), expected="a solution", came=kind_words(answer))
        return answer
    given = given_answer(subject, problem, x) if solution is None else solution
    hyper = subject.estimate(problem, x, given, previous, rng_of(key))
    expect("the answer", isinstance(hyper, HyperGradient), expected="a HyperGradient", came=kind_words(hyper))
    return hyper


def facts_of(answer: Any) -> dict[str, Any]:
    """The contents of an answer, without its seconds and handles."""
    if isinstance(answer, HyperGradient):
        names: tuple[str, ...] = ("direct", "implicit", "objective", "residual", "standard_error")
        facts = {name: getattr(answer, name) for name in names if getattr(answer, name) is not None}
        measure: Any = answer.occupancy
        if measure is not None:
            facts |= {f"occupancy.{name}": value for name, value in attrs.asdict(measure).items()}
    else:
        names = ("policy", "values", "action_values", "residual")
        facts = {name: getattr(answer, name) for name in names if hasattr(answer, name)}
        if not isinstance(answer.policy, np.ndarray):  # a function of observations is what the arrays make it
            facts = {f"arrays[{name!r}]": array for name, array in answer.arrays().items()}
            facts |= {f"figures[{name!r}]": figure for name, figure in answer.figures().items()}
    facts |= {f"carry[{name!r}]": value for name, value in getattr(answer, "carry", {}).items()}
    facts |= {f"cost.{unit}": count for unit, count in answer.cost.counts.items()}
    facts["status"] = answer.status.name
    return {name: value for name, value in facts.items() if value is not None}


def expect_agreement(
    what: str, subject: Any, problem: BilevelProblem, came: Any, expected: Any, *, solves_differ: bool = False
) -> None:
    """Check that two answers to one question agree, up to rounding and the subject's tolerance.

    Args:
        what: which two, in words.
        subject: the component that gave them.
        problem: the question, with a policy objective if the subject is an estimator.
        came: an answer.
        expected: another, of the same shape.
        solves_differ: whether an exact solver may have stopped at different points within its tolerance.
    """
    if isinstance(expected, HyperGradient):
        allowed = gradient_tolerance(subject, problem)
        for name in ("direct", "implicit"):
            expect_close(f"{name}, {what}", getattr(came, name), getattr(expected, name), allowed)
        size = 1 + abs(expected.objective)
        expect_close(f"objective, {what}", came.objective, expected.objective, allowed + INEXACT * size)
        return
    if not isinstance(expected.policy, np.ndarray):  # a function of observations is what the arrays make it
        for name, array in expected.arrays().items():
            expect_close(f"array {name!r}, {what}", came.arrays()[name], array, INEXACT * (1 + np.abs(array)))
        return
    of_values, of_policy = solution_tolerances(subject, expected, came if solves_differ else expected)
    if isinstance(expected, TabularSolution):
        expect_close(f"values, {what}", came.values, expected.values, of_values)
        expect_close(f"action_values, {what}", came.action_values, expected.action_values, of_values)
    expect_close(f"policy, {what}", came.policy, expected.policy, np.expm1(min(of_policy, 30.0)) + TINY)


def gradient_tolerance(subject: Any, problem: BilevelProblem) -> float:
    """The allowed difference of a deterministic gradient between two forms of one question."""
    if not isinstance(problem.objective, PolicyObjective):
        return INEXACT
    answer = Exact(problem)
    tags = tags_of(subject)
    if tags.exact:
        return 4 * answer.algebra + tags.tolerance * (answer.size + answer.unit)
    return 4 * answer.algebra + INEXACT * answer.size + tags.tolerance * answer.rough_size


def solution_tolerances(subject: Any, *answers: Any) -> tuple[float, float]:
    """The allowed difference of V, and of log π, between a solver's answers, from the residuals that it reports."""
    of_values = of_policy = 0.0
    for answer in answers:
        if isinstance(answer, TabularSolution):
            residual = answer.residual if tags_of(subject).exact else 0.0
            of_values += 4 * value_error(answer.model, answer.values, residual)
            of_policy += 4 * policy_error(answer.model, answer.values, residual)
        else:
            of_values, of_policy = of_values + INEXACT, of_policy + INEXACT
    return of_values, of_policy
