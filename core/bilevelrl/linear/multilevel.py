"""Aggregation: an approximate inverse of `I − γP^π` from smaller and smaller chains between larger and larger groups of
states.

A Gauss–Seidel sweep removes the part of the error that depends on a few transitions. The remaining error varies slowly
from state to state, and is solved for on aggregates, `Zᵀ(I − γC)Z` with Z their indicators. This is a Markov chain
again, with the sizes of the aggregates in place of the identity. One cycle is a sweep, a correction by the aggregates'
answer, and a sweep in the other direction. As a preconditioner of a Krylov method it makes the number of iterations
depend little on γ and on the number of states.

State aggregation in this role: Bertsekas and Castañon, "Adaptive aggregation methods for infinite horizon dynamic
programming", IEEE Transactions on Automatic Control 1989. Pairwise by strength: Notay, "Aggregation-based algebraic
multigrid for convection-diffusion equations", SIAM Journal on Scientific Computing 2012.
"""

from __future__ import annotations

import numpy as np

from bilevelrl.linear.chain_patterns import COARSEST, Level
from bilevelrl.validation.arrays import Array


class Aggregation:
    """`M ≈ (I − γC)^{-1}` for a chain C, or for its transpose: a fixed linear operator.

    Args:
        levels: the hierarchy of the chain's pattern.
        entries: (nnz,) the chain's entries.
        discount: γ.
    """

    def __init__(self, levels: tuple[Level, ...], entries: Array, discount: float) -> None:
        self._smoothers = []
        weights, sizes = entries * discount, np.ones(levels[0].pattern.size)
        for level, below in zip(levels, (*levels[1:], None), strict=True):
            smoother = _Smoother(level, weights, sizes)
            if below is not None:
                weights, sizes = level.merged(weights, below.pattern.columns.size), level.summed(sizes)
            smoother.forget_diagonal()
            self._smoothers.append(smoother)

    def __call__(self, right_hand_side: Array) -> Array:
        """`M b`."""
        return self._cycle(0, right_hand_side)

    def _cycle(self, depth: int, right_hand_side: Array) -> Array:
        smoother = self._smoothers[depth]
        if smoother.inverse is not None:
            return np.asarray(smoother.inverse @ right_hand_side)
        answer, sums = smoother.forward(right_hand_side)
        if depth + 1 < len(self._smoothers):
            sums[:-1] = self._cycle(depth + 1, sums[:-1])
            sums[-1] = 0.0  # for states in no aggregate
        smoother.backward(right_hand_side, sums, answer)
        return answer


class _Smoother:
    """`D − W` at one level: Gauss–Seidel sweeps, or the inverse if it is small.

    Args:
        level: pattern and aggregates.
        weights: (nnz,) the entries of W; the array is reused.
        sizes: (S,) the entries of D: the number of states in each aggregate.
    """

    def __init__(self, level: Level, weights: Array, sizes: Array) -> None:
        self._level, self._weights = level, weights
        self._labels = np.empty(0, np.int32) if level.labels is None else level.labels
        rows, places = level.pattern.diagonal
        diagonal = sizes.copy()
        diagonal[rows] -= weights[places]
        self._inverse_diagonal = 1.0 / diagonal
        self.inverse: Array | None = None
        if level.pattern.size <= COARSEST:
            self.inverse = np.linalg.inv(np.diag(sizes) - level.pattern.matrix(weights).toarray())

    def forget_diagonal(self) -> None:
        """Set W's diagonal to zero, since it is now part of D."""
        self._weights[self._level.pattern.diagonal[1]] = 0.0

    def forward(self, right_hand_side: Array) -> tuple[Array, Array]:
        """A sweep from zero: the answer, and its residual summed over aggregates, the last sum over states in none."""
        from bilevelrl.linear.sweep_kernels import sweep_forward

        answer, sums = np.empty_like(right_hand_side), np.empty(self._level.count + 1)
        pattern = self._level.pattern
        sweep_forward(
            pattern.pointers,
            pattern.begins,
            pattern.middles,
            pattern.columns,
            self._weights,
            self._inverse_diagonal,
            right_hand_side,
            self._labels,
            answer,
            sums,
        )
        return answer, sums

    def backward(self, right_hand_side: Array, correction: Array, answer: Array) -> None:
        """Add the correction, and sweep in the other direction, in place."""
        from bilevelrl.linear.sweep_kernels import sweep_backward

        pattern = self._level.pattern
        sweep_backward(
            pattern.pointers,
            pattern.columns,
            self._weights,
            self._inverse_diagonal,
            right_hand_side,
            self._labels,
            correction,
            answer,
        )
