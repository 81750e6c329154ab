"""Certificates are never below the true error, are near it where that is not rounding, and say why there is none."""

from __future__ import annotations

import re
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given, strategies as st

import bilevelrl as bl
from certified import certified_draws, random_draw
from precise_answers import EXTENDED, hypergradient, long
from slowness import slow_unless
from strategies import OBJECTIVES, drawn_contexts, drawn_objective, drawn_problems, seeds

extended = pytest.mark.skipif(not EXTENDED, reason="the truth needs more digits than this machine's long doubles have")
ABOVE_ROUNDING = 1e-9
EXACT_PROBLEMS: dict[str, dict[str, Any]] = {
    "contract-design": {},
    "four-rooms": {},
    "frozenlake-shaping": {},
    "frozenlake-shaping, finite horizon": {"horizon": 50},
    "inverse-rl": {},
    "stackelberg-game": {},
    "synthetic-quadratic": {},
}


def length(vector: Any) -> float:
    return float(np.sqrt((vector * vector).sum()))


@extended
@pytest.mark.parametrize("corrections", [0, 10])
@given(draw=certified_draws())
def test_the_bound_is_never_below_the_true_error(corrections: int, draw: Any) -> None:
    """That is the theorem, rounding included. Hypothesis looks for corners, and shrinks what breaks it."""
    error, (certificate,) = draw.judged(corrections)
    assert error <= certificate.bound, str(certificate)


@extended
@pytest.mark.parametrize("draws", slow_unless((60).__eq__, [60, 200]))
def test_the_bound_is_within_two_orders_of_magnitude_in_the_median(draws: int) -> None:
    """On the draws of docs/examples/certificates.py, the first of them; all ten thousand take minutes."""
    judged = [random_draw(seed).judged(0, 10) for seed in range(draws)]
    broken = [(error, *map(str, both)) for error, both in judged if not all(error <= each.bound for each in both)]
    assert broken == []
    ratios = {True: [], False: []}
    for error, (as_it_is, corrected) in judged:
        if 0 < error < np.inf:
            ratios[True].append(corrected.bound / error)
        if ABOVE_ROUNDING < error < np.inf:
            ratios[False].append(as_it_is.bound / error)
    # The promise is 100 for each; an answer as exact as rounding allows has a bound without corrections that is looser.
    assert len(ratios[True]) > 0.75 * draws
    assert len(ratios[False]) > 0.25 * draws
    assert np.median(ratios[True]) < 100
    assert np.median(ratios[False]) < 100


@extended
@given(contexts=drawn_contexts(), seed=seeds, corrections=st.sampled_from((0, 10)))
def test_the_bound_holds_over_contexts(contexts: Any, seed: int, corrections: int) -> None:
    """Their followers are one `ContextualMDP`, whose bounds are those of the parts side by side."""
    parts, weights = contexts
    rng, x = np.random.default_rng(seed), parts[0].x
    parts = [attrs.evolve(part, x=x) for part in parts]
    objectives = [drawn_objective(part, OBJECTIVES[rng.integers(len(OBJECTIVES))], rng) for part in parts]
    each = [bl.BilevelProblem(part.lower, own) for part, own in zip(parts, objectives, strict=True)]
    problem = bl.problems.contextual_problem(each, weights)
    solution = bl.lower_level_solver("soft-value-iteration", sweeps=20).solve(problem, x, None, rng)
    with np.errstate(all="ignore"):  # as in the outer loop
        hyper = bl.hypergradient_estimator("implicit").estimate(problem, x, solution, None, rng)
    if hyper.occupancy is None:  # a policy that underflowed: a loss that is infinite
        return
    certificate = bl.certificates.certify(problem, x, solution, hyper, corrections=corrections)
    total = sum(
        long(weight) * hypergradient(part, own)
        for part, own, weight in zip(parts, objectives, problem.lower.weights, strict=True)
        if weight > 0
    )
    assert length(long(hyper.gradient) - total) <= certificate.bound, str(certificate)


@given(drawn=drawn_problems(), seed=seeds, size=st.sampled_from((1e-6, 1.0, 1e6)))
def test_a_wrong_gradient_gets_a_bound_that_covers_what_is_wrong_with_it(drawn: Any, seed: int, size: float) -> None:
    """Whatever computed the gradient, the certificate does not trust it."""
    rng = np.random.default_rng(seed)
    problem = bl.BilevelProblem(drawn.lower, drawn_objective(drawn, "quadratic", rng))
    solution = bl.lower_level_solver("soft-policy-iteration").solve(problem, drawn.x, None, rng)
    right = bl.hypergradient_estimator("implicit").estimate(problem, drawn.x, solution, None, rng)
    slip = size * rng.normal(size=drawn.dimension)
    wrong = attrs.evolve(right, direct=right.direct + slip)
    good, bad = (bl.certificates.certify(problem, drawn.x, solution, hyper) for hyper in (right, wrong))
    assert good.bound + bad.bound >= np.linalg.norm(slip)


