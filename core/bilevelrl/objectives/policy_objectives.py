"""Upper-level objectives `f(x, π)` of a tabular policy, with their gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np

from bilevelrl.mdp.linearization import Linearization
from bilevelrl.mdp.soft_mdp import SoftMDP
from bilevelrl.mdp.solution import SupportsModel
from bilevelrl.objectives.judged_returns import JudgedReturn
from bilevelrl.objectives.protocols import PolicyObjective
from bilevelrl.occupancy import DenseOccupancy
from bilevelrl.validation.arrays import Array, as_array, check_shape
from bilevelrl.validation.errors import InputError, kind_words, value_words
from bilevelrl.validation.fields import as_float, is_flag, is_real


@attrs.frozen(eq=False)
class ReturnObjective:
    """Minus the true return: `f(x, π) = −ρ̄ᵀ (I − γ̄P̄^π)^{-1} Σ_a π_sa r̄_sa`, unregularised, in an MDP M̄ of its own.

    The policy gradient theorem gives `∂f/∂π_sa = −d^π(s) Q̄^π(s,a)` with `d^π` the discounted state occupancy of π in
    M̄ from its initial distribution ρ̄ (Sutton et al. 2000). If M̄ itself depends on x, `∂f/∂x` is the pullback of
    minus the occupancy, with `γ̄V̄` for the transitions and `V̄` for the initial distribution.

    Args:
        true_mdp: M̄: a `SoftMDP`, or a `SupportsModel` (say, a `ParametricMDP`) of the same x. Its temperature and
            reference measure are not used.
        baseline: subtract `V̄^π(s)`, so that `∂f/∂π_sa = −d^π(s) (Q̄^π − V̄^π)(s,a)`: the gradient of the return of the
            *normalised* policy. On the simplex nothing changes, and the hyper-gradient is the same; but an estimator
            that has only begun to solve its adjoint equation does not mistake a per-state constant for a gradient.
    """

    true_mdp: Any = attrs.field()
    baseline: bool = attrs.field(default=False, validator=is_flag())

    @true_mdp.validator
    def _check(self, attribute: attrs.Attribute[Any], value: Any) -> None:
        if not isinstance(value, SoftMDP | SupportsModel):
            raise InputError("ReturnObjective.true_mdp", kind_words(value), "a SoftMDP or a ParametricMDP")

    def value_and_gradients(self, x: Array, policy: Array) -> tuple[float, Array, Array]:
        """`f`, `∂f/∂x`, `∂f/∂π`; two linear solves with one factorisation."""
        judged = self.judged(x, policy)
        mdp, values, visits = judged.mdp, judged.values, judged.visits
        action_values = judged.action_values - values[:, None] if self.baseline else judged.action_values
        by_policy = -visits[:, None] * action_values
        if isinstance(self.true_mdp, SoftMDP):
            by_x = np.zeros_like(x)
        else:
            measure = DenseOccupancy(-visits[:, None] * policy, mdp.discount * values, -values)
            by_x = self.true_mdp.pullback(x, measure)
        return -float(mdp.initial @ values), by_x, by_policy

    def judged(self, x: Array, policy: Array) -> JudgedReturn:
        """The policy's values, visits and action values in M̄ at x; two linear solves with one factorisation."""
        mdp = self.true_mdp if isinstance(self.true_mdp, SoftMDP) else self.true_mdp.model(x)
        check_shape("the policy judged by ReturnObjective", policy, (mdp.states, mdp.actions))
        system = Linearization(mdp.transitions, mdp.discount, policy)
        values = system.solve((policy * mdp.rewards).sum(axis=1))
        visits = system.solve_transpose(mdp.initial)
        action_values = mdp.rewards + mdp.transitions.expectation(mdp.discount * values)
        return JudgedReturn(mdp, values, visits, action_values)


def _x_target(value: object) -> Array:
    return as_array("x_target", value, (None,))


def _policy_target(value: object) -> Array:
    return as_array("policy_target", value, (None, None))


@attrs.frozen(eq=False)
class QuadraticObjective:
    """`f(x, π) = ½a‖x − x̂‖² + ½b‖π − π̂‖²_F`.

    Args:
        x_weight: a ≥ 0.
        policy_weight: b ≥ 0.
        x_target: x̂ (n,), or None for zero.
        policy_target: π̂ (S, A), or None for zero.
    """

    x_weight: float = attrs.field(default=1.0, validator=is_real(at_least=0.0))
    policy_weight: float = attrs.field(default=1.0, validator=is_real(at_least=0.0))
    x_target: Array | None = attrs.field(default=None, converter=attrs.converters.optional(_x_target))
    policy_target: Array | None = attrs.field(default=None, converter=attrs.converters.optional(_policy_target))

    def value_and_gradients(self, x: Array, policy: Array) -> tuple[float, Array, Array]:
        """`f`, `a(x − x̂)`, `b(π − π̂)`."""
        x_error, policy_error = x, policy
        if self.x_target is not None:
            check_shape("QuadraticObjective.x_target", self.x_target, x.shape)
            x_error = x - self.x_target
        if self.policy_target is not None:
            check_shape("QuadraticObjective.policy_target", self.policy_target, policy.shape)
            policy_error = policy - self.policy_target
        flat = policy_error.reshape(-1)
        value = 0.5 * (self.x_weight * float(x_error.dot(x_error)) + self.policy_weight * float(flat.dot(flat)))
        return value, self.x_weight * x_error, self.policy_weight * policy_error


