"""Bounds on derivatives, without a Jacobian: what a certificate needs of a problem's parts and objective.

Every method here is optional. Without it a part or an objective can be solved and differentiated like any other. Only
its certificates have no bound, and they name what is missing.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import attrs
import numpy as np

from bilevelrl.certificates.nearby_policies import NearbyPolicies
from bilevelrl.validation.arrays import Array
from bilevelrl.validation.errors import kind_words


@attrs.frozen(eq=False)
class RowNorms:
    """Bounds on the derivative by x of a table t, one number for each entry.

    Args:
        norms: at least `‖∇_x t_i‖₂` for each entry i.
        sizes: the same for the sum of the absolute values of all terms of `∇_x t_i`, before anything cancels: rounding
            is a few ulps of it. At least `norms`.
    """

    norms: Array
    sizes: Array

    @classmethod
    def plain(cls, norms: Array) -> RowNorms:
        """The bounds of a derivative in whose computation nothing cancels."""
        return cls(norms, norms)

    @classmethod
    def zero(cls, shape: tuple[int, ...]) -> RowNorms:
        """The bounds of a table that does not depend on x."""
        return cls.plain(np.zeros(shape))

    @classmethod
    def joined(cls, parts: Sequence[RowNorms]) -> RowNorms:
        """The bounds of tables stacked by rows."""
        return cls(np.concatenate([part.norms for part in parts]), np.concatenate([part.sizes for part in parts]))

    def times(self, factor: float) -> RowNorms:
        """The bounds of the table times a factor of at least 0."""
        return RowNorms(factor * self.norms, factor * self.sizes)


@attrs.frozen(eq=False)
class DerivativeNorms:
    """Bounds on the derivatives by x of a follower's MDP.

    Args:
        rewards: of `r_sa` (S, A).
        transitions: of `Σ_s' P_sas' u_s'` (S, A), for every u within a radius of given values.
        initial: of `ρ_s` (S,).
    """

    rewards: RowNorms
    transitions: RowNorms
    initial: RowNorms


@runtime_checkable
class BoundsDerivatives(Protocol):
    """A lower level that bounds its own derivatives."""

    def derivative_norms(self, x: Array, values: Array, radius: float) -> DerivativeNorms:
        """The bounds at x; those of P hold for every u with `|u_s − values_s| ≤ radius` in all states."""


@runtime_checkable
class BoundsGradientChange(Protocol):
    """An objective of the policy that bounds the change of its gradients with the policy."""

    def gradient_change(self, x: Array, nearby: NearbyPolicies, weights: Array) -> tuple[float, float]:
        """Two upper bounds over all nearby policies π', with `∂f` on the right as `value_and_gradients` computes it.

            ‖∂f/∂x(x, π') − ∂f/∂x(x, π)‖₂
            Σ_sa weights_sa |∂f/∂π_sa(x, π') − ∂f/∂π_sa(x, π) − k_s|    for some number k_s per state

        The bounds include rounding: the first terms are exact, the subtracted ones are computed. `weights` (S, A) ≥ 0.
        """


class Unbounded(Exception):
    """A part or an objective does not bound its derivative; the message says what to add."""

    def __init__(self, owner: object, missing: str) -> None:
        super().__init__(f"{kind_words(owner)} does not say how large its derivative can be; give it {missing}")


ARRAY_NORMS = "a method row_norms(x), which returns a RowNorms of the array's shape"
TRANSITION_NORMS = "a method row_norms(x, values, radius), which returns a RowNorms (S, A)"
LOWER_NORMS = "a method derivative_norms(x, values, radius), which returns a DerivativeNorms"
GRADIENT_CHANGE = "a method gradient_change(x, nearby, weights), see BoundsGradientChange"


@functools.singledispatch
def row_norms(part: Any, x: Array, *within: Any) -> RowNorms:
    """Bounds on the derivative of a part by x: registered for its class, or from its own method `row_norms`.

    Args:
        part: rewards, transitions or an initial distribution that depend on x.
        x: (n,).
        within: for transitions, the values (S,) and the radius of `derivative_norms`.

    Raises:
        Unbounded: if the part does not give any.
    """
    norms: RowNorms = _ask(part, "row_norms", TRANSITION_NORMS if within else ARRAY_NORMS, x, *within)
    return norms


@functools.singledispatch
def derivative_norms(lower: Any, x: Array, values: Array, radius: float) -> DerivativeNorms:
    """Bounds on the derivatives of a lower level: registered for its class, or from its own method.

    Those of P hold for every u with `|u_s − values_s| ≤ radius` in all states.

    Raises:
        Unbounded: if the lower level or a part of it does not give any.
    """
    norms: DerivativeNorms = _ask(lower, "derivative_norms", LOWER_NORMS, x, values, radius)
    return norms


@functools.singledispatch
def gradient_change(objective: Any, x: Array, nearby: NearbyPolicies, weights: Array) -> tuple[float, float]:
    """See `BoundsGradientChange`: registered for the objective's class, or from its own method.

    Raises:
        Unbounded: if there is none.
    """
    change: tuple[float, float] = _ask(objective, "gradient_change", GRADIENT_CHANGE, x, nearby, weights)
    return change


def _ask(owner: Any, method: str, missing: str, *arguments: Any) -> Any:
    if not hasattr(owner, method):
        raise Unbounded(owner, missing)
    return getattr(owner, method)(*arguments)
