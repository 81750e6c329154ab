"""The laws of a hyper-gradient, including the independent formulas that an exact one must agree with."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np

from bilevelrl.mdp.soft_mdp import SoftMDP
from bilevelrl.objectives.policy_objectives import LogLikelihoodObjective
from bilevelrl.objectives.protocols import PolicyObjective
from bilevelrl.plugins.components import Kind
from bilevelrl.problems.bilevel_problem import BilevelProblem
from bilevelrl.protocols import HyperGradient
from bilevelrl.testing.exact import Exact, occupancy_of, point_of
from bilevelrl.testing.law import deterministic, exact, law, tags_of, tracking
from bilevelrl.testing.laws.solver_laws import shaping
from bilevelrl.testing.question import INEXACT, ask, needs_model, rng_of
from bilevelrl.testing.rounding import TINY, solve_rounding
from bilevelrl.testing.variations import Altered, ChangedObjective, extended, with_lower
from bilevelrl.testing.violation import NotApplicable, expect, expect_close, expect_same
from bilevelrl.validation.arrays import Array

ESTIMATOR = Kind.HYPERGRADIENT_ESTIMATOR
MOST_CALLS = 3000
NOISE = 8.0  # standard errors, of few directions or blocks


def of_policies(subject: Any) -> str:
    """Only for estimators with a model and an objective of the policy (or any objective)."""
    suits = needs_model(subject) and subject.requires_objective in (PolicyObjective, object)
    return "" if suits else "it uses trajectories only"


def _estimate(subject: Any, problem: BilevelProblem, answer: Exact) -> HyperGradient:
    hyper: HyperGradient = ask(subject, problem, answer.x, solution=answer.solution)
    return hyper


def _tolerance(subject: Any, answer: Exact, rounding: float) -> float:
    """Rounding, and the declared tolerance, which is not relative to gradients that happen to be tiny."""
    return rounding + tags_of(subject).tolerance * (answer.size + answer.unit)


def _weights(hyper: HyperGradient, answer: Exact) -> Array:
    if hyper.occupancy is None:
        raise NotApplicable("its answer has no occupancy")
    weights: Array = hyper.occupancy.dense(answer.mdp.states, answer.mdp.actions).weights
    return weights


# --- Independent answers


@law(ESTIMATOR, of_policies, exact)
def agrees_with_forward_sensitivities(subject: Any, problem: BilevelProblem) -> None:
    """`∇φ = ∂f/∂x + Σ_sa G_sa dπ*_sa`, `dπ* = (π*/τ)(dQ* − dV*)`, `dV* = Σ_a π*(dr + γ dP V*) + γP^π* dV*`."""
    answer = Exact(problem)
    came = _estimate(subject, problem, answer)
    expect_close("gradient", came.gradient, answer.forward(), _tolerance(subject, answer, answer.algebra))


@law(ESTIMATOR, of_policies, exact)
def agrees_with_the_papers_formula(subject: Any, problem: BilevelProblem) -> None:
    """`∇φ = ∂f/∂x + τ⁻¹ (∂_xq)ᵀ(π⊙G) − τ⁻¹ (∂_xT)ᵀ w`, `(I − γP^π)ᵀ w = Uᵀ diag(π) G` (Yang, Gao and Yuan 2025)."""
    answer = Exact(problem)
    came = _estimate(subject, problem, answer)
    expect_close("gradient", came.gradient, answer.papers_formula(), _tolerance(subject, answer, answer.algebra))


@law(ESTIMATOR, of_policies, exact, problems="moderate", examples=0.5)
def agrees_with_central_differences(subject: Any, problem: BilevelProblem) -> None:
    """`∇φ·d = (8(φ₁ − φ₋₁) − (φ₂ − φ₋₂))/12h + O(h⁴)`, `φ_k = φ(x + khd)`, each from a new solution, along random d."""
    answer = Exact(problem)
    came = _estimate(subject, problem, answer)
    direction = rng_of(5).normal(size=answer.x.size)
    direction /= np.linalg.norm(direction)
    expected, error = answer.differences(direction)
    allowed = _tolerance(subject, answer, 8 * error + answer.error * direction.size)
    expect_close("gradient along a direction", came.gradient @ direction, expected, allowed)


@law(ESTIMATOR, of_policies, exact, problems="moderate", examples=0.5)
def agrees_with_the_unrolled_iteration(subject: Any, problem: BilevelProblem) -> None:
    """Reverse-mode differentiation through N soft Bellman backups tends to ∇φ (Franceschi et al. 2018)."""
    answer = Exact(problem)
    discount = answer.mdp.discount
    smallest = 1e-16 * min(answer.mdp.temperature, 1.0) * (1 - discount) ** 2 / (1 + np.abs(answer.values).max())
    backups = 2 if discount < 1e-8 else 2 + int(np.log(smallest) / np.log(discount))
    came = _estimate(subject, problem, answer)
    expect_close("gradient", came.gradient, answer.unrolled(backups), _tolerance(subject, answer, answer.error))


@law(ESTIMATOR, of_policies, exact, problems="fully visited", examples=0.5)
def agrees_with_pseudo_inverse_aid(subject: Any, problem: BilevelProblem) -> None:
    """`∇φ = ∂f/∂x − ∇²_xθ g · pinv(∇²_θθ g) · ∇_θf` at the optimum, softmax logits θ, `g(x, θ) = −V^{π_θ}_x(ρ)`.

    The Hessian is singular (a constant per state moves no probability) but definite on the rest, with eigenvalues down
    to τ·min d_ρ·min π: ρ must reach every state and π* stay away from zero.
    """
    answer = Exact(problem)
    smallest = float(answer.policy.min()) * float(answer.mdp.initial.min())
    if not smallest > 1e-5:
        raise NotApplicable("the lower level's Hessian is singular to rounding")
    came = _estimate(subject, problem, answer)
    condition = 1 / (smallest * (1 - answer.mdp.discount) ** 2)
    allowed = _tolerance(subject, answer, condition * answer.error)
    expect_close("gradient", came.gradient, answer.aid(smallest), allowed)


@law(ESTIMATOR, of_policies, exact)
def matches_demonstrated_features(subject: Any, problem: BilevelProblem) -> None:
    """For `f = −Σ d^E log π`, d^E a demonstrator's occupancy from ρ: `∇φ` pulls back `(d^π*_ρ − d^E)/τ`.

    The classical gradient of maximum-entropy inverse reinforcement learning (Ziebart et al. 2008).
    """
    base = Exact(problem)
    mdp = base.mdp
    demonstrator = np.where(base.policy > TINY, rng_of(6).exponential(size=base.policy.shape) + 1e-3, 0.0)
    demonstrator /= demonstrator.sum(axis=1, keepdims=True)
    shown = np.maximum(occupancy_of(mdp, demonstrator, mdp.initial), 0.0)
    answer = Exact(attrs.evolve(problem, objective=LogLikelihoodObjective(shown)))
    came = _estimate(subject, answer.problem, answer)
    weights = (occupancy_of(mdp, answer.policy, mdp.initial) - shown) / mdp.temperature
    rounding = answer.algebra + solve_rounding(mdp) * answer.size
    expect_close("gradient", came.gradient, answer.implicit(weights), _tolerance(subject, answer, rounding))


@law(ESTIMATOR, of_policies, exact, problems="with a reference")
def reference_measure_is_a_reward_bonus(subject: Any, problem: BilevelProblem) -> None:
    """A reference measure μ is entropy regularisation with the reward `r + τ log μ`: the same gradient."""
    answer = Exact(problem)
    if answer.mdp.reference is None:
        raise NotApplicable("the problem has no reference measure")

    def without(mdp: SoftMDP) -> SoftMDP:
        bonus = 0.0 if mdp.reference is None else mdp.temperature * np.log(mdp.reference)
        return SoftMDP(mdp.transitions, mdp.rewards + bonus, mdp.discount, mdp.temperature, mdp.initial)

    other = Exact(with_lower(problem, Altered(problem.lower, without)))
    came, expected = _estimate(subject, problem, answer), _estimate(subject, other.problem, other)
    allowed = _tolerance(subject, answer, answer.error + other.error)
    expect_close("gradient", came.gradient, expected.gradient, allowed)
    expect_close("gradient", came.gradient, answer.forward(), _tolerance(subject, answer, answer.algebra))


# --- The parts of the answer


@law(ESTIMATOR, of_policies, deterministic)
def direct_part_is_the_objectives(subject: Any, problem: BilevelProblem) -> None:
    """`direct = ∂f/∂x` at the follower's policy, as the objective returns it."""
    answer = Exact(problem)
    came = _estimate(subject, problem, answer)
    floor = (tags_of(subject).tolerance if tags_of(subject).exact else INEXACT) * answer.size
    expect_close("direct", came.direct, answer.by_x, floor + answer.algebra)