@pytest.mark.parametrize("name", EXACT_PROBLEMS)
def test_the_catalogues_problems_are_certified(name: str) -> None:
    """M-SoBiRL's gradient after a few iterations is far from exact, and its certificate says how far."""
    problem = bl.problem(name.partition(",")[0], **EXACT_PROBLEMS[name])
    run = bl.algorithm("m-sobirl").run(problem, iterations=5, seed=0)
    _, exact = bl.value_and_gradient(run.problem, run.x)
    certificate, error = run.certificate(), np.linalg.norm(run.gradient - exact)
    assert error > 1e-6  # else this would compare rounding with rounding
    assert error * (1 - 1e-6) <= certificate.bound <= 1.5 * error, str(certificate)
    assert certificate.bound <= run.certificate(corrections=0).bound


def test_a_certificate_reads_as_a_sentence_of_its_parts() -> None:
    run = bl.algorithm("m-sobirl").run(bl.problem("inverse-rl"), iterations=3, seed=0)
    certificate = run.certificate()
    assert certificate.holds
    parts = [certificate.measured, certificate.follower, certificate.objective]
    parts += [certificate.adjoint, certificate.rounding]
    assert min(parts) >= 0
    assert sum(parts) == pytest.approx(certificate.bound, rel=1e-12)
    assert str(certificate).startswith(f"‖gradient − ∇φ(x)‖₂ ≤ {certificate.bound:.3g} (measured ")
    assert certificate.corrections == certificate.cost.linear_solves - 1 > 0


def test_a_slip_whose_square_underflows_is_measured() -> None:
    """At a discount of 1e-208 whole gradients are that small; `np.linalg.norm` of them is zero."""
    zero = bl.objectives.QuadraticObjective(x_weight=0.0, policy_weight=0.0)
    assert certified(follower(), zero, direct=np.array([3e-200, 4e-200])).bound >= 5e-200
    assert certified(follower(), zero, direct=np.array([-3e-200, 0.0])).bound >= 3e-200


# What has no bound says so.


@attrs.frozen(eq=False)
class OwnReward:
    """A user's part, with what a part must have and no more."""

    dimension = 2

    def __call__(self, x: bl.Array) -> bl.Array:
        return np.outer([1.0, 2.0], x)

    def pullback(self, x: bl.Array, cotangent: bl.Array) -> bl.Array:
        return np.array([1.0, 2.0]) @ cotangent


@attrs.frozen(eq=False)
class OwnTransitions:
    """Likewise; they do not depend on x, which the certificate cannot know."""

    dimension = 2

    def __call__(self, x: bl.Array) -> bl.mdp.Transitions:
        return bl.mdp.DenseTransitions(KERNEL)

    def pullback(self, x: bl.Array, weights: bl.Array, continuation: bl.Array) -> bl.Array:
        return np.zeros(2)


@attrs.frozen(eq=False)
class OwnObjective:
    """A user's objective, likewise."""

    def value_and_gradients(self, x: bl.Array, policy: bl.Array) -> tuple[float, bl.Array, bl.Array]:
        return float(policy[0, 0]), np.zeros_like(x), np.eye(2)[:1].T * np.eye(2)[0]


KERNEL = np.full((2, 2, 2), 0.5)
LINEAR = bl.parametric.LinearReward(np.zeros((2, 2)), np.eye(4)[:, :2])
QUADRATIC = bl.objectives.QuadraticObjective()
WITHOUT_NORMS = bl.parametric.CallableReward(OwnReward(), OwnReward().pullback, 2)
LIKELIHOOD = bl.objectives.LogLikelihoodObjective(np.ones((2, 2)))
STAYING = np.eye(2)[:, None, :].repeat(2, axis=1)
FAR_STATES = bl.parametric.LinearReward(np.array([[0.0, 0.0], [1.0, 1.0]]), 1e-6 * np.eye(4)[:, :2])


def certified(lower: Any, objective: Any, *, corrections: int = 10, **changes: Any) -> bl.certificates.Certificate:
    problem, x, rng = bl.BilevelProblem(lower, objective, name="toll"), np.array([0.3, -0.2]), np.random.default_rng(0)
    solution = bl.lower_level_solver("soft-value-iteration", sweeps=1).solve(problem, x, None, rng)
    hyper = bl.hypergradient_estimator("implicit").estimate(problem, x, solution, None, rng)
    solution = attrs.evolve(solution, **changes.pop("solution", {}))
    return bl.certificates.certify(problem, x, solution, attrs.evolve(hyper, **changes), corrections=corrections)


