"""The entry points: what they refuse, how they tell a violation, what becomes of a subject that hangs."""

import re
import threading

import attrs
import numpy as np
import pytest

import bilevelrl as bl
from bilevelrl import testing
from bilevelrl.plugins.components import Kind
from bilevelrl.testing import search
from kit.planted import estimators, optimizers, solvers

SOLVER, ESTIMATOR = Kind.LOWER_LEVEL_SOLVER, Kind.HYPERGRADIENT_ESTIMATOR
LAW = "agrees_with_forward_sensitivities"


def implicit():
    return bl.hypergradient_estimator("implicit")


class Wrong:
    """∂f/∂x twice."""

    name = "wrong"
    requires = bl.mdp.SupportsModel
    requires_objective = bl.objectives.PolicyObjective
    accepts = bl.mdp.TabularSolution
    tags = bl.Tags("exact")

    def estimate(self, problem, x, solution, previous, rng):
        hyper = implicit().estimate(problem, x, solution, previous, rng)
        return attrs.evolve(hyper, direct=2 * hyper.direct)


# --- What a violation tells


def test_a_violation_tells_what_was_expected_and_what_came_and_the_smallest_example():
    with pytest.raises(testing.ChecksFailed) as failed:
        testing.check_hypergradient_estimator(Wrong, laws=["direct_part_is_the_objectives"])
    told = str(failed.value)
    assert "law direct_part_is_the_objectives does not hold for hyper-gradient estimator 'wrong'" in told
    assert "formula:  `direct = ∂f/∂x` at the follower's policy" in told
    assert "it is 2 times what was expected" in told
    outcome = failed.value.report["direct_part_is_the_objectives"]
    problem = eval(outcome.violation.example, {"np": np, "bl": bl, "testing": testing})
    assert problem.lower.model(problem.start).states == 1
    with pytest.raises(testing.LawViolation):
        testing.LAWS[ESTIMATOR, "direct_part_is_the_objectives"](Wrong(), problem)
    testing.LAWS[ESTIMATOR, "direct_part_is_the_objectives"](implicit(), problem)


def test_a_law_says_when_it_does_not_apply():
    law = testing.LAWS[ESTIMATOR, "unbiased"]
    with pytest.raises(testing.NotApplicable, match="it does not estimate from trajectories"):
        law(implicit(), None)


def test_an_exception_of_the_subject_is_a_violation_with_its_cause():
    class Raises(Wrong):
        def estimate(self, problem, x, solution, previous, rng):
            raise ZeroDivisionError("no luck")

    report = testing.check_hypergradient_estimator(Raises, laws=[LAW], strict=False)
    violation = report[LAW].violation
    assert "came:     ZeroDivisionError: no luck" in str(violation)
    assert isinstance(violation.__cause__, ZeroDivisionError)


# --- Budgets, seeds


def test_a_seed_draws_the_same_problems_and_another_seed_others():
    seen = []

    class Watching(Wrong):
        def estimate(self, problem, x, solution, previous, rng):
            seen.append(testing.source(problem.lower))
            return implicit().estimate(problem, x, solution, previous, rng)

    runs = []
    for seed in (0, 0, 1):
        seen.clear()
        testing.check_hypergradient_estimator(Watching, laws=[LAW], seed=seed, examples=10)
        runs.append(list(seen))
    assert len(runs[0]) == 10
    assert runs[0] == runs[1] != runs[2]


def test_own_problems_replace_the_kits():
    sizes = set()

    class Watching(Wrong):
        def estimate(self, problem, x, solution, previous, rng):
            sizes.add((solution.model.states, solution.model.discount))
            return implicit().estimate(problem, x, solution, previous, rng)

    own = testing.bilevel_problems(max_states=1, discount=0.25)
    testing.check_hypergradient_estimator(Watching, laws=[LAW], problems=own)
    assert sizes == {(1, 0.25)}


# --- Expected failures


def test_an_expected_failure_passes_and_is_told():
    expected = {"direct_part_is_the_objectives": "counts it twice"}
    report = testing.check_hypergradient_estimator(
        Wrong, laws=list(expected), expected_failed_checks=expected, shrink=False
    )
    assert report["direct_part_is_the_objectives"].result == "broken, as expected"


def test_an_expected_failure_that_holds_fails():
    expected = {LAW: "was wrong once"}
    with pytest.raises(testing.ChecksFailed, match=r"expected to be broken \(was wrong once\), but holds: take it off"):
        testing.check_hypergradient_estimator(implicit, laws=[LAW], expected_failed_checks=expected)


def test_an_unknown_law_is_refused_with_the_close_matches():
    for options in ({"laws": ["cost_is_tru"]}, {"expected_failed_checks": {"cost_is_tru": "?"}}):
        with pytest.raises(bl.validation.UnknownNameError, match=r"'cost_is_tru'.*cost_is_true"):
            testing.check_hypergradient_estimator(implicit, **options)


@testing.parametrize_with_checks(
    [Wrong],
    laws=["direct_part_is_the_objectives", "objective_is_reported"],
    expected_failed_checks={"direct_part_is_the_objectives": "counts it twice"},
    examples=10,
)
def test_parametrized_checks_know_expected_failures(check):
    check()


