"""Parametric rewards, transitions and initial distributions of the follower's MDP.

Each part is a function of x with its vector-Jacobian product; none builds a Jacobian. A part of your own is any object
with the same three members.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import attrs
import numpy as np
import scipy.sparse

from bilevelrl.mdp.transitions import DenseTransitions, SparseTransitions, Transitions, as_transitions
from bilevelrl.validation.arrays import Array, Indices, as_array, as_array_unchecked, as_distribution, as_real_array
from bilevelrl.validation.errors import InputError, kind_words, shape_words, value_words
from bilevelrl.validation.fields import is_integer
from bilevelrl.validation.frozen import depending
from bilevelrl.validation.sparse_arrays import as_csr


@runtime_checkable
class ParametricArray(Protocol):
    """An array that depends on x: rewards (S, A), or an initial distribution (S,)."""

    @property
    def dimension(self) -> int:
        """n, the length of x."""

    def __call__(self, x: Array) -> Array:
        """The array at x."""

    def pullback(self, x: Array, cotangent: Array) -> Array:
        """(n,) `Jᵀ cotangent`, with J the derivative of the array at x."""


@runtime_checkable
class ParametricTransitions(Protocol):
    """A transition kernel that depends on x."""

    @property
    def dimension(self) -> int:
        """n, the length of x."""

    def __call__(self, x: Array) -> Transitions:
        """The kernel at x."""

    def pullback(self, x: Array, weights: Array, continuation: Array) -> Array:
        """(n,) `J_Pᵀ P̄` for the outer product `P̄_sas' = weights_sa · continuation_s'`."""


def _base_rewards(value: object) -> Array:
    return as_array("base", value, (None, None))


@attrs.frozen(eq=False)
class TabularReward:
    """`r_sa(x) = base_sa + x_{s·A+a}`: one parameter for each state and action; n = S·A."""

    base: Array = attrs.field(converter=_base_rewards)

    @property
    def dimension(self) -> int:
        """S·A."""
        return self.base.size

    def __call__(self, x: Array) -> Array:
        """`base + x` as a table."""
        return self.base + x.reshape(self.base.shape)

    def pullback(self, x: Array, cotangent: Array) -> Array:
        """The cotangent, flattened."""
        return cotangent.reshape(-1).copy()


def _distinct_states(value: object, reward: StateReward) -> Indices:
    count = reward.base.shape[0]
    try:
        states = np.arange(count) if value is None else np.asarray(value)
    except ValueError:  # rows of unequal lengths
        states = np.empty(0)
    valid = states.ndim == 1 and states.size > 0 and np.issubdtype(states.dtype, np.integer)
    if not valid or states.min() < 0 or states.max() >= count or np.unique(states).size < states.size:
        raise InputError("StateReward.states", value_words(value), f"distinct integers in 0..{count - 1}")
    return states


@attrs.frozen(eq=False)
class StateReward:
    """`r_sa(x) = base_sa + x_s`: one parameter for each of the states listed.

    Args:
        base: (S, A), the part that does not depend on x.
        states: the states that have a parameter, in the order of x. Default: all.
    """

    base: Array = attrs.field(converter=_base_rewards)
    states: Any = attrs.field(default=None, converter=depending(_distinct_states))  # type: ignore[misc]
    _rows: Any = attrs.field(init=False, repr=False)

    @_rows.default
    def _all_or_listed(self) -> Any:
        # A slice takes a tenth of the time of an index array.
        return slice(None) if np.array_equal(self.states, np.arange(self.base.shape[0])) else self.states

    @property
    def dimension(self) -> int:
        """The number of states that have a parameter."""
        return int(self.states.size)

    def __call__(self, x: Array) -> Array:
        """`base`, with x added to the rows of `states`."""
        rewards = self.base.copy()
        rewards[self._rows] += x[:, None]
        return rewards

    def pullback(self, x: Array, cotangent: Array) -> Array:
        """Row sums of the cotangent at `states`."""
        return np.asarray(cotangent.sum(axis=1)[self._rows])


def feature_matrix(value: Any) -> Any:
    """Features as a matrix with one row for each entry: a float64 array, or a CSR array if they are sparse."""
    if scipy.sparse.issparse(value):
        matrix = as_csr("features", value)
        as_array("features", matrix.data, (None,))
        return matrix
    array = as_real_array("features", value)
    checked = as_array("features", array, (None,) * array.ndim)
    if checked.size == 0:
        raise InputError("the shape of features", shape_words(checked.shape), "at least one feature")
    return np.ascontiguousarray(checked.reshape(-1, checked.shape[-1])) if checked.ndim > 1 else checked


def check_feature_rows(name: str, features: Any, rows: int) -> None:
    """Raise `InputError` unless there is one row of features for each of the entries."""
    if features.ndim != 2 or features.shape[0] != rows:
        raise InputError(f"the shape of {name}.features", str(features.shape), f"({rows}, n) after flattening")


@attrs.frozen(eq=False)
class LinearReward:
    """`r_sa(x) = base_sa + Σ_k φ_sak x_k`: linear in features.

    Args:
        base: (S, A).
        features: φ, (S, A, n) or (S·A, n), dense or scipy sparse.
    """

    base: Array = attrs.field(converter=_base_rewards)
    features: Any = attrs.field(converter=feature_matrix)

    def __attrs_post_init__(self) -> None:
        check_feature_rows("LinearReward", self.features, self.base.size)

    @property
    def dimension(self) -> int:
        """The number of features."""
        return int(self.features.shape[1])

    def __call__(self, x: Array) -> Array:
        """`base + φx`."""
        return np.asarray(self.base + (self.features @ x).reshape(self.base.shape))

    def pullback(self, x: Array, cotangent: Array) -> Array:
        """`φᵀ r̄`."""
        return np.asarray(self.features.T @ cotangent.reshape(-1))


@attrs.frozen(eq=False)
class CallableReward:
    """Rewards from a function with its vector-Jacobian product, e.g. a neural network's.

    Args:
        function: `x ↦ r(x)` (S, A).
        vjp: `(x, r̄) ↦ J_rᵀ r̄` (n,).
        dimension: n.
        norms: `x ↦` an upper bound of `‖∇_x r_sa(x)‖₂` (S, A), which certificates need; see `RowNorms.sizes`.
    """

    function: Callable[[Array], Array]
    vjp: Callable[[Array, Array], Array]
    dimension: int = attrs.field(validator=is_integer(at_least=1))
    norms: Callable[[Array], Array] | None = None

    def __call__(self, x: Array) -> Array:
        """`function(x)`."""
        return as_array_unchecked("the value of CallableReward.function", self.function(x), (None, None))

    def pullback(self, x: Array, cotangent: Array) -> Array:
        """`vjp(x, cotangent)`."""
        return as_array_unchecked("the value of CallableReward.vjp", self.vjp(x, cotangent), (self.dimension,))


@attrs.frozen(eq=False, slots=False)
class SoftmaxTransitions:
    """`P_sas'(x) ∝ P⁰_sas' exp(Σ_k φ_sas'k x_k)` on the support of a base kernel: dense stays dense, sparse sparse.

    Args:
        base: P⁰, anything `as_transitions` takes. Entries that are zero stay zero.
        features: φ, (nnz, n) over the non-zero entries of P⁰ in row-major order, dense or scipy sparse.
            Default: the identity, one parameter for each entry.
    """

    base: Transitions = attrs.field(converter=as_transitions)
    features: Any = attrs.field(default=None, converter=attrs.converters.optional(feature_matrix))
    rows: Any = attrs.field(init=False, repr=False)
    successors: Any = attrs.field(init=False, repr=False)
    log_base: Array = attrs.field(init=False, repr=False)
    starts: Any = attrs.field(init=False, repr=False)

    @rows.default
    def _positive_rows(self) -> Any:
        rows, _, probabilities = self.base.stored()
        return rows[probabilities > 0]

    @successors.default
    def _positive_successors(self) -> Any:
        _, successors, probabilities = self.base.stored()
        return successors[probabilities > 0]

    @log_base.default
    def _log_positive(self) -> Array:
        probabilities = self.base.stored()[2]
        return np.asarray(np.log(probabilities[probabilities > 0]))

    @starts.default
    def _row_starts(self) -> Any:
        return np.searchsorted(self.rows, np.arange(self.base.states * self.base.actions))

    @features.validator
    def _check_features(self, attribute: attrs.Attribute[Any], value: Any) -> None:
        if value is not None:
            check_feature_rows("SoftmaxTransitions", value, self.rows.size)

    @property
    def dimension(self) -> int:
        """The number of features, or of non-zero entries."""
        return int(self.rows.size if self.features is None else self.features.shape[1])

    def probabilities(self, x: Array) -> Array:
        """(nnz,) the entries of the kernel at x, in the order of `rows` and `successors`."""
        logits = self.log_base + (x if self.features is None else self.features @ x)
        logits = logits - np.maximum.reduceat(logits, self.starts)[self.rows]
        np.exp(logits, out=logits)
        return np.asarray(logits / np.add.reduceat(logits, self.starts)[self.rows])

    def __call__(self, x: Array) -> Transitions:
        """The kernel at x, stored as the base is."""
        states, actions = self.base.states, self.base.actions
        probabilities = self.probabilities(x)
        if isinstance(self.base, DenseTransitions):
            table = np.zeros((states * actions, states))
            table[self.rows, self.successors] = probabilities
            return DenseTransitions.trusted(table.reshape(states, actions, states))
        pointers = np.append(self.starts, self.rows.size)
        matrix = scipy.sparse.csr_array((probabilities, self.successors, pointers), shape=(states * actions, states))
        return SparseTransitions.trusted(matrix, like=self._pattern)

    @functools.cached_property
    def _pattern(self) -> SparseTransitions | None:
        """The base if its pattern is the kernel's, so that everything that depends on the pattern is shared."""
        base = self.base
        return base if isinstance(base, SparseTransitions) and base.probabilities.nnz == self.rows.size else None

    def pullback(self, x: Array, weights: Array, continuation: Array) -> Array:
        """`φᵀ (P ⊙ r̄_sa (γV_s' − Σ_t P_sat γV_t))`: the softmax's derivative applied to the outer product."""
        probabilities = self.probabilities(x)
        worth = continuation[self.successors]
        mean = np.add.reduceat(probabilities * worth, self.starts)[self.rows]
        cotangent = probabilities * (worth - mean) * weights.reshape(-1)[self.rows]
        return cotangent if self.features is None else np.asarray(self.features.T @ cotangent)


