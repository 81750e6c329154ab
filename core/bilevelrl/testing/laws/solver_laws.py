"""The laws of a lower-level solver: the fixed point `V* = T V*`, its bounds and its symmetries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bilevelrl.mdp.soft_mdp import SoftMDP
from bilevelrl.mdp.solution import TabularSolution
from bilevelrl.plugins.components import Kind
from bilevelrl.problems.bilevel_problem import BilevelProblem
from bilevelrl.protocols import Status
from bilevelrl.testing.exact import (
    POLICY_ITERATION_SLACK,
    backed_up,
    dense_kernel,
    hard_optimum,
    point_of,
    policy_values,
    solved,
)
from bilevelrl.testing.law import exact, law, stochastic, tags_of, tracking
from bilevelrl.testing.question import ask, needs_model, rng_of, solution_tolerances
from bilevelrl.testing.rounding import EPSILON, TINY, backup_rounding, policy_error, solve_rounding, value_error
from bilevelrl.testing.variations import Altered, with_lower
from bilevelrl.testing.violation import NotApplicable, expect, expect_close
from bilevelrl.validation.arrays import Array, Mask

SOLVER = Kind.LOWER_LEVEL_SOLVER
MOST_CALLS = 5000


def tabular(subject: Any) -> str:
    """Only for solvers that return V and q of a model."""
    return "" if needs_model(subject) else "it uses samples only, and returns no values of a model"


def _answer(subject: Any, problem: BilevelProblem) -> TabularSolution:
    answer = ask(subject, problem, point_of(problem))
    if not isinstance(answer, TabularSolution):
        raise NotApplicable(f"it returns a {type(answer).__name__}, not tables of values")
    return answer


def _changed(problem: BilevelProblem, change: Callable[[SoftMDP], SoftMDP]) -> BilevelProblem:
    return with_lower(problem, Altered(problem.lower, change))


def _model(problem: BilevelProblem) -> SoftMDP:
    model: SoftMDP = problem.lower.model(point_of(problem))
    return model


@law(SOLVER, tabular)
def action_values_are_one_backup_of_the_values(subject: Any, problem: BilevelProblem) -> None:
    """`q_sa = r_sa + γ Σ_s' P_sas' V_s'`, with the V of the same answer."""
    answer = _answer(subject, problem)
    mdp = _model(problem)
    _, _, expected = backed_up(mdp, answer.values)
    expect_close("action_values", answer.action_values, expected, backup_rounding(mdp, answer.values))


@law(SOLVER, tabular)
def policy_is_the_softmax_of_the_action_values(subject: Any, problem: BilevelProblem) -> None:
    """`π_sa = μ_sa exp(q_sa/τ) / Σ_b μ_sb exp(q_sb/τ)`, with the q of the same answer; rows sum to one."""
    answer = _answer(subject, problem)
    mdp = _model(problem)
    preferences = answer.action_values / mdp.temperature
    if mdp.reference is not None:
        preferences = preferences + np.log(mdp.reference)
    weights = np.exp(preferences - preferences.max(axis=1, keepdims=True))
    expected = weights / weights.sum(axis=1, keepdims=True)
    rounding = 2 * backup_rounding(mdp, answer.values) / mdp.temperature
    expect_close("policy", answer.policy, expected, expected * rounding + 8 * EPSILON)
    expect_close("row sums of policy", answer.policy.sum(axis=1), np.ones(mdp.states), 4 * mdp.actions * EPSILON)


@law(SOLVER, tabular)
def residual_is_true(subject: Any, problem: BilevelProblem) -> None:
    """The reported residual is `‖T V − V‖∞` of the values in the same answer."""
    answer = _answer(subject, problem)
    mdp = _model(problem)
    after, _, _ = backed_up(mdp, answer.values)
    expected = float(np.abs(after - answer.values).max())
    expect_close("residual", answer.residual, expected, 2 * backup_rounding(mdp, answer.values))


@law(SOLVER, tabular)
def residual_bounds_the_error(subject: Any, problem: BilevelProblem) -> None:
    """`‖V − V*‖∞ ≤ ‖T V − V‖∞ / (1−γ)`, with the reported residual: T is a γ-contraction."""
    answer = _answer(subject, problem)
    best = solved(_model(problem))
    allowed = value_error(best.model, answer.values, answer.residual)
    allowed += value_error(best.model, best.values, best.residual)
    expect_close("values", answer.values, best.values, allowed)


@law(SOLVER, tabular)
def policy_error_is_bounded(subject: Any, problem: BilevelProblem) -> None:
    """`|log π − log π*| ≤ 2γ‖V − V*‖∞/τ`, with the error of V bounded by the reported residual."""
    answer = _answer(subject, problem)
    best = solved(_model(problem))
    allowed = policy_error(best.model, answer.values, answer.residual)
    allowed += policy_error(best.model, best.values, best.residual)
    # Below TINY logarithms have no digits left.
    known = (answer.policy > TINY) & (best.policy > TINY)
    expect_close("log π", _log(answer.policy, known), _log(best.policy, known), allowed + 8 * EPSILON)


def _log(policy: Array, known: Mask) -> Array:
    return np.log(policy, out=np.zeros_like(policy), where=known)


@law(SOLVER, tabular)
def converged_means_within_tolerance(subject: Any, problem: BilevelProblem) -> None:
    """`Status.CONVERGED` guarantees `‖V − V*‖∞ ≤ tolerance`, the tolerance that its tags declare.

    For a solver without the tag exact, its residual must be small relative to V.
    """
    answer = _answer(subject, problem)
    if not answer.status.converged:
        done = answer.status is Status.STAGNATED or not tags_of(subject).exact
        expect("the status of an exact solver", done, expected="CONVERGED or STAGNATED", came=answer.status.name)
        return
    best = solved(_model(problem))
    allowed = tags_of(subject).tolerance if tags_of(subject).exact else 1e-6 * (1 + float(np.abs(best.values).max()))
    allowed += value_error(best.model, best.values, best.residual) + value_error(best.model, answer.values, 0.0)
    expect_close("values with CONVERGED", answer.values, best.values, allowed)


@law(SOLVER, tabular, exact)
def values_are_those_of_the_policy(subject: Any, problem: BilevelProblem) -> None:
    """V is the regularised value of the policy in the same answer: `V^π = Σ_a π (r − τ log(π/μ)) + γP^π V^π`."""
    answer = _answer(subject, problem)
    mdp = _model(problem)
    expected = policy_values(mdp, answer.policy)
    allowed = 4 * value_error(mdp, answer.values, answer.residual)
    allowed += 4 * solve_rounding(mdp) * (1 + float(np.abs(expected).max()))
    expect_close("values", answer.values, expected, allowed)


@law(SOLVER, tabular, exact)
def no_policy_is_better(subject: Any, problem: BilevelProblem) -> None:
    """No policy's regularised value exceeds V in any state; tried for a uniform, a greedy and a nearby one."""
    answer = _answer(subject, problem)
    mdp = _model(problem)
    allowed = 2 * value_error(mdp, answer.values, answer.residual)
    for what, policy in _rivals(answer.policy):
        values = policy_values(mdp, policy)
        slack = allowed + 4 * solve_rounding(mdp) * (1 + float(np.abs(values).max()))
        worst = int(np.argmax(values - answer.values))
        gain = float((values - answer.values)[worst])
        expect(
            f"V in state {worst} against {what}", gain <= slack, expected=values, came=answer.values, off=f"{gain:.3g}"
        )