@law(ESTIMATOR, of_policies, deterministic)
def objective_is_reported(subject: Any, problem: BilevelProblem) -> None:
    """`objective = f(x, π)` at the given solution, after any earlier estimates."""
    answer = Exact(problem)
    before = ask(subject, problem, answer.x + 0.25)
    came = ask(subject, problem, answer.x, solution=answer.solution, previous=before)
    floor = 1e-12 if tags_of(subject).exact or tags_of(subject).tracking else INEXACT
    expect_close("objective", came.objective, answer.objective, floor * (abs(answer.objective) + answer.strength))


@law(ESTIMATOR, of_policies, deterministic)
def implicit_part_is_one_pullback(subject: Any, problem: BilevelProblem) -> None:
    """`implicit = J_rᵀ r̄ + J_Pᵀ P̄`, `P̄ = γ r̄ ⊗ V*`, r̄ the answer's occupancy; `gradient` is the sum of both parts."""
    answer = Exact(problem)
    came = _estimate(subject, problem, answer)
    expected = answer.implicit(_weights(came, answer))
    expect_close("implicit", came.implicit, expected, _tolerance(subject, answer, answer.algebra))
    expect_same("gradient", came.gradient, came.direct + came.implicit)


@law(ESTIMATOR, of_policies, exact)
def occupancy_obeys_the_flow_equation(subject: Any, problem: BilevelProblem) -> None:
    """`Σ_a r̄_sa = γ Σ_s'a' P_s'a's r̄_s'a'` in every state, so `Σ r̄ = 0`."""
    answer = Exact(problem)
    weights = _weights(_estimate(subject, problem, answer), answer)
    inflow = answer.mdp.discount * np.einsum("sat,sa->t", answer.kernel, weights)
    expect_close("Σ_a r̄", weights.sum(axis=1), inflow, _of_occupancy(subject, answer))
    allowed = answer.mdp.states * _of_occupancy(subject, answer) / (1 - answer.mdp.discount)
    expect_close("Σ r̄", weights.sum(), 0.0, allowed)