def _base_distribution(value: Any) -> Array:
    return as_distribution("base", value, None)


@attrs.frozen(eq=False)
class SoftmaxInitial:
    """`ρ_s(x) ∝ ρ⁰_s exp(Σ_k φ_sk x_k)`: a parametric initial distribution.

    Args:
        base: ρ⁰ (S,), a distribution; zero entries stay zero.
        features: φ (S, n), dense or scipy sparse. Default: the identity.
    """

    base: Array = attrs.field(converter=_base_distribution)
    features: Any = attrs.field(default=None, converter=attrs.converters.optional(feature_matrix))

    def __attrs_post_init__(self) -> None:
        if self.features is not None:
            check_feature_rows("SoftmaxInitial", self.features, self.base.size)

    @property
    def dimension(self) -> int:
        """The number of features, or of states."""
        return int(self.base.size if self.features is None else self.features.shape[1])

    def __call__(self, x: Array) -> Array:
        """ρ at x."""
        logits = np.asarray(x if self.features is None else self.features @ x)
        positive = self.base > 0
        # The exponent is not computed where the base is zero: a large logit there would give 0·∞.
        exponents = np.subtract(logits, logits[positive].max(), out=np.zeros(self.base.size), where=positive)
        weights = self.base * np.exp(exponents)
        return np.asarray(weights / weights.sum())

    def pullback(self, x: Array, cotangent: Array) -> Array:
        """`φᵀ (ρ ⊙ (ρ̄ − ⟨ρ, ρ̄⟩))`."""
        distribution = self(x)
        through = distribution * (cotangent - distribution @ cotangent)
        return through if self.features is None else np.asarray(self.features.T @ through)


