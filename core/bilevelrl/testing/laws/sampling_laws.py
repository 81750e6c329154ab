"""The laws of a stochastic estimator: the right expectation, and a correct standard error.

A mean is compared with an exact expectation at `CONFIDENCE` standard errors of that mean: a correct estimator fails in
fewer than one comparison in a million. The smallest bias that is detected depends on the number of calls.
"""

from __future__ import annotations

import math
import time
from typing import Any

import attrs
import numpy as np

from bilevelrl.objectives.protocols import StepwiseObjective, TrajectoryObjective
from bilevelrl.plugins.components import Kind
from bilevelrl.problems.bilevel_problem import BilevelProblem
from bilevelrl.protocols import HyperGradient
from bilevelrl.sampling.solution import SupportsSampling
from bilevelrl.testing.enumeration import Enumeration
from bilevelrl.testing.exact import Exact
from bilevelrl.testing.law import law, stochastic, tags_of
from bilevelrl.testing.laws.estimator_laws import biased, declared_bias, of_policies
from bilevelrl.testing.patience import used_up
from bilevelrl.testing.precise import PRECISE
from bilevelrl.testing.question import given_answer, rng_of
from bilevelrl.testing.variations import OnlySampling
from bilevelrl.testing.violation import NotApplicable, expect, expect_close
from bilevelrl.validation.arrays import Array

ESTIMATOR = Kind.HYPERGRADIENT_ESTIMATOR
CONFIDENCE = 5.0
FEWEST_CALLS, MOST_CALLS = 30, 300
SECONDS_ON_A_PROBLEM = 2.0
PARTS = ("direct", "implicit")
ONE_PERCENT = 0.01
RESOLUTION = 1.2e-3  # a bias of 1 % is then more than eight standard errors
SECONDS_TO_RESOLVE, SECONDS_ELSEWHERE = 15.0, 4.0
CALLS_FOR_SPREAD = 400
CALLS_TO_RESOLVE = 6_000
# Transitions drawn for one mean: more than the seconds allow on a quiet machine.
MOST_DRAWN = 200_000_000


def of_trajectories(subject: Any) -> str:
    """Only for estimators of an expected loss of trajectories, with a simulator."""
    judged = (TrajectoryObjective, StepwiseObjective)
    suits = subject.requires is SupportsSampling and subject.requires_objective in judged
    return "" if suits else "it does not estimate from trajectories"


@attrs.define
class Sample:
    """Running means and variances of an estimator's answers, over independent calls with fresh random numbers."""

    calls: int = 0
    means: Any = 0.0
    squares: Any = 0.0
    said: Any = 0.0

    def add(self, hyper: HyperGradient) -> None:
        """Add an answer: direct, implicit and whole gradient, and the objective."""
        values = np.concatenate([hyper.direct, hyper.implicit, hyper.gradient, [hyper.objective]])
        self.calls += 1
        change = values - self.means
        self.means = self.means + change / self.calls
        self.squares = self.squares + change * (values - self.means)
        if hyper.standard_error is not None:
            self.said = self.said + hyper.standard_error**2

    @property
    def variances(self) -> Array:
        """Of one answer."""
        return np.asarray(self.squares / (self.calls - 1))

    @property
    def standard_errors(self) -> Array:
        """Of the means."""
        return np.asarray(np.sqrt(self.variances / self.calls))

    def parts(self, values: Array) -> dict[str, Array]:
        """A vector of all of them, by name."""
        direct, implicit, gradient = np.split(values[:-1], 3)
        return {"direct": direct, "implicit": implicit, "gradient": gradient, "objective": values[-1:]}


def _one(subject: Any, problem: BilevelProblem, x: Array, solution: Any, key: int) -> HyperGradient:
    hyper: HyperGradient = subject.estimate(problem, x, solution, None, rng_of(key))
    finite = bool(np.isfinite(hyper.gradient).all())
    expect("the gradient", finite, expected="finite numbers", came=hyper.gradient)
    return hyper


def _sampled(
    subject: Any, exact: Enumeration, *, calls: int, seconds: float, resolution: float = 0.0, bias: float = math.inf
) -> Sample:
    """Calls until their number, the draws, the time or the resolution (a share of a part's largest entry) is reached.

    The means are also compared each time the number of calls has doubled, which detects large errors early. Repeated
    comparisons make a false alarm a few times as likely, hence the wider margin.
    """
    problem = attrs.evolve(exact.problem, lower=OnlySampling(exact.problem.lower))
    solution = given_answer(subject, exact.problem, exact.x)
    sample, began, next_look, drawn = Sample(), time.monotonic(), FEWEST_CALLS, 0
    while sample.calls < calls and drawn < MOST_DRAWN:
        hyper = _one(subject, problem, exact.x, solution, sample.calls)
        drawn += hyper.cost.samples
        sample.add(hyper)
        if sample.calls < FEWEST_CALLS:
            continue
        if sample.calls >= next_look and math.isfinite(bias):
            _compare(sample, exact, slack=0.0, bias=bias, confidence=CONFIDENCE + 1.0)
            next_look *= 2
        errors = sample.parts(sample.standard_errors)
        wanted = {part: resolution * float(np.abs(getattr(exact, part)).max()) for part in PARTS}
        if resolution and all(float(errors[part].max()) <= wanted[part] for part in wanted):
            break
        if used_up(seconds, began):
            break
    return sample


def _seconds(problem: BilevelProblem) -> float:
    return SECONDS_TO_RESOLVE if problem is PRECISE[-1] else SECONDS_ELSEWHERE