def _rivals(policy: Array) -> list[tuple[str, Array]]:
    shape, rng = policy.shape, rng_of(1)
    uniform = np.full(shape, 1.0 / shape[1])
    greedy = [(f"always action {a}", np.eye(shape[1])[np.full(shape[0], a)]) for a in range(shape[1])]
    drawn = rng.dirichlet(np.ones(shape[1]), size=shape[0])
    return [("the uniform policy", uniform), *greedy, ("a policy nearby", 0.9 * policy + 0.1 * drawn)]


def _compare(what: str, subject: Any, came: TabularSolution, expected: TabularSolution, values: Array) -> None:
    """The policies of two answers agree, and the values of one are `values`, up to the residuals that they report."""
    of_values, of_policy = solution_tolerances(subject, came, expected)
    expect_close(f"policy, {what}", came.policy, expected.policy, np.expm1(min(of_policy, 30.0)) + TINY)
    expect_close(f"values, {what}", came.values, values, of_values)


@law(SOLVER, tabular, exact)
def constant_rewards_change_no_policy(subject: Any, problem: BilevelProblem) -> None:
    """`r + c` does not change π* and adds `c/(1−γ)` to V*."""
    answer = _answer(subject, problem)
    mdp = _model(problem)
    for constant in (1.0, -3.0):

        def shifted(mdp: SoftMDP, constant: float = constant) -> SoftMDP:
            return mdp.replace(rewards=mdp.rewards + constant)

        came = _answer(subject, _changed(problem, shifted))
        values = answer.values + constant / (1 - mdp.discount)
        _compare(f"with {constant:+g} on all rewards", subject, came, answer, values)


