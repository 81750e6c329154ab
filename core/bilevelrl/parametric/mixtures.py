"""A leader that acts in the follower's environment: its mixed policy averages the follower's rewards and transitions.

In a Stackelberg Markov game the leader commits to a mixed policy `σ_x(b|s)`. The follower, which acts at the same time,
solves the average over the leader's choices b: an MDP whose rewards and transitions both depend on x.
"""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import scipy.sparse

from bilevelrl.mdp.transitions import DenseTransitions, SparseTransitions, Transitions, as_transitions
from bilevelrl.parametric.parts import ParametricArray, check_feature_rows, feature_matrix
from bilevelrl.validation.arrays import PROBABILITY_TOLERANCE, Array, as_array, check_shape
from bilevelrl.validation.errors import InputError, kind_words
from bilevelrl.validation.fields import is_integer
from bilevelrl.validation.memory import SPARSE_KERNEL, check_fits


@attrs.frozen(eq=False)
class SoftmaxPolicy:
    """The leader's mixed policy `σ_sb(x) ∝ exp(Σ_k φ_sbk x_k)` over B choices in each of S states: a `ParametricArray`.

    In states with equal features the leader makes equal choices: it cannot distinguish these states.

    Args:
        states: S ≥ 1.
        choices: B ≥ 1.
        features: φ, (S, B, n) or (S·B, n), dense or scipy sparse. Default: the identity, one parameter for each state
            and choice.
    """

    states: int = attrs.field(validator=is_integer(at_least=1))
    choices: int = attrs.field(validator=is_integer(at_least=1))
    features: Any = attrs.field(default=None, converter=attrs.converters.optional(feature_matrix))

    def __attrs_post_init__(self) -> None:
        if self.features is not None:
            check_feature_rows("SoftmaxPolicy", self.features, self.states * self.choices)

    @property
    def dimension(self) -> int:
        """The number of features, or S·B."""
        return int(self.states * self.choices if self.features is None else self.features.shape[1])

    def __call__(self, x: Array) -> Array:
        """σ (S, B); rows sum to one."""
        flat = x if self.features is None else self.features @ x
        logits = np.asarray(flat).reshape(self.states, self.choices)
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(weights / weights.sum(axis=1, keepdims=True))

    def pullback(self, x: Array, cotangent: Array) -> Array:
        """`φᵀ (σ ⊙ (σ̄_sb − Σ_c σ_sc σ̄_sc))`: the softmax's derivative."""
        policy = self(x)
        mean = (policy * cotangent).sum(axis=1, keepdims=True)
        through = (policy * (cotangent - mean)).reshape(-1)
        return through if self.features is None else np.asarray(self.features.T @ through)


def _weights(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, ParametricArray):
        expected = "a ParametricArray (S, B), such as a SoftmaxPolicy"
        raise InputError(f"{type(instance).__name__}.weights", kind_words(value), expected)


def _mixture_rewards(value: object) -> Array:
    array = as_array("MixtureReward.rewards", value, (None, None, None))
    if array.size == 0:
        raise InputError("MixtureReward.rewards", "empty", "at least one table (S, A)")
    return array


@attrs.frozen(eq=False)
class MixtureReward:
    """`r_sa(x) = Σ_b σ_sb(x) r_bsa`: the average of one table for each choice of the leader.

    Args:
        weights: σ, a `ParametricArray` (S, B), such as a `SoftmaxPolicy`.
        rewards: r, (B, S, A).
    """

    weights: Any = attrs.field(validator=_weights)
    rewards: Array = attrs.field(converter=_mixture_rewards)

    @property
    def dimension(self) -> int:
        """The dimension of the weights."""
        return int(self.weights.dimension)

    def __call__(self, x: Array) -> Array:
        """The average at x."""
        choices, states, _ = self.rewards.shape
        weights = self.weights(x)
        check_shape("the value of MixtureReward.weights", weights, (states, choices))
        return np.asarray(np.einsum("sb,bsa->sa", weights, self.rewards))

    def pullback(self, x: Array, cotangent: Array) -> Array:
        """The weights' pullback of `σ̄_sb = Σ_a r̄_sa r_bsa`."""
        through: Array = np.einsum("sa,bsa->sb", cotangent, self.rewards)
        gradient: Array = self.weights.pullback(x, through)
        return gradient