def follower(rewards: Any = LINEAR, transitions: Any = KERNEL, discount: float = 0.5, temperature: float = 1.0) -> Any:
    return bl.ParametricMDP(transitions, rewards, discount, temperature)


@pytest.mark.parametrize(
    ("certificate", "sentence"),
    [
        (lambda: certified(follower(OwnReward()), QUADRATIC), "an OwnReward does not say .* row_norms(x), which"),
        (lambda: certified(follower(WITHOUT_NORMS), QUADRATIC), "a CallableReward does not say .* give it `norms`"),
        (
            lambda: certified(follower(transitions=OwnTransitions()), QUADRATIC),
            "an OwnTransitions does not say .* row_norms(x, values, radius)",
        ),
        (
            lambda: certified(follower(bl.parametric.Slice(OwnReward(), 0, 2)), QUADRATIC),
            "an OwnReward does not say .* row_norms(x), which",
        ),
        (lambda: certified(follower(), OwnObjective()), "an OwnObjective does not say .* gradient_change("),
        (
            lambda: certified(follower(), bl.objectives.WeightedSum([(1.0, OwnObjective())])),
            "an OwnObjective does not say .* gradient_change(",
        ),
        (lambda: certified(follower(), QUADRATIC, occupancy=None, corrections=0), "no occupancy; allow corrections"),
        (
            lambda: certified(follower(), QUADRATIC, solution={"values": np.full(2, np.nan)}, corrections=0),
            "no finite table of values; allow corrections",
        ),
        (lambda: certified(follower(), QUADRATIC, direct=np.full(2, np.nan)), "a value is not finite"),
        (
            lambda: certified(follower(discount=float(np.nextafter(1.0, 0.0))), QUADRATIC),
            "so close to 1 that 1 − γ is lost in rounding",
        ),
        (
            lambda: certified(follower(FAR_STATES, STAYING, temperature=1e-3, discount=0.9), LIKELIHOOD, corrections=0),
            "the part named objective has no finite bound: the follower's solution is too far from optimal",
        ),
    ],
)
def test_where_there_is_no_bound_the_certificate_says_why(certificate: Any, sentence: str) -> None:
    """A component without a bound can be solved and differentiated as any other; only this is missing."""
    made = certificate()
    assert not made.holds
    assert made.bound == np.inf
    assert re.search(sentence.replace("(", r"\(").replace(")", r"\)"), made.reason), made.reason
    assert str(made) == f"no bound: {made.reason}"


def test_values_that_are_missing_are_computed_where_corrections_are_allowed() -> None:
    """So that a model-free solver's answer, which has none, gets a certificate too."""
    there, missing = (certified(follower(), QUADRATIC, solution=change) for change in ({}, {"values": None}))
    assert missing.bound == pytest.approx(there.bound, rel=1e-9)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("gymnasium-preferences", "problem 'gymnasium-preferences' has no transition model (SupportsModel)"),
        ("kl-rlhf", "the objective of problem 'kl-rlhf' is not one of the policy (PolicyObjective)"),
    ],
)
def test_a_problem_that_is_not_model_based_has_no_certificate(name: str, sentence: str) -> None:
    problem = bl.problem(name)
    x = np.zeros(problem.dimension)
    hyper = bl.HyperGradient(x, x, 0.0, None, bl.Cost(), bl.Status.CONVERGED)
    assert bl.certificates.certify(problem, x, None, hyper).reason == sentence


@pytest.mark.parametrize(
    ("x", "gradient", "corrections", "message"),
    [
        (np.zeros(3), np.zeros(2), 10, "the shape of x is (3,); expected (2,)"),
        (np.zeros(2), np.zeros(3), 10, "the shape of hyper.gradient is (3,); expected (2,)"),
        (np.zeros(2), np.zeros(2), -1, "corrections is -1; expected an integer of at least 0"),
    ],
)
def test_a_callers_mistake_is_told_in_one_sentence(x: Any, gradient: Any, corrections: int, message: str) -> None:
    problem = bl.BilevelProblem(follower(), QUADRATIC)
    hyper = bl.HyperGradient(gradient, gradient, 0.0, None, bl.Cost(), bl.Status.CONVERGED)
    with pytest.raises(bl.InputError, match=re.escape(message)):
        bl.certificates.certify(problem, x, None, hyper, corrections=corrections)
