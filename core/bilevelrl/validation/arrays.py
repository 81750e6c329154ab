"""Checks of arrays: type, shape, finite entries, probabilities."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bilevelrl.validation.errors import InputError, kind_words, shape_words, value_words

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.integer[Any]]
Mask = npt.NDArray[np.bool_]


def all_finite(vector: Array) -> bool:
    """Whether a vector has no NaN or infinity: in the common case one product, which would not be finite either."""
    return math.isfinite(vector.dot(vector)) or bool(np.isfinite(vector).all())


def maximum_norm(array: Array) -> float:
    """`max |a_i|`; NaN if an entry is NaN."""
    sizes = np.abs(array)
    return float(sizes.item(sizes.argmax()))  # faster than a reduction for few entries


def as_array(field: str, value: object, shape: Sequence[int | None]) -> Array:
    """`value` as a finite float64 array of the given shape (None: any size), or an `InputError`."""
    array = as_array_unchecked(field, value, shape)
    if not np.isfinite(array).all():
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise InputError(_entry(field, index), str(array[index]), "a finite number")
    return array


def as_array_unchecked(field: str, value: object, shape: Sequence[int | None]) -> Array:
    """`value` as a float64 array of the given shape; entries may be non-finite."""
    array = as_real_array(field, value)
    if array.shape != shape and not matches_shape(array.shape, shape):
        raise InputError(f"the shape of {field}", shape_words(array.shape), shape_words(shape))
    return array


def matches_shape(have: Sequence[int], want: Sequence[int | None]) -> bool:
    """Whether a shape is the one wanted, of which None entries may be any length."""
    return len(have) == len(want) and all(b is None or a == b for a, b in zip(have, want, strict=True))


def as_real_array(field: str, value: object) -> Array:
    """`value` as a float64 array of any shape, or an `InputError`; only numbers are accepted, without conversion."""
    if type(value) is np.ndarray and value.dtype == np.float64:
        return value
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "biufO":  # NumPy converts all entries to strings if one is a string
            array = np.array(value.tolist() if isinstance(value, np.ndarray) else value, dtype=object)
    except (TypeError, ValueError):  # not a single array, such as rows of unequal lengths
        array = np.array(None, dtype=object)
    if isinstance(value, np.ma.MaskedArray) and value.mask.any():
        index = tuple(int(i) for i in np.argwhere(value.mask)[0])
        raise InputError(_entry(field, index), "masked", "a number")
    if array.dtype.kind == "O":
        if array.ndim == 0 and not isinstance(array.item(), numbers.Real):
            raise InputError(field, _not_an_array(value), "an array of real numbers")
        for index, entry in np.ndenumerate(array):
            if not isinstance(entry, numbers.Real | np.bool_):
                raise InputError(_entry(field, index), value_words(entry), "a real number")
    try:
        return np.asarray(array, dtype=np.float64)
    except OverflowError:
        raise InputError(field, "beyond the range of float64", "an array of real numbers") from None


def _not_an_array(value: object) -> str:
    return "a ragged list" if isinstance(value, list | tuple) else kind_words(value)


def _entry(field: str, index: Sequence[int]) -> str:
    return f"{field}[{', '.join(map(str, index))}]" if len(index) else field


def check_shape(field: str, array: Array, shape: Sequence[int]) -> None:
    """Raise `InputError` if an array has another shape."""
    if array.shape != tuple(shape):
        raise InputError(f"the shape of {field}", shape_words(array.shape), shape_words(shape))


def as_distribution(field: str, value: object, size: int | None) -> Array:
    """`value` as a probability vector of the given size (None: any): non-negative, sum one within 1e-8."""
    array = as_array(field, value, (size,))
    with np.errstate(over="ignore"):
        total = array.sum()
    rounded = rounded_sums(value, total, array.size)
    if rounded is not None:
        array, total = array / rounded, total / rounded
    if (array < 0).any():
        index = int(array.argmin())
        raise InputError(f"{field}[{index}]", str(array[index]), "a probability, so not negative")
    if not abs(total - 1.0) <= PROBABILITY_TOLERANCE:
        raise InputError(f"the sum of {field}", repr(float(total)), "1 within 1e-8")
    return array


# Tables with eight or more digits are accepted; a missing or doubled entry is not.
PROBABILITY_TOLERANCE = 1e-8


def rounded_sums(given: object, sums: Any, terms: int) -> Array | None:
    """The divisors that normalise the rows of a table of probabilities in float32 or less; None for float64.

    Sums of `terms` rounded numbers differ from one by rounding, which is corrected; a larger error is kept.
    """
    dtype = np.asarray(given).dtype if hasattr(given, "dtype") else np.dtype(np.float64)
    if dtype.kind != "f" or dtype.itemsize >= 8:
        return None
    return np.where(np.abs(sums - 1.0) <= terms * np.finfo(dtype).eps, sums, 1.0)


def read_only(array: Array) -> Array:
    """A read-only view: components share arrays, and must not change them."""
    view = array.view()
    view.flags.writeable = False
    return view
