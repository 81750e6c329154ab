"""The laws of every solver and every estimator."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import attrs
import numpy as np

from bilevelrl.mdp.soft_mdp import SoftMDP
from bilevelrl.plugins.components import Kind
from bilevelrl.problems.bilevel_problem import BilevelProblem
from bilevelrl.protocols import HyperGradient
from bilevelrl.testing.counting import Tally, counted_transitions, counting_linear_algebra
from bilevelrl.testing.exact import point_of
from bilevelrl.testing.law import Condition, Law, deterministic, exact, law
from bilevelrl.testing.question import ask, expect_agreement, facts_of, given_answer, kind_of, needs_model
from bilevelrl.testing.snapshots import arrays_of, restored_estimate, restored_solution
from bilevelrl.testing.variations import (
    Altered,
    ChangedObjective,
    OnlyModel,
    OnlySampling,
    Relabelled,
    Untouched,
    stored_otherwise,
    with_lower,
)
from bilevelrl.testing.violation import NotApplicable, expect, expect_close, expect_same
from bilevelrl.validation.arrays import Array, Indices

BOTH = (Kind.LOWER_LEVEL_SOLVER, Kind.HYPERGRADIENT_ESTIMATOR)


def component_law(
    *conditions: Condition, problems: str = "any", examples: float = 1.0
) -> Callable[[Callable[[Any, Any], None]], Law]:
    """A law of solvers and of estimators."""

    def enter(function: Callable[[Any, Any], None]) -> Law:
        for kind in BOTH:
            made = law(kind, *conditions, problems=problems, examples=examples)(function)
        return made

    return enter


def model_needed(subject: Any) -> str:
    """Only for components with a model: a sampler draws other numbers from a relabelled problem."""
    return "" if needs_model(subject) else "it sees samples only"


def _solution_for(subject: Any, problem: BilevelProblem, x: Array) -> Any:
    """The input of an estimator; a solver has none."""
    return given_answer(subject, problem, x) if kind_of(subject) is Kind.HYPERGRADIENT_ESTIMATOR else None


def _another_point(x: Array) -> Array:
    return x + 0.25


def _expect_same_facts(what: str, came: Any, expected: Any) -> None:
    wanted = facts_of(expected)
    got = facts_of(came)
    expect_same(f"the answer {what}", sorted(got), sorted(wanted))
    for name, value in wanted.items():
        expect_same(f"{name}, {what}", got[name], value)


@component_law(examples=0.5)
def inputs_are_not_mutated(subject: Any, problem: BilevelProblem) -> None:
    """A call does not change x, the model, the solution, the warm start or its own earlier answers."""
    x = point_of(problem)
    model = problem.lower.model(x)
    held = {name: np.array(array) for name, array in vars(model).items() if isinstance(array, np.ndarray)}
    shared = model.replace(rewards=held["rewards"], initial=held["initial"])
    kept = with_lower(problem, Altered(problem.lower, lambda mdp: shared))
    solution = _solution_for(subject, kept, x)
    first = ask(subject, kept, x, solution=solution)
    inputs = {"x": x, "model": shared, "solution": solution, "the previous answer": first}
    before = {
        f"{label}{path}": (array, array.copy()) for label, value in inputs.items() for path, array in arrays_of(value)
    }
    for point in (x, _another_point(x)):
        elsewhere = solution if point is x or solution is None else given_answer(subject, problem, point)
        asked = kept if point is x else problem
        ask(subject, asked, point, previous=first, solution=elsewhere, key=1)
    for path, (array, copied) in before.items():
        expect_same(f"{path} after the call", array, copied)
    expect_same("model.rewards after both calls", shared.rewards, model.rewards)
    expect_same("x after both calls", x, point_of(problem))


@component_law(examples=0.5)
def same_key_same_answer(subject: Any, problem: BilevelProblem) -> None:
    """Equal inputs and equal random streams give equal answers, bit for bit."""
    x = point_of(problem)
    first = copy.deepcopy(facts_of(ask(subject, problem, x, key=7)))
    again = facts_of(ask(subject, problem, x, key=7))
    for name, value in first.items():
        expect_same(f"{name} of a second call with the same key", again.get(name), value)


@component_law(examples=0.5)
def calls_are_independent(subject: Any, problem: BilevelProblem) -> None:
    """An answer does not depend on earlier calls, except through the warm start."""
    x = point_of(problem)
    first = copy.deepcopy(ask(subject, problem, x, key=3))
    ask(subject, problem, _another_point(x), key=4)
    _expect_same_facts("after a call at another x", ask(subject, problem, x, key=3), first)


def _strided(array: Array) -> Array:
    """The same numbers, not contiguous, not writable."""
    wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1]))
    wide[..., ::2] = array
    view = wide[..., ::2]
    view.flags.writeable = False
    return view


def _column_major(value: Any) -> Any:
    changed = {
        field.name: np.asfortranarray(getattr(value, field.name))
        for field in attrs.fields(type(value))
        if isinstance(getattr(value, field.name), np.ndarray) and field.init
    }
    return attrs.evolve(value, **changed)


@component_law(examples=0.5)
def memory_layout_does_not_matter(subject: Any, problem: BilevelProblem) -> None:
    """Strided, read-only and column-major arrays of the same numbers give the same answer, to rounding."""
    x = point_of(problem)
    solution = _solution_for(subject, problem, x)
    expected = ask(subject, problem, x, solution=solution)

    def rearranged(mdp: SoftMDP) -> SoftMDP:
        return mdp.replace(rewards=_strided(mdp.rewards), initial=_strided(mdp.initial))

    objective = ChangedObjective(
        problem.objective, answers=lambda value, by_x, by_policy: (value, _strided(by_x), np.asfortranarray(by_policy))
    )
    moved = attrs.evolve(problem, lower=Altered(problem.lower, rearranged), objective=objective)
    if solution is not None:
        solution = _column_major(solution)
    came = ask(subject, moved, _strided(x), solution=solution)
    expect_agreement("with another memory layout", subject, problem, came, expected, solves_differ=True)


@component_law(deterministic, model_needed, examples=0.5)
def storage_does_not_matter(subject: Any, problem: BilevelProblem) -> None:
    """Dense and sparse storage of one kernel give the same answer, to rounding."""
    x = point_of(problem)
    other = with_lower(problem, Altered(problem.lower, stored_otherwise))
    came, expected = ask(subject, other, x), ask(subject, problem, x)
    expect_agreement("with the other storage of P", subject, problem, came, expected, solves_differ=True)


def _rotation(size: int) -> Indices:
    return np.roll(np.arange(size), 1)[::-1].copy() if size > 2 else np.arange(size)[::-1].copy()


def _renamed(problem: BilevelProblem, x: Array, states: bool) -> tuple[BilevelProblem, Relabelled]:
    mdp = problem.lower.model(x)
    every = np.arange
    lower = Relabelled(
        problem.lower,
        _rotation(mdp.states) if states else every(mdp.states),
        every(mdp.actions) if states else _rotation(mdp.actions),
    )
    objective = ChangedObjective(
        problem.objective,
        answers=lambda value, by_x, by_policy: (value, by_x, lower.table(by_policy)),
        policy=lower.original,
    )
    return attrs.evolve(problem, lower=lower, objective=objective), lower


def _expect_equivariance(subject: Any, problem: BilevelProblem, states: bool) -> None:
    x = point_of(problem)
    renamed, names = _renamed(problem, x, states)
    came, expected = ask(subject, renamed, x), ask(subject, problem, x)
    if not isinstance(expected, HyperGradient):
        if not hasattr(expected, "values"):
            raise NotApplicable("its answer has no table of values")
        tables = {name: names.table(getattr(expected, name)) for name in ("policy", "action_values")}
        expected = attrs.evolve(expected, model=came.model, values=expected.values[names.states], **tables)
    which = "states" if states else "actions"
    expect_agreement(f"with {which} relabelled", subject, problem, came, expected, solves_differ=True)


@component_law(deterministic, model_needed, examples=0.5)
def relabelling_states_permutes_the_answer(subject: Any, problem: BilevelProblem) -> None:
    """Relabelled states give the same answer in the new order, and the same gradient."""
    _expect_equivariance(subject, problem, states=True)


@component_law(deterministic, model_needed, examples=0.5)
def relabelling_actions_permutes_the_answer(subject: Any, problem: BilevelProblem) -> None:
    """Relabelled actions give the same answer in the new order, and the same gradient."""
    _expect_equivariance(subject, problem, states=False)


@component_law(exact, examples=0.5)
def warm_start_changes_the_cost_only(subject: Any, problem: BilevelProblem) -> None:
    """An exact answer does not depend on the warm start."""
    x = point_of(problem)
    expected = ask(subject, problem, x)
    for what, point in (("an answer at another x", _another_point(x)), ("its own answer", x)):
        before = ask(subject, problem, point)
        came = ask(subject, problem, x, previous=before)
        expect_agreement(f"warm-started from {what}", subject, problem, came, expected, solves_differ=True)


@component_law(examples=0.5)
def cost_is_true(subject: Any, problem: BilevelProblem) -> None:
    """The backups, linear solves, products and samples in `cost` are correct; seconds are not negative.

    Work on the component's own copies of P cannot be counted; it must then report at least the counted work.
    """
    x, tally = point_of(problem), Tally()
    solution = _solution_for(subject, problem, x)

    def counted(mdp: SoftMDP) -> SoftMDP:
        return mdp.replace(transitions=counted_transitions(mdp.transitions, tally))

    if needs_model(subject):
        watched = with_lower(problem, Altered(problem.lower, counted))
        solution = None if solution is None else _over(solution, counted(solution.model))
    else:
        watched = with_lower(problem, Altered(problem.lower, lambda mdp: mdp, tally))
        solution = None if solution is None else attrs.evolve(solution, simulator=watched.lower.simulator(x))
    with counting_linear_algebra(tally):
        first = ask(subject, watched, x, solution=solution)
        _compare_costs(first.cost, tally, "of a first call")
        for name in ("backups", "linear_solves", "products", "samples"):
            setattr(tally, name, 0)
        again = ask(subject, watched, x, previous=first, solution=solution, key=1)
        _compare_costs(again.cost, tally, "of a warm-started call")


def _over(solution: Any, model: SoftMDP) -> Any:
    from bilevelrl.mdp.linearization import Linearization

    system = Linearization(model.transitions, model.discount, solution.policy)
    return attrs.evolve(solution, model=model, linearization=system)


def _compare_costs(cost: Any, tally: Tally, which: str) -> None:
    for name in ("backups", "linear_solves", "products", "samples"):
        said, seen = getattr(cost, name), getattr(tally, name)
        correct = said >= seen if tally.seen_raw else said == seen
        expect(f"cost.{name} {which}", correct, expected=seen, came=said, off=f"{said - seen:+d}")


def _spoilt_rewards(mdp: SoftMDP) -> SoftMDP:
    rewards = np.array(mdp.rewards)
    rewards[0, 0] = np.nan
    return mdp.replace(rewards=rewards)


def _spoilt(subject: Any, problem: BilevelProblem) -> BilevelProblem:
    """A problem with NaN at x: in the rewards for a solver, in the objective's values for an estimator."""
    if kind_of(subject) is Kind.LOWER_LEVEL_SOLVER:
        return with_lower(problem, Altered(problem.lower, _spoilt_rewards))
    objective = ChangedObjective(
        problem.objective,
        answers=lambda value, by_x, by_policy: (np.nan, by_x * np.nan, by_policy * np.nan),
        losses=lambda losses, by_x: (losses * np.nan, by_x * np.nan),
    )
    return attrs.evolve(problem, objective=objective)


