"""Bounds on the derivatives of core's own parts: implementations of `row_norms` and `derivative_norms`."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse

from bilevelrl.certificates.derivative_bounds import (
    DerivativeNorms,
    RowNorms,
    Unbounded,
    derivative_norms as derivative_norms,
    row_norms as row_norms,
)
from bilevelrl.linear.factorization import EPSILON
from bilevelrl.parametric.mixtures import MixtureReward, MixtureTransitions, SoftmaxPolicy
from bilevelrl.parametric.parametric_mdp import ParametricMDP
from bilevelrl.parametric.parts import (
    CallableReward,
    LinearReward,
    Slice,
    SoftmaxInitial,
    SoftmaxTransitions,
    StateReward,
    TabularReward,
)
from bilevelrl.problems.contexts import ContextualMDP
from bilevelrl.validation.arrays import PROBABILITY_TOLERANCE, Array, as_array_unchecked


def feature_lengths(features: Any) -> Array:
    """`‖φ_i‖₂` of each row of a matrix of features, dense or sparse, by hypotenuses, since small squares underflow."""
    if not scipy.sparse.issparse(features):
        return np.asarray(np.hypot.reduce(np.abs(features), axis=1))
    lengths, filled = np.zeros(features.shape[0]), np.diff(features.indptr) > 0
    if filled.any():
        lengths[filled] = np.hypot.reduceat(np.abs(features.data), features.indptr[:-1][filled])
    return lengths


def steepness(features: Any, x: Array, base: Array | float = 0.0) -> float:
    """A bound on the factor by which an exponential amplifies the rounding of its exponent `base + φx`."""
    sizes = np.abs(x) if features is None else abs(features) @ np.abs(x)
    return 1.0 + float((np.abs(base) + sizes).max())


@row_norms.register
def _of_tabular_reward(part: TabularReward, x: Array) -> RowNorms:
    """One everywhere."""
    return RowNorms.plain(np.ones_like(part.base))


@row_norms.register
def _of_state_reward(part: StateReward, x: Array) -> RowNorms:
    """An array with ones in the rows of `states`."""
    norms = np.zeros_like(part.base)
    norms[part.states] = 1.0
    return RowNorms.plain(norms)


@row_norms.register
def _of_linear_reward(part: LinearReward, x: Array) -> RowNorms:
    """`‖φ_sa‖₂`."""
    return RowNorms.plain(feature_lengths(part.features).reshape(part.base.shape))


@row_norms.register
def _of_callable_reward(part: CallableReward, x: Array) -> RowNorms:
    """`norms(x)`."""
    if part.norms is None:
        raise Unbounded(part, "`norms`, a function of x that bounds the Euclidean norm of each entry's gradient")
    return RowNorms.plain(as_array_unchecked("the value of CallableReward.norms", part.norms(x), (None, None)))


@row_norms.register
def _of_softmax_transitions(part: SoftmaxTransitions, x: Array, values: Array, radius: float) -> RowNorms:
    """`Σ_s' P_sas' |u_s' − Σ_t P_sat u_t| ‖φ_sas'‖₂`, the largest within the radius of the values."""
    probabilities = part.probabilities(x)
    worth = values[part.successors]
    mean = np.add.reduceat(probabilities * worth, part.starts)[part.rows]
    # One entry of u changes the difference to the mean by 1 − P times itself; all others together by as much.
    apart = np.abs(worth - mean) + 2.0 * radius * (1.0 - probabilities + EPSILON)
    steep = steepness(part.features, x, part.log_base)
    whole = steep * (np.abs(worth) + np.abs(mean) + 2.0 * radius)
    shape = (part.base.states, part.base.actions)
    if part.features is None:
        norms = np.hypot.reduceat(probabilities * apart, part.starts)
        sizes = np.add.reduceat(probabilities * whole, part.starts)
    else:
        lengths = probabilities * feature_lengths(part.features)
        norms = np.add.reduceat(lengths * apart, part.starts)
        sizes = np.add.reduceat(lengths * whole, part.starts)
    return RowNorms(norms.reshape(shape), sizes.reshape(shape))


@row_norms.register
def _of_softmax_initial(part: SoftmaxInitial, x: Array) -> RowNorms:
    """`ρ_s (‖φ_s‖₂ + Σ_t ρ_t ‖φ_t‖₂)`."""
    distribution = part(x)
    lengths = np.ones(part.base.size) if part.features is None else feature_lengths(part.features)
    norms = distribution * (lengths + distribution @ lengths)
    return RowNorms(norms, norms * steepness(part.features, x))


@row_norms.register
def _of_slice(part: Slice, x: Array, *within: Any) -> RowNorms:
    """The inner part's bounds; only transitions use `within`, see `derivative_bounds.row_norms`."""
    norms = row_norms(part.part, x[part.block], *within)
    return norms