def _kernels(value: Any) -> tuple[Transitions, ...]:
    try:
        kernels = tuple(as_transitions(kernel) for kernel in value)
    except TypeError:
        raise InputError("MixtureTransitions.kernels", kind_words(value), "a sequence of kernels") from None
    if not kernels:
        raise InputError("MixtureTransitions.kernels", "empty", "at least one kernel")
    shapes = [(kernel.states, kernel.actions) for kernel in kernels]
    for index, shape in enumerate(shapes):
        if shape != shapes[0]:
            label = f"states and actions of MixtureTransitions.kernels[{index}]"
            raise InputError(label, str(shape), f"{shapes[0]}, as of the first")
    return kernels


@attrs.frozen(eq=False, slots=False)
class MixtureTransitions:
    """`P_sas'(x) = Σ_b σ_sb(x) P^b_sas'`: the average of one kernel for each choice of the leader.

    Dense if all kernels are dense, otherwise sparse.

    Args:
        weights: σ, a `ParametricArray` (S, B) whose rows are distributions, such as a `SoftmaxPolicy`.
        kernels: B kernels, each anything `as_transitions` takes: an array (S, A, S), a scipy sparse array (S·A, S), or
            a `Transitions`.
    """

    weights: Any = attrs.field(validator=_weights)
    kernels: tuple[Transitions, ...] = attrs.field(converter=_kernels)
    joint: Transitions = attrs.field(init=False, repr=False)
    """One kernel over joint actions `b·A + a`, so that one product is enough for all choices of the leader."""

    @joint.default
    def _joint(self) -> Transitions:
        return _joint_kernel(self.kernels)

    @property
    def dimension(self) -> int:
        """The dimension of the weights."""
        return int(self.weights.dimension)

    def __call__(self, x: Array) -> Transitions:
        """The average at x. Raises `InputError` if the weights are not distributions."""
        choices, states, actions = len(self.kernels), self.joint.states, self.kernels[0].actions
        weights = self.weights(x)
        check_shape("the value of MixtureTransitions.weights", weights, (states, choices))
        miss = np.abs(weights.sum(axis=1) - 1.0).max()
        if miss > PROBABILITY_TOLERANCE or (weights < 0).any():
            expected = "a distribution in each row: not negative, with sum 1 within 1e-8"
            raise InputError("the value of MixtureTransitions.weights", "something else", expected)
        if isinstance(self.joint, DenseTransitions):
            stacked = self.joint.probabilities.reshape(states, choices, actions * states)
            table = np.matmul(weights[:, None, :], stacked)
            return DenseTransitions.trusted(table.reshape(states, actions, states))
        rows = states * actions
        # Row s·A + a averages the joint kernel's rows s·B·A + b·A + a over b.
        columns = np.arange(states * choices * actions).reshape(states, choices, actions).transpose(0, 2, 1)
        data = np.broadcast_to(weights[:, None, :], (states, actions, choices))
        average = scipy.sparse.csr_array(
            (data.reshape(-1), columns.reshape(-1), np.arange(0, rows * choices + 1, choices)),
            shape=(rows, rows * choices),
        )
        mixed = scipy.sparse.csr_array(average @ self.joint.probabilities)  # type: ignore[attr-defined]
        mixed.sort_indices()
        return SparseTransitions.trusted(mixed)

    def pullback(self, x: Array, weights: Array, continuation: Array) -> Array:
        """The weights' pullback of `σ̄_sb = Σ_a r̄_sa Σ_s' P^b_sas' u_s'`, u the continuation; one product with P."""
        states, actions = weights.shape
        worth = self.joint.expectation(continuation).reshape(states, len(self.kernels), actions)
        through: Array = np.einsum("sa,sba->sb", weights, worth)
        gradient: Array = self.weights.pullback(x, through)
        return gradient


def _joint_kernel(kernels: tuple[Transitions, ...]) -> Transitions:
    """One kernel over joint actions `b·A + a`, so that one product is enough for all choices of the leader."""
    states, actions, choices = kernels[0].states, kernels[0].actions, len(kernels)
    if all(isinstance(kernel, DenseTransitions) for kernel in kernels):
        tables: Any = [kernel.probabilities for kernel in kernels]  # type: ignore[attr-defined]
        shape = (states, choices * actions, states)
        check_fits("the kernels of MixtureTransitions together", shape, instead=SPARSE_KERNEL)
        stacked = np.stack(tables, axis=1)
        return DenseTransitions.trusted(stacked.reshape(shape))
    rows, columns, data = [], [], []
    for choice, kernel in enumerate(kernels):
        row, successor, probability = kernel.stored()
        state, action = row // actions, row % actions
        rows.append((state * choices + choice) * actions + action)
        columns.append(successor)
        data.append(probability)
    entries = (np.concatenate(data), (np.concatenate(rows), np.concatenate(columns)))
    return SparseTransitions.trusted(scipy.sparse.csr_array(entries, shape=(states * choices * actions, states)))