@component_law(examples=0.25, problems="fully visited")
def failure_is_reported(subject: Any, problem: BilevelProblem) -> None:
    """Values that are not finite give the status `NON_FINITE` or `DIVERGED`, not an exception."""
    with np.errstate(all="ignore"):
        answer = ask(subject, _spoilt(subject, problem), point_of(problem))
    came, is_solver = answer.status, kind_of(subject) is Kind.LOWER_LEVEL_SOLVER
    where = "where r[0, 0] is NaN" if is_solver else "where all of the objective's values are NaN"
    expect(f"the status {where}", not came.usable, expected="NON_FINITE or DIVERGED", came=came.name)


@component_law(examples=0.25, problems="fully visited")
def non_finite_never_converges(subject: Any, problem: BilevelProblem) -> None:
    """An answer with `Status.CONVERGED` has only finite numbers."""
    for asked in (problem, _spoilt(subject, problem)):
        with np.errstate(all="ignore"):
            answer = ask(subject, asked, point_of(problem))
        if not answer.status.converged:
            continue
        for name, value in facts_of(answer).items():
            if not isinstance(value, str):
                finite = bool(np.isfinite(value).all())
                expect(f"{name} with CONVERGED", finite, expected="finite numbers", came=value)


@component_law(examples=0.5)
def saved_and_restored_continues_identically(subject: Any, problem: BilevelProblem) -> None:
    """An answer restored from a file warm-starts the next call like the answer itself, bit for bit.

    Only arrays and numbers are saved; of an estimate, only `carry`.
    """
    x = point_of(problem)
    first = ask(subject, problem, x, key=1)
    elsewhere = _another_point(x)
    second = ask(subject, problem, elsewhere, previous=first, key=2)
    is_solver = kind_of(subject) is Kind.LOWER_LEVEL_SOLVER
    read = restored_solution(subject, problem, elsewhere, second) if is_solver else restored_estimate(second)
    came = ask(subject, problem, x, previous=read, key=3)
    _expect_same_facts("warm-started from a file", came, ask(subject, problem, x, previous=second, key=3))