def test_parametrized_checks_bear_the_names_of_component_and_law():
    mark = testing.parametrize_with_checks([implicit, lambda: bl.upper_level_optimizer("adam")]).mark
    ids = [parameter.id for parameter in mark.args[1]]
    assert f"implicit-{LAW}" in ids
    assert "adam-first_step_descends" in ids
    assert "implicit-unbiased" not in ids, "laws that do not apply are not listed"
    assert len(set(ids)) == len(ids)


# --- Bad input


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (implicit(), "factory is an Implicit.*; expected a function that makes a fresh component, or its class"),
        (lambda step: implicit(), "TypeError: .*missing 1 required positional argument.*give options in a lambda"),
        (lambda: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda: 7, "makes is .*int.* without 'name', .*'estimate'.*; expected a hyper-gradient estimator"),
        (lambda: estimators.AdjointEstimator, "expected a hyper-gradient estimator"),
        (solvers.ExactSolver, "expected a hyper-gradient estimator"),
    ],
)
def test_a_factory_that_makes_no_estimator_is_refused(factory, message):
    with pytest.raises(bl.InputError, match=message):
        testing.check_hypergradient_estimator(factory)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tags": None}, "tags of 'changed' is not declared; expected a bilevelrl.Tags"),
        ({"tags": "exact"}, "tags of 'changed' is .*str"),
        ({"requires": bl.sampling.SupportsSampling}, "tags of 'changed' is exact, of one that sees samples only"),
        (
            {"tags": bl.Tags("exact", bias_bound=lambda discount: 0.5)},
            "tags of 'changed' is not biased, with a bias_bound above zero",
        ),
    ],
)
def test_tags_that_contradict_the_component_are_refused(changes, message):
    made = type("Changed", (Wrong,), {"name": "changed"} | changes)
    with pytest.raises(bl.InputError, match=message):
        testing.check_hypergradient_estimator(made)


@pytest.mark.parametrize(
    ("promises", "message"),
    [
        ({"exactness": "exact", "deterministic": False}, "tags is exact and not deterministic; expected exact with"),
        ({"exactness": "tracking", "deterministic": False}, "tags is tracking and not deterministic"),
        ({"exactness": "unbiased"}, "tags is unbiased and deterministic; expected unbiased with deterministic=False"),
        ({"exactness": "perfect"}, "tags.exactness is 'perfect'; expected one of 'exact', 'tracking', 'unbiased'"),
        ({"exactness": "exact", "tolerance": -1.0}, "tolerance is -1.0"),
        ({"exactness": "exact", "deterministic": 1}, "deterministic is 1"),
    ],
)
def test_tags_that_contradict_each_other_are_refused(promises, message):
    with pytest.raises(bl.InputError, match=message):
        bl.Tags(**promises)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"examples": 0}, "examples is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"deadline": 0.0}, "deadline is 0.0; expected a positive number of seconds"),
    ],
)
def test_budgets_that_are_none_are_refused(options, message):
    with pytest.raises(bl.InputError, match=message):
        testing.check_hypergradient_estimator(implicit, **options)


def test_a_problem_is_checked_as_it_is():
    with pytest.raises(bl.InputError, match=r"problem is .*str.*; expected a BilevelProblem"):
        testing.check_problem("gridworld")
    report = testing.check_problem(bl.problem("synthetic-quadratic"))
    assert not report.failures
    assert report["pullback_is_the_derivative"].result == "holds"


# --- A subject that hangs


def test_a_subject_that_hangs_is_told_and_not_called_again():
    calls, answered = [], threading.Event()

    class Sleeper(Wrong):
        def estimate(self, problem, x, solution, previous, rng):
            calls.append(1)
            answered.wait()
            return implicit().estimate(problem, x, solution, previous, rng)

    try:
        report = testing.check_hypergradient_estimator(Sleeper, laws=[LAW, "cost_is_true"], deadline=1.0, strict=False)
    finally:
        answered.set()
    assert len(calls) == 1
    assert "expected: an answer within the deadline of 1 s" in str(report[LAW].violation)
    assert report["cost_is_true"].result == "skipped"
    assert report["cost_is_true"].detail == f"the subject hung in {LAW}"


@pytest.mark.parametrize("patience", ["0", "-1", "inf", "nan", "much"])
def test_patience_that_is_none_is_refused(patience, monkeypatch):
    monkeypatch.setenv("BILEVELRL_CHECK_PATIENCE", patience)
    with pytest.raises(bl.InputError, match=f"BILEVELRL_CHECK_PATIENCE is '{patience}'; expected a positive number"):
        testing.check_upper_level_optimizer(optimizers.Descent)


def test_ctrl_c_is_not_taken_for_an_answer():
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search.within(600.0, interrupted)


# --- Reports


def test_a_report_counts_what_held_and_what_did_not():
    report = testing.check_upper_level_optimizer(optimizers.Descent, examples=5)
    assert re.match(r"upper-level optimizer '.*': 0 of \d+ laws failed \(\d+ holds\)", str(report))
    assert all(outcome.examples >= 1 for outcome in report)
    assert not report.failures