@law(ESTIMATOR, of_policies, exact)
def occupancy_is_a_mixture_of_occupancies(subject: Any, problem: BilevelProblem) -> None:
    """`r̄ = Σ_sa c_sa (d_(s,a) − d_s)`, `c = π ⊙ ∂f/∂π / τ`: what a model-free estimator samples."""
    answer = Exact(problem)
    weights = _weights(_estimate(subject, problem, answer), answer)
    expect_close("r̄", weights, answer.mixture(), _of_occupancy(subject, answer))


def _of_occupancy(subject: Any, answer: Exact) -> float:
    per_strength = 2 * answer.mdp.states / (answer.mdp.temperature * (1 - answer.mdp.discount))
    declared = tags_of(subject).tolerance * (1 + answer.strength)
    return (solve_rounding(answer.mdp) * answer.strength + declared) * per_strength + TINY


@law(ESTIMATOR, of_policies, deterministic)
def residual_is_true(subject: Any, problem: BilevelProblem) -> None:
    """The reported residual is the largest violation of the flow equation by the answer's occupancy r̄.

    `(I − γP^π)ᵀλ − (γPᵀc − Σ_a c)` is, term by term, `Σ_a r̄ − γPᵀr̄`: r̄ determines the adjoint's residual.
    """
    answer = Exact(problem)
    came = _estimate(subject, problem, answer)
    if came.residual is None:
        raise NotApplicable("its answer reports no residual")
    weights = _weights(came, answer)
    violated = weights.sum(axis=1) - answer.mdp.discount * np.einsum("sat,sa->t", answer.kernel, weights)
    rounding = _of_occupancy(subject, answer) + solve_rounding(answer.mdp) * float(np.abs(weights).sum())
    expect_close("residual", came.residual, float(np.abs(violated).max()), rounding)