def _compare(sample: Sample, exact: Enumeration, slack: float, bias: float, confidence: float = CONFIDENCE) -> None:
    means, errors = sample.parts(sample.means), sample.parts(sample.standard_errors)
    size = exact.scale + float(np.abs(exact.direct).max(initial=0.0)) + exact.largest_loss
    for part, expected in (("objective", [exact.objective]), ("direct", exact.direct), ("implicit", exact.implicit)):
        # The errors of the sampled variance itself, and of the enumeration's differences, are far below this.
        allowed = confidence * errors[part] + slack * size + 1e-8 * size
        if part == "implicit":
            allowed = allowed + bias * exact.scale
        expect_close(f"mean {part} of {sample.calls} calls", means[part], expected, allowed)


def unbiased_by_promise(subject: Any) -> str:
    """Only for estimators without the tag biased."""
    return "its tags include biased" if tags_of(subject).biased else ""


@law(ESTIMATOR, of_trajectories, stochastic, unbiased_by_promise, examples=0.1, statistical=True)
def unbiased(subject: Any, problem: BilevelProblem) -> None:
    """`E[direct] = E[∂l/∂x]` and `E[implicit] = τ⁻¹ E[l Σ_h (∇Q* − ∇V*)(s_h, a_h)]`, both by enumeration."""
    exact = Enumeration(problem)
    sample = _sampled(subject, exact, calls=MOST_CALLS, seconds=SECONDS_ON_A_PROBLEM)
    # An event of one in ten thousand trajectories may not have occurred yet.
    _compare(sample, exact, slack=1e-4, bias=0.0)


@law(
    ESTIMATOR,
    of_trajectories,
    stochastic,
    unbiased_by_promise,
    problems="for precise statistics",
    examples=0.0,
    statistical=True,
)
def unbiased_to_one_percent(subject: Any, problem: BilevelProblem) -> str:
    """On problems with little noise each part's mean is the exact one; the last problem reveals a bias of 1 %."""
    shares = _resolved(subject, problem, bias=0.0)
    if problem is PRECISE[-1] and max(shares.values()) > ONE_PERCENT:
        shown = " and ".join(f"{share:.1%} in {part}" for part, share in shares.items())
        budget = f"{SECONDS_TO_RESOLVE:g} s or {CALLS_TO_RESOLVE:,} calls"
        raise NotApplicable(f"in {budget} only a bias of {shown} would be detected; use a larger batch")
    return _remark(shares)


@law(
    ESTIMATOR,
    of_trajectories,
    stochastic,
    biased,
    problems="for precise statistics",
    examples=0.0,
    statistical=True,
)
def bias_is_within_the_declared(subject: Any, problem: BilevelProblem) -> str:
    """`|E[implicit] − exact| ≤ bias_bound(γ) · 2‖c‖₁ max‖∇r‖/(1−γ)`, and the direct part has no bias."""
    bound = declared_bias(subject, problem.lower.model(problem.initial_point(rng_of(0))).discount)
    return _remark(_resolved(subject, problem, bias=bound))


def _resolved(subject: Any, problem: BilevelProblem, *, bias: float) -> dict[str, float]:
    """Compare the means; returns the smallest bias that would usually be detected, as a share of each part."""
    exact = Enumeration(problem)
    seconds = _seconds(problem)
    sample = _sampled(subject, exact, calls=CALLS_TO_RESOLVE, seconds=seconds, resolution=RESOLUTION, bias=bias)
    _compare(sample, exact, slack=0.0, bias=bias)
    errors = sample.parts(sample.standard_errors)
    return {part: CONFIDENCE * float((errors[part] / np.abs(getattr(exact, part))).max()) for part in PARTS}


def _remark(seen: dict[str, float]) -> str:
    return ", ".join(f"a bias of {share:.1%} in {part} would be detected" for part, share in seen.items())


@law(ESTIMATOR, of_trajectories, stochastic, problems="for precise statistics", examples=0.0, statistical=True)
def standard_error_covers(subject: Any, problem: BilevelProblem) -> None:
    """The mean of the reported squared standard errors is the variance of the estimates, up to a factor of 2."""
    exact = Enumeration(problem)
    sample = _sampled(subject, exact, calls=CALLS_FOR_SPREAD, seconds=_seconds(problem))
    if np.ndim(sample.said) == 0:
        raise NotApplicable("it reports no standard error")
    spread = np.sqrt(sample.parts(sample.variances)["gradient"])
    said = np.sqrt(sample.said / sample.calls)
    # The spread of this many calls is known to about a tenth, the mean of the squared errors more precisely.
    low, high = spread / 1.45, spread * 1.45
    covers = bool(((said >= low - 1e-12) & (said <= high + 1e-12)).all())
    off = f"{float((said / np.maximum(spread, 1e-300)).min()):.3g} times the observed variance"
    expect("the reported standard error", covers, expected=spread, came=said, off=off)


@law(ESTIMATOR, of_policies, stochastic, unbiased_by_promise, problems="moderate", examples=0.1, statistical=True)
def mean_agrees_with_forward_sensitivities(subject: Any, problem: BilevelProblem) -> None:
    """`E[gradient] = ∂f/∂x + Σ_sa G_sa dπ*_sa`, for stochastic estimators of an objective of the policy."""
    answer, sample, began = Exact(problem), Sample(), time.monotonic()
    while sample.calls < MOST_CALLS and not used_up(SECONDS_ON_A_PROBLEM, began):
        sample.add(_one(subject, problem, answer.x, answer.solution, sample.calls))
    error = sample.parts(sample.standard_errors)["gradient"]
    allowed = CONFIDENCE * error + 4 * answer.algebra + 1e-8 * answer.size
    expect_close(
        f"mean gradient of {sample.calls} calls", sample.parts(sample.means)["gradient"], answer.forward(), allowed
    )