@law(SOLVER, tabular, exact)
def potential_shaping_changes_no_policy(subject: Any, problem: BilevelProblem) -> None:
    """`r_sa + γ Σ P_sas' Φ_s' − Φ_s` does not change π* and subtracts Φ from V* (Ng, Harada and Russell 1999)."""
    answer = _answer(subject, problem)
    potential = np.cos(np.arange(_model(problem).states) + 1.0)
    came = _answer(subject, _changed(problem, lambda mdp: mdp.replace(rewards=mdp.rewards + shaping(mdp, potential))))
    _compare("with potential shaping", subject, came, answer, answer.values - potential)


def shaping(mdp: SoftMDP, potential: Array) -> Array:
    """`γ Σ P_sas' Φ_s' − Φ_s` (S, A)."""
    return np.asarray(mdp.discount * np.einsum("sat,t->sa", dense_kernel(mdp), potential) - potential[:, None])


@law(SOLVER, tabular, exact)
def low_temperature_tends_to_the_hard_optimum(subject: Any, problem: BilevelProblem) -> None:
    """With μ = 1, `0 ≤ V* − V_hard ≤ τ log|A|/(1−γ)`: as τ → 0 the hard-optimal value."""

    def cooled(mdp: SoftMDP) -> SoftMDP:
        return SoftMDP(mdp.transitions, mdp.rewards, mdp.discount, 0.05, mdp.initial)

    answer = _answer(subject, _changed(problem, cooled))
    mdp = cooled(_model(problem))
    best = hard_optimum(mdp)
    bonus = mdp.temperature * np.log(mdp.actions) / (1 - mdp.discount)
    slack = 2 * value_error(mdp, answer.values, answer.residual)
    size = 1 + float(np.abs(best).max())
    slack += 8 * solve_rounding(mdp) * size + 4 * POLICY_ITERATION_SLACK * size / (1 - mdp.discount)
    expect_close("values at τ = 0.05", answer.values, best + bonus / 2, bonus / 2 + slack)


@law(SOLVER, tabular, exact, problems="with a reference")
def reference_measure_is_a_reward_bonus(subject: Any, problem: BilevelProblem) -> None:
    """A reference measure μ is entropy regularisation with the reward `r + τ log μ`: the same V* and π*."""
    if _model(problem).reference is None:
        raise NotApplicable("the problem has no reference measure")
    answer = _answer(subject, problem)

    def without(mdp: SoftMDP) -> SoftMDP:
        bonus = 0.0 if mdp.reference is None else mdp.temperature * np.log(mdp.reference)
        return SoftMDP(mdp.transitions, mdp.rewards + bonus, mdp.discount, mdp.temperature, mdp.initial)

    came = _answer(subject, _changed(problem, without))
    _compare("with τ log μ in the rewards", subject, came, answer, answer.values)


@law(SOLVER, tabular, exact)
def temperature_and_rewards_scale_together(subject: Any, problem: BilevelProblem) -> None:
    """`(c·r, c·τ)` does not change π* and multiplies V* by c: only the ratio of r and τ affects the policy."""
    answer = _answer(subject, problem)
    factor = 4.0

    def scaled(mdp: SoftMDP) -> SoftMDP:
        rewards, temperature = factor * mdp.rewards, factor * mdp.temperature
        return SoftMDP(mdp.transitions, rewards, mdp.discount, temperature, mdp.initial, mdp.reference)

    came = _answer(subject, _changed(problem, scaled))
    _compare("with r and τ times 4", subject, came, answer, factor * answer.values)