def _demonstrations(value: object) -> Array:
    array = as_array("demonstrations", value, (None, None))
    if (array < 0).any():
        raise InputError("the smallest entry of demonstrations", str(array.min()), "at least 0")
    return array


@attrs.frozen(eq=False)
class LogLikelihoodObjective:
    """Minus the log-likelihood of demonstrations: `f(π) = −Σ_sa d^E_sa log π_sa`.

    With `d^E` the discounted occupancy of a demonstrator started from the follower's ρ, the hyper-gradient is maximum
    entropy inverse RL's feature matching, `r̄ = (d^π*_ρ − d^E)/τ` (Ziebart et al. 2008).

    Args:
        demonstrations: `d^E` (S, A), counts or discounted occupancies, not negative.
        baseline: a `SoftMDP` with the follower's P, γ and ρ (its rewards are not used): add `m d^π(s)` to `∂f/∂π_sa =
            −d^E_sa/π_sa`, with `d^π` the discounted state occupancy and `m = (1−γ) Σ d^E`. On the simplex nothing
            changes, and the hyper-gradient is the same; but at exact demonstrations the adjoint is then zero, and an
            estimator that has only begun to solve for it has no error.
    """

    demonstrations: Array = attrs.field(converter=_demonstrations)
    baseline: SoftMDP | None = attrs.field(default=None)

    @baseline.validator
    def _check(self, attribute: attrs.Attribute[Any], value: Any) -> None:
        if value is None:
            return
        if not isinstance(value, SoftMDP):
            raise InputError("LogLikelihoodObjective.baseline", kind_words(value), "a SoftMDP or None")
        shape = (value.states, value.actions)
        check_shape("LogLikelihoodObjective.demonstrations", self.demonstrations, shape)

    def value_and_gradients(self, x: Array, policy: Array) -> tuple[float, Array, Array]:
        """`f`, zero, `−d^E/π` with the baseline; infinite if a demonstrated action has probability zero."""
        check_shape("LogLikelihoodObjective.demonstrations", self.demonstrations, policy.shape)
        shown = self.demonstrations > 0
        with np.errstate(divide="ignore"):
            logs = np.log(policy, out=np.zeros_like(policy), where=shown)
            by_policy = np.divide(-self.demonstrations, policy, out=np.zeros_like(policy), where=shown)
        if self.baseline is not None:
            mdp, mass = self.baseline, (1.0 - self.baseline.discount) * float(self.demonstrations.sum())
            visits = Linearization(mdp.transitions, mdp.discount, policy).solve_transpose(mdp.initial)
            by_policy += mass * visits[:, None]
        return -float((self.demonstrations * logs).sum()), np.zeros_like(x), by_policy


def _terms(value: Sequence[tuple[float, PolicyObjective]]) -> tuple[tuple[float, PolicyObjective], ...]:
    try:
        pairs = [(weight, term) for weight, term in value]
    except (TypeError, ValueError):
        raise InputError("WeightedSum.terms", value_words(value), "pairs (weight, objective)") from None
    for index, (weight, term) in enumerate(pairs):
        if not math.isfinite(as_float(weight)):
            raise InputError(f"the weight of WeightedSum.terms[{index}]", value_words(weight), "a finite number")
        if not isinstance(term, PolicyObjective):
            raise InputError(f"the objective of WeightedSum.terms[{index}]", kind_words(term), "a PolicyObjective")
    return tuple((float(weight), term) for weight, term in pairs)


@attrs.frozen(eq=False)
class WeightedSum:
    """`f = Σ_i w_i f_i`: a main objective with penalties.

    Args:
        terms: pairs (weight, objective).
    """

    terms: tuple[tuple[float, PolicyObjective], ...] = attrs.field(converter=_terms)

    @terms.validator
    def _check(self, attribute: attrs.Attribute[Any], value: tuple[tuple[float, PolicyObjective], ...]) -> None:
        if not value:
            raise InputError("WeightedSum.terms", "empty", "at least one pair (weight, objective)")

    def value_and_gradients(self, x: Array, policy: Array) -> tuple[float, Array, Array]:
        """The weighted sums of the terms' values and gradients."""
        total, by_x, by_policy = 0.0, np.zeros_like(x), np.zeros_like(policy)
        for weight, term in self.terms:
            value, term_by_x, term_by_policy = term.value_and_gradients(x, policy)
            total += weight * value
            by_x += weight * term_by_x
            by_policy += weight * term_by_policy
        return total, by_x, by_policy
