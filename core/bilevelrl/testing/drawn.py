"""The building blocks of drawn problems: MDPs and problems that print as source, and parts that are not linear in x.

Unlike lambdas they can be written into a test.
"""

from __future__ import annotations

from typing import Any, ClassVar

import attrs
import numpy as np

import bilevelrl as bl
from bilevelrl.parametric.parts import feature_matrix
from bilevelrl.testing.source import source
from bilevelrl.validation.arrays import as_array, check_shape


class PrintsSource:
    """A class whose `repr` is Python source that rebuilds the value, also in Hypothesis's reports."""

    __slots__ = ()

    def __repr__(self) -> str:
        return source(self)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        first, *others = source(self).splitlines()
        printer.text(first)
        for line in others:
            printer.break_()
            printer.text(line)


class DrawnSoftMDP(PrintsSource, bl.SoftMDP):
    """A `SoftMDP` whose `repr` rebuilds it."""

    written_as: ClassVar[type] = bl.SoftMDP


class DrawnParametricMDP(PrintsSource, bl.ParametricMDP):
    """A `ParametricMDP` whose `repr` rebuilds it."""

    written_as: ClassVar[type] = bl.ParametricMDP


class DrawnBilevelProblem(PrintsSource, bl.BilevelProblem):
    """A `BilevelProblem` whose `repr` rebuilds it."""

    __slots__ = ()

    written_as: ClassVar[type] = bl.BilevelProblem


def _base(value: object) -> bl.Array:
    return as_array("TanhReward.base", value, (None, None))


@attrs.frozen(eq=False, repr=False)
class TanhReward(PrintsSource):
    """`r_sa(x) = base_sa + tanh(Σ_k φ_sak x_k)`: smooth, bounded, and not linear in x.

    Args:
        base: (S, A).
        features: φ, (S, A, n) or (S·A, n), dense or scipy sparse.
    """

    base: bl.Array = attrs.field(converter=_base)
    features: Any = attrs.field(converter=feature_matrix)
    _exponent: bl.parametric.LinearReward = attrs.field(init=False)

    @_exponent.default
    def _linear(self) -> bl.parametric.LinearReward:
        return bl.parametric.LinearReward(np.zeros_like(self.base), self.features)

    @property
    def dimension(self) -> int:
        """The number of features."""
        return self._exponent.dimension

    def __call__(self, x: bl.Array) -> bl.Array:
        """`base + tanh(φx)`."""
        return np.asarray(self.base + np.tanh(self._exponent(x)))

    def pullback(self, x: bl.Array, cotangent: bl.Array) -> bl.Array:
        """`φᵀ (r̄ ⊙ (1 − tanh²(φx)))`."""
        slope = 1.0 - np.tanh(self._exponent(x)) ** 2
        return self._exponent.pullback(x, cotangent * slope)


def _table(value: object) -> bl.Array:
    return as_array("TableLoss.table", value, (None, None))


def _x_weights(value: object) -> bl.Array:
    return as_array("TableLoss.x_weights", value, (None,))


@attrs.frozen(eq=False, repr=False)
class TableLoss(PrintsSource):
    """`l = (1 + b·x) g(Σ_i Σ_h table[s^i_h, a^i_h])`, with `g(z) = z` or `tanh(z)`; deterministic.

    Args:
        table: the value of a visit, (S, A).
        x_weights: b (n,).
        horizon: H ≥ 1.
        trajectories: I ≥ 1.
        curved: g is tanh, so the loss does not split into one term for each trajectory.
    """

    table: bl.Array = attrs.field(converter=_table)
    x_weights: bl.Array = attrs.field(converter=_x_weights)
    horizon: int = attrs.field(validator=bl.validation.is_integer(at_least=1))
    trajectories: int = attrs.field(default=1, validator=bl.validation.is_integer(at_least=1))
    curved: bool = attrs.field(default=False, validator=bl.validation.is_flag())

    def loss_and_gradient(
        self, x: bl.Array, trajectories: bl.sampling.Trajectories, rng: np.random.Generator
    ) -> tuple[bl.Array, bl.Array]:
        """`l` of each group, and `b` times the mean of g."""
        check_shape("TableLoss.x_weights", self.x_weights, x.shape)
        visited = self.table[trajectories.observations[:, :-1], trajectories.actions]
        sums = visited.reshape(-1, self.trajectories * trajectories.horizon).sum(axis=1)
        judged = np.tanh(sums) if self.curved else sums
        return (1.0 + self.x_weights @ x) * judged, self.x_weights * judged.mean()

    def step_losses_and_gradient(
        self, x: bl.Array, trajectories: bl.sampling.Trajectories, rng: np.random.Generator
    ) -> tuple[bl.Array, bl.Array]:
        """What each step adds to `l` of one trajectory (I = 1): it depends on the steps before, not on later ones."""
        _, gradient = self.loss_and_gradient(x, trajectories, rng)
        sums = np.cumsum(self.table[trajectories.observations[:, :-1], trajectories.actions], axis=1)
        judged = np.tanh(sums) if self.curved else sums
        return (1.0 + self.x_weights @ x) * np.diff(judged, axis=1, prepend=0.0), gradient