@row_norms.register
def _of_softmax_policy(part: SoftmaxPolicy, x: Array) -> RowNorms:
    """`σ_sb (‖φ_sb‖₂ + Σ_c σ_sc ‖φ_sc‖₂)`."""
    policy = part(x)
    lengths = np.ones_like(policy)
    if part.features is not None:
        lengths = feature_lengths(part.features).reshape(policy.shape)
    norms = policy * (lengths + (policy * lengths).sum(axis=1, keepdims=True))
    return RowNorms(norms, norms * steepness(part.features, x))


@row_norms.register
def _of_mixture_reward(part: MixtureReward, x: Array) -> RowNorms:
    """`Σ_b ‖∇σ_sb‖₂ |r_bsa|`."""
    weights = row_norms(part.weights, x)
    rewards = np.abs(part.rewards)
    norms, sizes = (np.einsum("sb,bsa->sa", part, rewards) for part in (weights.norms, weights.sizes))
    return RowNorms(norms, sizes)


@row_norms.register
def _of_mixture_transitions(part: MixtureTransitions, x: Array, values: Array, radius: float) -> RowNorms:
    """`Σ_b ‖∇σ_sb‖₂ (|Σ_s' P^b_sas' u_s' − c_sa| + radius)`, with c half way between the extremes over b.

    σ's rows sum to one at every x, so a number that does not depend on b changes nothing.
    """
    weights = row_norms(part.weights, x)
    worth = part.joint.expectation(values).reshape(part.joint.states, len(part.kernels), -1)
    centre = 0.5 * (worth.min(axis=1, keepdims=True) + worth.max(axis=1, keepdims=True))
    apart = np.abs(worth - centre) + (1.0 + PROBABILITY_TOLERANCE) * radius
    whole = np.abs(worth) + np.abs(centre) + (1.0 + PROBABILITY_TOLERANCE) * radius
    norms, sizes = np.einsum("sb,sba->sa", weights.norms, apart), np.einsum("sb,sba->sa", weights.sizes, whole)
    return RowNorms(norms, sizes)


@derivative_norms.register
def _of_parametric_mdp(part: ParametricMDP, x: Array, values: Array, radius: float) -> DerivativeNorms:
    """Bounds on the derivatives of r, of `P u` for all u within `radius` of the values, and of ρ.

    Raises:
        Unbounded: if a part does not give its own.
    """
    shape = part.base.rewards.shape
    asked = {
        "rewards": (shape, ()),
        "transitions": (shape, (values, radius)),
        "initial": (shape[:1], ()),
    }
    norms = {
        name: row_norms(part.parts[name], x, *within) if name in part.parts else RowNorms.zero(size)
        for name, (size, within) in asked.items()
    }
    return DerivativeNorms(**norms)


@derivative_norms.register
def _of_contextual_mdp(part: ContextualMDP, x: Array, values: Array, radius: float) -> DerivativeNorms:
    """The contexts' bounds, stacked; those of ρ times the context's weight."""
    each = [
        derivative_norms(context, x, values[part.rows(index)], radius) for index, context in enumerate(part.contexts)
    ]
    scaled = [own.initial.times(weight) for weight, own in zip(part.weights, each, strict=True)]
    return DerivativeNorms(
        RowNorms.joined([own.rewards for own in each]),
        RowNorms.joined([own.transitions for own in each]),
        RowNorms.joined(scaled),
    )
