"""The laws of a soft Bellman operator, for other implementations of it.

The subject is a function `(mdp, v) ↦ Backup`, as `bilevelrl.mdp.soft_backup` is.
"""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np

from bilevelrl.mdp.passes import Backup
from bilevelrl.mdp.soft_mdp import SoftMDP
from bilevelrl.problems.bilevel_problem import BilevelProblem
from bilevelrl.testing.exact import backed_up, dense_kernel, point_of
from bilevelrl.testing.law import OPERATOR, law
from bilevelrl.testing.question import rng_of
from bilevelrl.testing.rounding import EPSILON, backup_rounding
from bilevelrl.testing.violation import expect, expect_close
from bilevelrl.validation.arrays import Array
from bilevelrl.validation.errors import kind_words


@attrs.frozen
class _Asked:
    """An operator on a problem's MDP, with values to which it is applied."""

    operator: Any
    mdp: SoftMDP
    one: Array
    two: Array

    @classmethod
    def of(cls, operator: Any, problem: BilevelProblem) -> _Asked:
        mdp, rng = problem.lower.model(point_of(problem)), rng_of(41)
        one, two = (rng.normal(size=mdp.states) * 10.0 ** rng.uniform(-1, 2) for _ in range(2))
        return cls(operator, mdp, np.asarray(one), np.asarray(two))

    def backup(self, values: Array, mdp: SoftMDP | None = None) -> Backup:
        answer: Backup = self.operator(self.mdp if mdp is None else mdp, values)
        expect("the answer", isinstance(answer, Backup), expected="a Backup", came=kind_words(answer))
        return answer

    def values(self, values: Array, mdp: SoftMDP | None = None) -> Array:
        return self.backup(values, mdp).values

    def rounding(self, *values: Array) -> float:
        return backup_rounding(self.mdp, *values)


@law(OPERATOR)
def is_the_log_sum_exp_of_one_backup(operator: Any, problem: BilevelProblem) -> None:
    """`q = r + γPv`, `(Tv)_s = τ log Σ_a μ_sa exp(q_sa/τ)`, `π_sa = μ_sa exp((q_sa − (Tv)_s)/τ)`."""
    asked = _Asked.of(operator, problem)
    came = asked.backup(asked.one)
    values, policy, action_values = backed_up(asked.mdp, asked.one)
    rounding = asked.rounding(asked.one)
    expect_close("q(v)", came.action_values, action_values, rounding)
    expect_close("T v", came.values, values, rounding)
    expect_close("π(v)", came.policy, policy, 4 * rounding / asked.mdp.temperature + 8 * EPSILON)
    expect_close("row sums of π(v)", came.policy.sum(axis=1), np.ones(values.size), 4 * policy.shape[1] * EPSILON)


@law(OPERATOR)
def is_a_contraction(operator: Any, problem: BilevelProblem) -> None:
    """`‖Tu − Tv‖∞ ≤ γ‖u − v‖∞`."""
    asked = _Asked.of(operator, problem)
    apart = asked.mdp.discount * float(np.abs(asked.one - asked.two).max())
    slack = 2 * asked.rounding(asked.one, asked.two)
    expect_close("T u", asked.values(asked.one), asked.values(asked.two), apart + slack)


@law(OPERATOR)
def is_monotone(operator: Any, problem: BilevelProblem) -> None:
    """`u ≤ v` implies `Tu ≤ Tv`."""
    asked = _Asked.of(operator, problem)
    higher = asked.one + np.abs(asked.two)
    fall = float((asked.values(asked.one) - asked.values(higher)).max())
    slack = 2 * asked.rounding(asked.one, higher)
    expect("T u − T v", fall <= slack, expected="at most 0", came=fall)


@law(OPERATOR)
def shifts_with_a_constant(operator: Any, problem: BilevelProblem) -> None:
    """`T(v + c·1) = Tv + γc·1`, and π(v) does not change."""
    asked = _Asked.of(operator, problem)
    before, after = asked.backup(asked.one), asked.backup(asked.one + 3.0)
    rounding = 2 * asked.rounding(asked.one, asked.one + 3.0)
    expect_close("T(v + 3)", after.values, before.values + 3 * asked.mdp.discount, rounding)
    expect_close("π(v + 3)", after.policy, before.policy, 4 * rounding / asked.mdp.temperature)


@law(OPERATOR)
def is_convex(operator: Any, problem: BilevelProblem) -> None:
    """T is jointly convex in (r, v): at the midpoint it is at most the mean of both ends."""
    asked = _Asked.of(operator, problem)
    other = asked.mdp.replace(rewards=asked.mdp.rewards + rng_of(42).normal(size=asked.mdp.rewards.shape))
    between = asked.mdp.replace(rewards=(asked.mdp.rewards + other.rewards) / 2)
    chord = (asked.values(asked.one) + asked.values(asked.two, other)) / 2
    rise = float((asked.values((asked.one + asked.two) / 2, between) - chord).max())
    slack = 2 * asked.rounding(asked.one, asked.two) + backup_rounding(other, asked.two)
    expect("T at the middle, above the mean", rise <= slack, expected="at most 0", came=rise)


@law(OPERATOR)
def derivative_is_the_discounted_chain(operator: Any, problem: BilevelProblem) -> None:
    """`∂T/∂v = γP^π`, `P^π_ss' = Σ_a π_sa P_sas'`, by central differences along a direction."""
    asked = _Asked.of(operator, problem)
    direction = asked.two / np.abs(asked.two).max()
    # log-sum-exp of width τ: its third derivative is at most 2/τ² along a direction of size 1
    step = 1e-4 * asked.mdp.temperature
    quotient = (asked.values(asked.one + step * direction) - asked.values(asked.one - step * direction)) / (2 * step)
    policy = asked.backup(asked.one).policy
    expected = asked.mdp.discount * np.einsum("sa,sat,t->s", policy, dense_kernel(asked.mdp), direction)
    allowed = step**2 / asked.mdp.temperature**2 + asked.rounding(asked.one) / step
    expect_close("∂T/∂v along a direction", quotient, expected, allowed)


@law(OPERATOR)
def neither_overflows_nor_underflows(operator: Any, problem: BilevelProblem) -> None:
    """At τ = 1e-3 and values of a thousand `T v` is finite, and between the largest q and that plus `τ log Σ_a μ`."""
    asked = _Asked.of(operator, problem)
    mdp = asked.mdp
    cold = SoftMDP(mdp.transitions, mdp.rewards, mdp.discount, 1e-3, mdp.initial, mdp.reference)
    values = 1000 * np.sign(asked.one)
    expected, _, _ = backed_up(cold, values)
    with np.errstate(over="raise", invalid="raise"):
        came = asked.values(values, cold)
    expect_close("T v", came, expected, backup_rounding(cold, values))
