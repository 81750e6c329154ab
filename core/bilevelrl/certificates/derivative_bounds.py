"""How large derivatives can be, without a Jacobian: what a certificate asks of a problem's parts and objective.

Every method here is optional. A part or an objective that lacks its own can be solved and differentiated as any other;
only its certificates have no bound, and say what is missing.
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
    """Bounds of the derivative by x of a table t, one number an entry.

    Args:
        norms: at least `‖∇_x t_i‖₂` for each entry i.
        sizes: the same for the sum of the absolute values of all that `∇_x t_i` is computed from, before anything
            cancels: rounding is a few ulps of it. At least `norms`.
    """

    norms: Array
    sizes: Array

    @classmethod
    def plain(cls, norms: Array) -> RowNorms:
        """Those of a derivative in whose computation nothing cancels."""
        return cls(norms, norms)

    @classmethod
    def zero(cls, shape: tuple[int, ...]) -> RowNorms:
        """Those of a table that does not depend on x."""
        return cls.plain(np.zeros(shape))

    @classmethod
    def joined(cls, parts: Sequence[RowNorms]) -> RowNorms:
        """Those of tables whose rows follow each other."""
        return cls(np.concatenate([part.norms for part in parts]), np.concatenate([part.sizes for part in parts]))

    def times(self, factor: float) -> RowNorms:
        """Those of the table times a factor of at least 0."""
        return RowNorms(factor * self.norms, factor * self.sizes)


@attrs.frozen(eq=False)
class DerivativeNorms:
    """Bounds of the derivatives by x of a follower's MDP.

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
    """A lower level that says how large its derivatives can be."""

    def derivative_norms(self, x: Array, values: Array, radius: float) -> DerivativeNorms:
        """At x; those of P for every u with `|u_s − values_s| ≤ radius` in all states."""


@runtime_checkable
class BoundsGradientChange(Protocol):
    """An objective of the policy that says how far its gradients can move while the policy does."""

    def gradient_change(self, x: Array, nearby: NearbyPolicies, weights: Array) -> tuple[float, float]:
        """Two upper bounds over all nearby policies π', with `∂f` on the right as `value_and_gradients` computes it.

            ‖∂f/∂x(x, π') − ∂f/∂x(x, π)‖₂
            Σ_sa weights_sa |∂f/∂π_sa(x, π') − ∂f/∂π_sa(x, π) − k_s|    for some number k_s per state

        Rounding is part of it: the left-hand sides are exact, the right-hand ones are not. `weights` (S, A) ≥ 0.
        """


class Unbounded(Exception):
    """A part or an objective does not say how large its derivative can be; the message says what to add."""

    def __init__(self, owner: object, missing: str) -> None:
        super().__init__(f"{kind_words(owner)} does not say how large its derivative can be; give it {missing}")


ARRAY_NORMS = "a method row_norms(x), which returns a RowNorms of the array's shape"
TRANSITION_NORMS = "a method row_norms(x, values, radius), which returns a RowNorms (S, A)"
LOWER_NORMS = "a method derivative_norms(x, values, radius), which returns a DerivativeNorms"
GRADIENT_CHANGE = "a method gradient_change(x, nearby, weights), see BoundsGradientChange"


@functools.singledispatch
def row_norms(part: Any, x: Array, *within: Any) -> RowNorms:
    """Bounds of the derivative of a part by x: those registered for its class, else its own method `row_norms`.

    Args:
        part: rewards, transitions or an initial distribution that depend on x.
        x: (n,).
        within: for transitions, the values (S,) and the radius of `derivative_norms`.

    Raises:
        Unbounded: where the part does not give any.
    """
    norms: RowNorms = _ask(part, "row_norms", TRANSITION_NORMS if within else ARRAY_NORMS, x, *within)
    return norms


@functools.singledispatch
def derivative_norms(lower: Any, x: Array, values: Array, radius: float) -> DerivativeNorms:
    """Bounds of the derivatives of a lower level: those registered for its class, else its own method.

    Those of P hold for every u with `|u_s − values_s| ≤ radius` in all states.

    Raises:
        Unbounded: where the lower level or a part of it does not give any.
    """
    norms: DerivativeNorms = _ask(lower, "derivative_norms", LOWER_NORMS, x, values, radius)
    return norms


@functools.singledispatch
def gradient_change(objective: Any, x: Array, nearby: NearbyPolicies, weights: Array) -> tuple[float, float]:
    """See `BoundsGradientChange`: what is registered for the objective's class, else its own method.

    Raises:
        Unbounded: where there is none.
    """
    change: tuple[float, float] = _ask(objective, "gradient_change", GRADIENT_CHANGE, x, nearby, weights)
    return change


def _ask(owner: Any, method: str, missing: str, *arguments: Any) -> Any:
    if not hasattr(owner, method):
        raise Unbounded(owner, missing)
    return getattr(owner, method)(*arguments)