def _raised(subject: Any, problem: BilevelProblem, amounts: Array) -> TabularSolution:
    return _answer(subject, _changed(problem, lambda mdp: mdp.replace(rewards=mdp.rewards + amounts)))


@law(SOLVER, tabular, exact, examples=0.5)
def higher_rewards_give_higher_values(subject: Any, problem: BilevelProblem) -> None:
    """`r ≤ r'` implies `V* ≤ V'*`: T is monotone."""
    answer = _answer(subject, problem)
    amounts = rng_of(2).random(_model(problem).rewards.shape)
    came = _raised(subject, problem, amounts)
    slack, _ = solution_tolerances(subject, answer, came)
    fall = float((answer.values - came.values).max())
    expect("V with higher rewards", fall <= slack, expected=answer.values, came=came.values, off=f"{fall:.3g}")


@law(SOLVER, tabular, exact, examples=0.5)
def values_move_no_more_than_rewards(subject: Any, problem: BilevelProblem) -> None:
    """`‖V*(r) − V*(r')‖∞ ≤ ‖r − r'‖∞/(1−γ)`: T is a γ-contraction."""
    answer = _answer(subject, problem)
    mdp = _model(problem)
    amounts = rng_of(3).uniform(-1, 1, size=mdp.rewards.shape)
    came = _raised(subject, problem, amounts)
    slack, _ = solution_tolerances(subject, answer, came)
    allowed = float(np.abs(amounts).max()) / (1 - mdp.discount) + slack
    expect_close("values with other rewards", came.values, answer.values, allowed)


@law(SOLVER, tabular, exact, examples=0.5)
def values_are_convex_in_rewards(subject: Any, problem: BilevelProblem) -> None:
    """`V*((r + r')/2) ≤ (V*(r) + V*(r'))/2`: T is convex and monotone."""
    answer = _answer(subject, problem)
    amounts = rng_of(4).normal(size=_model(problem).rewards.shape)
    middle, end = _raised(subject, problem, amounts / 2), _raised(subject, problem, amounts)
    slack, _ = solution_tolerances(subject, answer, middle, end)
    chord = (answer.values + end.values) / 2
    rise = float((middle.values - chord).max())
    expect("V between two rewards", rise <= slack, expected=chord, came=middle.values, off=f"{rise:.3g}")


@law(SOLVER, tabular, tracking, examples=0.25, problems="quickly forgotten")
def repeated_calls_converge(subject: Any, problem: BilevelProblem) -> None:
    """In repeated calls at one x, each warm-started from the last, a tracking solver converges to V*."""
    x, best = point_of(problem), solved(_model(problem))
    floor = 4 * value_error(best.model, best.values, 0.0)
    answer, calls = ask(subject, problem, x), 1
    while answer.residual > (1 - best.model.discount) * 1e-9 + floor and calls < MOST_CALLS:
        answer, calls = ask(subject, problem, x, previous=answer, key=calls), calls + 1
    allowed = 1e-9 + 2 * floor / (1 - best.model.discount)
    expect_close(f"values after {calls} calls", answer.values, best.values, allowed)


@law(SOLVER, stochastic, problems="for learners")
def learns_the_optimal_policy(subject: Any, problem: BilevelProblem) -> None:
    """`‖π − π*‖∞ ≤ tolerance · (1 + span V*/τ)`, with the tags' tolerance, if ρ reaches every state and γ ≤ 0.9.

    Q is learnt from samples, with an error that grows with the span of the values; it enters π divided by τ. The
    logarithm of a rarely taken action's probability cannot be learnt, so probabilities are compared.
    """
    tolerance = tags_of(subject).tolerance
    if not tolerance:
        raise NotApplicable("its tags declare no tolerance")
    answer, best = ask(subject, problem, point_of(problem)), solved(_model(problem))
    if not isinstance(answer.policy, np.ndarray):
        raise NotApplicable(f"its policy is a {type(answer.policy).__name__}, not a table")
    expect_close("row sums of policy", answer.policy.sum(axis=1), np.ones(best.model.states), 1e-12)
    allowed = tolerance * (1 + float(np.ptp(best.values)) / best.model.temperature)
    expect_close("policy", answer.policy, best.policy, allowed)
