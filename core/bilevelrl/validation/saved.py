"""Checks of data from a checkpoint: files are not trusted, so a solver uses these before it computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bilevelrl.validation.arrays import PROBABILITY_TOLERANCE, Array, check_shape, matches_shape
from bilevelrl.validation.errors import InputError, kind_words, shape_words, value_words

LARGEST_COUNT = 2**63 - 1


def saved_array(
    arrays: Mapping[str, npt.NDArray[Any]],
    name: str,
    shape: Sequence[int | None],
    dtype: npt.DTypeLike = np.float64,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    finite: bool = True,
) -> npt.NDArray[Any]:
    """The array of that name, of exactly this type, this shape (None: any length) and this range.

    Floats are finite, unless `finite` is False: a run that diverges may carry others, which its status reports.

    Raises:
        InputError: if it is missing, or is not such an array.
    """
    field = f"the saved array {name!r}"
    if name not in arrays:
        raise InputError(field, "missing", f"an array of shape {shape_words(shape)}")
    array = arrays[name]
    if array.dtype != np.dtype(dtype):
        raise InputError(f"the type of {field}", str(array.dtype), str(np.dtype(dtype)))
    if not matches_shape(array.shape, shape):
        raise InputError(f"the shape of {field}", shape_words(array.shape), shape_words(shape))
    if finite and array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError(field, "not finite everywhere", "finite numbers")
    if at_least is not None and (array < at_least).any():
        raise InputError(f"the smallest entry of {field}", value_words(array.min()), f"at least {at_least:g}")
    if at_most is not None and (array > at_most).any():
        raise InputError(f"the largest entry of {field}", value_words(array.max()), f"at most {at_most:g}")
    return array


def saved_policy(arrays: Mapping[str, npt.NDArray[Any]], name: str, shape: tuple[int, int]) -> Array:
    """The array of that name as a policy (S, A): probabilities whose rows sum to one within 1e-8.

    Raises:
        InputError: if it is missing, or is not such a policy.
    """
    policy = saved_array(arrays, name, shape, at_least=0.0, at_most=1.0 + PROBABILITY_TOLERANCE)
    missed = float(np.abs(policy.sum(axis=1) - 1.0).max(initial=0.0))
    if missed > PROBABILITY_TOLERANCE:
        raise InputError(f"the rows of the saved array {name!r}", f"{missed:.2g} off the sum 1", "probabilities")
    return policy


def saved_count(figures: Mapping[str, Any], name: str) -> int:
    """The figure of that name, an integer of at least 0 that fits into 64 bits; raises `InputError` otherwise."""
    value = figures.get(name)
    if type(value) is not int or not 0 <= value <= LARGEST_COUNT:
        raise InputError(f"the saved figure {name!r}", value_words(value), "a whole number of at least 0")
    return value


def check_table(field: str, value: object, shape: tuple[int, ...]) -> None:
    """Raise `InputError` if a component's answer, or a part of it, is not an array of that shape."""
    if not isinstance(value, np.ndarray):
        raise InputError(field, kind_words(value), f"an array of shape {shape}")
    check_shape(field, value, shape)