@component_law(examples=0.5)
def only_what_is_required_is_used(subject: Any, problem: BilevelProblem) -> None:
    """A component that requires `SupportsModel` or `SupportsSampling` uses no other member; a solver, no objective."""
    lower = (OnlyModel if needs_model(subject) else OnlySampling)(problem.lower)
    x = point_of(problem)
    is_solver = kind_of(subject) is Kind.LOWER_LEVEL_SOLVER
    restricted = attrs.evolve(problem, lower=lower, objective=Untouched() if is_solver else problem.objective)

    def answer(asked: BilevelProblem) -> Any:
        # A new solution each time: a used one may contain a factorisation, which changes the last digits.
        return ask(subject, asked, x, solution=_solution_for(subject, problem, x))

    _expect_same_facts("with only what it requires", answer(restricted), answer(problem))


@component_law(examples=0.25)
def answer_is_float64(subject: Any, problem: BilevelProblem) -> None:
    """Every array of an answer is float64."""
    x = point_of(problem)
    answer = ask(subject, problem, x)
    for name, value in facts_of(answer).items():
        if isinstance(value, np.ndarray) and not name.startswith(("carry", "arrays", "occupancy.observations")):
            fits = value.dtype == np.float64 or value.dtype.kind in "iu"
            expect(f"the type of {name}", fits, expected="float64", came=str(value.dtype))
    if isinstance(answer, HyperGradient):
        expect_close("the length of the gradient", answer.gradient.size, x.size, 0)
