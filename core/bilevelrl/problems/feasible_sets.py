"""Feasible sets of the leader's x: closed convex sets with their Euclidean projections."""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

import attrs
import numpy as np

from bilevelrl.validation.arrays import Array, as_array, as_real_array
from bilevelrl.validation.errors import InputError, shape_words
from bilevelrl.validation.fields import is_real


@runtime_checkable
class FeasibleSet(Protocol):
    """A closed convex set X ⊆ R^n."""

    def project(self, x: Array) -> Array:
        """The nearest point of X."""


@attrs.frozen
class Free:
    """All of R^n."""

    def project(self, x: Array) -> Array:
        """x itself."""
        return x


def _bound(value: object) -> Array:
    array = as_real_array("a bound of Box", value)
    if np.isnan(array).any():
        raise InputError("a bound of Box", "nan", "a number, or ±inf for no bound")
    return array


@attrs.frozen(eq=False)
class Box:
    """`lower ≤ x ≤ upper`, each a number or an (n,) array; ±inf for no bound."""

    lower: Array = attrs.field(converter=_bound)
    upper: Array = attrs.field(converter=_bound)

    def __attrs_post_init__(self) -> None:
        try:
            lower, upper = np.broadcast_arrays(self.lower, self.upper)
        except ValueError:
            shapes = f"{shape_words(self.lower.shape)} and {shape_words(self.upper.shape)}"
            raise InputError("the shapes of Box.lower and Box.upper", shapes, "a number or (n,) each") from None
        if (lower > upper).any():
            place = tuple(int(i) for i in np.argwhere(lower > upper)[0])
            label = f"[{place[0]}]" if place else ""
            raise InputError(f"Box.lower{label}", str(lower[place]), f"at most Box.upper{label} = {upper[place]}")

    def project(self, x: Array) -> Array:
        """Clip each coordinate."""
        return np.minimum(np.maximum(x, self.lower), self.upper)


def _center(value: object) -> Array:
    """A finite number or vector."""
    array = as_real_array("Ball.center", value)
    return as_array("Ball.center", array, (None,) * array.ndim)


@attrs.frozen(eq=False)
class Ball:
    """`‖x − center‖₂ ≤ radius`; the center defaults to the origin."""

    radius: float = attrs.field(validator=is_real(above=0.0))
    center: Array = attrs.field(default=0.0, converter=_center)

    def project(self, x: Array) -> Array:
        """Move a point outside the ball to the boundary, along the line to the center."""
        offset = x - self.center
        length = float(np.linalg.norm(offset))
        return x if length <= self.radius else np.asarray(self.center + offset * (self.radius / length))


@attrs.frozen
class Simplex:
    """`x ≥ 0, Σ x = total`."""

    total: float = attrs.field(default=1.0, validator=is_real(above=0.0))

    def project(self, x: Array) -> Array:
        """Subtract the threshold at which the positive parts sum to `total` (Held, Wolfe and Crowder 1974)."""
        # Adding a constant to x does not change the result; relative to the largest entry, the sums below keep their
        # digits.
        shifted = x - x.max()
        descending = np.sort(shifted)[::-1]
        thresholds = (np.cumsum(descending) - self.total) / np.arange(1, x.size + 1)
        support = int(np.flatnonzero(descending > thresholds)[-1])
        return np.asarray(np.maximum(shifted - thresholds[support], 0.0))


def stationarity(feasible_set: FeasibleSet, x: Array, gradient: Array) -> float:
    """`‖x − Π_X(x − g)‖₂`: zero exactly at first-order stationary points of X, and `‖g‖₂` if X is all of R^n."""
    if isinstance(feasible_set, Free):
        return math.sqrt(gradient.dot(gradient))
    step = x - feasible_set.project(x - gradient)
    return math.sqrt(step.dot(step))