# --- Symmetries


def _with_objective(problem: BilevelProblem, **changes: Any) -> BilevelProblem:
    return attrs.evolve(problem, objective=ChangedObjective(problem.objective, **changes))


@law(ESTIMATOR, of_policies, exact)
def a_number_per_state_changes_nothing(subject: Any, problem: BilevelProblem) -> None:
    """π's rows sum to one, so `∂f/∂π` is known up to a number per state, and ∇φ must not depend on it."""
    answer = Exact(problem)
    shift = rng_of(7).normal(size=(answer.mdp.states, 1))
    moved = _with_objective(problem, answers=lambda value, by_x, by_policy: (value, by_x, by_policy + shift))
    came, expected = _estimate(subject, moved, answer), _estimate(subject, problem, answer)
    larger = Exact(moved)
    allowed = _tolerance(subject, answer, answer.algebra) + _tolerance(subject, larger, larger.algebra)
    expect_close("gradient", came.gradient, expected.gradient, allowed)


def proportionate(subject: Any) -> str:
    """Only for estimators whose bias, if any, is a share of the gradient; that of a fixed penalty is not."""
    bounded = not tags_of(subject).biased or tags_of(subject).bias_bound is not None
    return "" if bounded else "it does not declare its bias as a share of the gradient (bias_bound)"


@law(ESTIMATOR, deterministic, proportionate)
def scaling_the_objective_scales_the_gradient(subject: Any, problem: BilevelProblem) -> None:
    """The gradient of `4f + 3` is `4∇φ`, in both parts, and its objective is `4f + 3`."""
    x = point_of(problem)
    scaled = _with_objective(
        problem,
        answers=lambda value, by_x, by_policy: (4 * value + 3, 4 * by_x, 4 * by_policy),
        losses=lambda losses, by_x: (4 * losses + 3, 4 * by_x),
    )
    came, expected = ask(subject, scaled, x), ask(subject, problem, x)
    answer = Exact(problem)
    tags = tags_of(subject)
    share = tags.tolerance if tags.exact else INEXACT
    allowed = 8 * (answer.algebra + share * answer.size)
    for part in ("direct", "implicit"):
        expect_close(part, getattr(came, part), 4 * getattr(expected, part), allowed)


@law(ESTIMATOR, problems="any")
def irrelevant_parameter_has_no_gradient(subject: Any, problem: BilevelProblem) -> None:
    """A parameter that enters neither the follower's MDP nor f has gradient zero, and the others keep theirs."""
    x = point_of(problem)
    wider = extended(problem, x, lambda mdp: [np.zeros((mdp.states, mdp.actions))])
    came = ask(subject, wider, point_of(wider))
    expect_close("the gradient's length", came.gradient.size, x.size + 1, 0)
    expected = ask(subject, problem, x)
    size = 1e-9 * (1 + float(np.abs(expected.gradient).max(initial=0.0)))
    zero = 0.0 if not tags_of(subject).biased else size
    if came.standard_error is not None:  # zero up to the noise that the estimate reports
        zero += NOISE * float(came.standard_error[-1])
    expect_close("the gradient of an irrelevant parameter", came.gradient[-1], 0.0, zero)
    if not tags_of(subject).biased or tags_of(subject).deterministic:
        expect_close("the other parameters' gradient", came.gradient[:-1], expected.gradient, size)