@attrs.frozen(eq=False)
class Slice:
    """A part that uses only `x[start : start + part.dimension]` of a longer x.

    With it, rewards, transitions and initial distribution may each have their own block of x, or share one.

    Args:
        part: any parametric part.
        start: the first index of its block.
        dimension: n, the length of the whole x.
    """

    part: Any
    start: int = attrs.field(validator=is_integer(at_least=0))
    dimension: int = attrs.field(validator=is_integer(at_least=1))

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.part, ParametricArray | ParametricTransitions):
            raise InputError("Slice.part", kind_words(self.part), "a parametric part")
        if self.start + self.part.dimension > self.dimension:
            end = f"{self.start} + {self.part.dimension}"
            raise InputError("Slice.start + part.dimension", end, f"at most dimension = {self.dimension}")

    @property
    def block(self) -> slice:
        """The part's block of x."""
        return slice(self.start, self.start + self.part.dimension)

    def __call__(self, x: Array) -> Any:
        """The part at its block of x."""
        return self.part(x[self.block])

    def pullback(self, x: Array, *cotangents: Array) -> Array:
        """The part's pullback, zero outside its block."""
        gradient = np.zeros(self.dimension)
        gradient[self.block] = self.part.pullback(x[self.block], *cotangents)
        return gradient