@law(ESTIMATOR, of_policies, exact)
def constant_rewards_have_no_gradient(subject: Any, problem: BilevelProblem) -> None:
    """A parameter that adds the same to every reward changes no policy: its implicit gradient is zero."""
    answer = Exact(problem)
    wider = extended(problem, answer.x, lambda mdp: [np.ones((mdp.states, mdp.actions))])
    came = ask(subject, wider, point_of(wider), solution=answer.solution)
    other = Exact(wider)
    expect_close("implicit part of a constant", came.implicit[-1], 0.0, _tolerance(subject, other, other.algebra))


@law(ESTIMATOR, of_policies, exact)
def potential_shaping_has_no_gradient(subject: Any, problem: BilevelProblem) -> None:
    """A parameter that adds `γ Σ P_sas' Φ_s' − Φ_s` changes no policy: its implicit gradient is zero."""
    answer = Exact(problem)
    potential = np.cos(np.arange(answer.mdp.states) + 1.0)
    wider = extended(problem, answer.x, lambda mdp: [shaping(mdp, potential)])
    came = ask(subject, wider, point_of(wider), solution=answer.solution)
    other = Exact(wider)
    expect_close("implicit part of shaping", came.implicit[-1], 0.0, _tolerance(subject, other, other.algebra))


@law(ESTIMATOR, of_policies, exact)
def initial_distribution_enters_directly_only(subject: Any, problem: BilevelProblem) -> None:
    """π* does not depend on ρ, so neither does the implicit part, for an f that does not depend on ρ."""
    answer = Exact(problem)
    elsewhere = rng_of(8).dirichlet(np.ones(answer.mdp.states))
    frozen = _with_objective(problem, point=lambda x: answer.x)  # f keeps its own ρ
    moved = with_lower(frozen, Altered(problem.lower, lambda mdp: mdp.replace(initial=elsewhere)))
    came, expected = ask(subject, moved, answer.x), ask(subject, problem, answer.x)
    allowed = _tolerance(subject, answer, answer.algebra)
    expect_close("implicit part with another ρ", came.implicit, expected.implicit, allowed)


@law(ESTIMATOR, of_policies, tracking, examples=0.25, problems="quickly forgotten")
def repeated_calls_converge(subject: Any, problem: BilevelProblem) -> None:
    """In repeated calls at one x and π*, each warm-started from the last, a tracking estimator converges to ∇φ."""
    answer = Exact(problem)
    expected, hyper = answer.forward(), None
    wanted = 1e-7 * answer.size + 4 * answer.algebra
    for call in range(MOST_CALLS):
        hyper = ask(subject, problem, answer.x, previous=hyper, solution=answer.solution, key=call)
        if np.abs(hyper.gradient - expected).max() <= wanted:
            return
    expect_close(f"gradient after {MOST_CALLS} calls", hyper.gradient, expected, wanted)  # type: ignore[union-attr]


def biased(subject: Any) -> str:
    """Only for estimators with the tag biased."""
    return "" if tags_of(subject).biased else "its tags do not include biased"


@law(ESTIMATOR, of_policies, deterministic, biased, problems="moderate")
def bias_is_bounded(subject: Any, problem: BilevelProblem) -> None:
    """A biased deterministic estimate is within `bias_bound(γ)` of ∇φ, as a share of `2‖c‖₁ max‖∇q‖/(1−γ)`."""
    answer = Exact(problem)
    bound = declared_bias(subject, answer.mdp.discount)
    came = _estimate(subject, problem, answer)
    expect_close("gradient", came.gradient, answer.forward(), bound * answer.scale + INEXACT * answer.size)


def declared_bias(subject: Any, discount: float) -> float:
    """`bias_bound(γ)`; raises `NotApplicable` if there is none, or if it is infinite."""
    if not tags_of(subject).biased:
        return 0.0
    said = tags_of(subject).bias_bound
    if said is None:
        raise NotApplicable("it does not bound its bias (bias_bound)")
    bound = float(said(discount))
    expect("bias_bound", bound >= 0, expected="a number of at least 0", came=bound)
    if not np.isfinite(bound):
        raise NotApplicable("its bias_bound is infinite")
    return bound
