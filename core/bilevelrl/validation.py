"""Checks at the edge: every rejected input is told in one sentence — field, value, what was expected."""

from __future__ import annotations

import difflib
import math
import numbers
import operator
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.integer[Any]]
Mask = npt.NDArray[np.bool_]
Validator = Callable[[Any, "attrs.Attribute[Any]", Any], None]


class TravellingError(Exception):
    """An exception that another process can send: as it was made, whatever its constructor takes."""

    def __reduce__(self) -> Any:
        return _exception, (type(self), self.args, self.__dict__.copy())


def _exception(kind: type[BaseException], arguments: tuple[Any, ...], members: dict[str, Any]) -> BaseException:
    error = kind.__new__(kind, *arguments)
    error.__dict__.update(members)
    return error


class InputError(TravellingError, ValueError):
    """An input was rejected; the message names the field, the value and what was expected."""

    def __init__(self, field: str, value: str, expected: str) -> None:
        self.field = field
        self.value = value
        self.expected = expected
        super().__init__(f"{field} is {value}; expected {expected}")


class UnknownNameError(InputError):
    """A name that nothing is registered under; the message suggests the close matches."""

    def __init__(self, field: str, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        folded = {entry.casefold(): entry for entry in known}
        close = [folded[match] for match in difflib.get_close_matches(name[:80].casefold(), folded, n=3, cutoff=0.6)]
        if close:
            *firsts, last = map(repr, close)
            suggestion = f"{', '.join(firsts)} or {last}" if firsts else last
            expected = f"a known name; did you mean {suggestion}?"
        else:
            expected = f"one of {', '.join(map(repr, known))}" if known else "nothing: no such name exists"
        super().__init__(field, value_words(name), expected)


class IncompatibleError(InputError):
    """A component needs something that the problem does not offer."""

    def __init__(self, message: str) -> None:
        ValueError.__init__(self, message)


class WorkerLost(TravellingError, RuntimeError):
    """The workers could not do a task: they died of it again and again, or their executor failed.

    Attributes:
        task: its index; None where no worker could be started.
    """

    def __init__(self, message: str, task: int | None = None) -> None:
        self.task = task
        super().__init__(message)


LONGEST_VALUE = 80
NUMPY_SCALAR = re.compile(r"np\.\w+\(([^()]*)\)|np\.(True|False)_")


def value_words(value: object) -> str:
    """A value as a message shows it, in one short line: `0.5` for `np.float64(0.5)`, an array by its shape."""
    if isinstance(value, np.ndarray):
        return f"an array of shape {shape_words(value.shape)}"
    if isinstance(value, np.generic):
        value = value.item()
    try:
        text = " ".join(repr(value).split())
    except Exception:  # an integer of more digits than Python prints, or an object that cannot tell itself
        return f"an integer of {value.bit_length():,} bits" if isinstance(value, int) else kind_words(value)
    text = NUMPY_SCALAR.sub(r"\1\2", text)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 20]}…"


def printable(text: object) -> str:
    """A word from a file as it may be shown: one line, without what would move a terminal's cursor.

    Raises:
        TypeError: for anything but a string.
    """
    if not isinstance(text, str):
        raise TypeError
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def kind_words(value: object) -> str:
    """What kind of object a value is: `a SoftMDP`, `an int`, `None`."""
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIO' else 'a'} {name}"


def is_real(
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
    optional: bool = False,
) -> Validator:
    """An attrs validator for a finite real number within bounds (`optional` lets None through)."""
    limits: list[tuple[str, float, Callable[[float, float], bool]]] = [
        (words, limit, holds)
        for words, limit, holds in (
            ("above", above, operator.gt),
            ("at least", at_least, operator.ge),
            ("below", below, operator.lt),
            ("at most", at_most, operator.le),
        )
        if limit is not None
    ]
    expected = " ".join(["a finite number", " and ".join(f"{words} {limit:g}" for words, limit, _ in limits)]).strip()

    def validate(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if optional and value is None:
            return
        number = as_float(value)
        if not math.isfinite(number) or not all(holds(number, limit) for _, limit, holds in limits):
            raise InputError(attribute.name, value_words(value), expected + (" or None" if optional else ""))

    return validate


def as_float(value: object) -> float:
    """A real number as a float, NaN for anything else: a flag, a string, an integer beyond the floats."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool | np.bool_):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def is_integer(*, at_least: int | None = None, optional: bool = False) -> Validator:
    """An attrs validator for an integer with a lower bound (`optional` lets None through)."""
    expected = "an integer" + (f" of at least {at_least}" if at_least is not None else "")

    def validate(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if optional and value is None:
            return
        if not _is_count(value, at_least):
            raise InputError(attribute.name, value_words(value), _size_words(expected, value, optional=optional))

    return validate


def is_choice(*choices: str) -> Validator:
    """An attrs validator for one of a few words; a near miss gets a suggestion."""

    def validate(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if value not in choices:
            if isinstance(value, str):
                raise UnknownNameError(attribute.name, value, choices)
            raise InputError(attribute.name, value_words(value), f"one of {', '.join(map(repr, choices))}")

    return validate


def is_flag() -> Validator:
    """An attrs validator for True or False."""

    def validate(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if not isinstance(value, bool):
            raise InputError(attribute.name, value_words(value), "True or False")

    return validate


def all_finite(vector: Array) -> bool:
    """Whether a vector has no NaN or infinity: one product in the common case, since either would show in it."""
    return math.isfinite(vector.dot(vector)) or bool(np.isfinite(vector).all())


def maximum_norm(array: Array) -> float:
    """`max |a_i|`, NaN where an entry is."""
    sizes = np.abs(array)
    return float(sizes.item(sizes.argmax()))  # for few entries, quicker than a reduction


def shape_words(shape: Sequence[int | None]) -> str:
    """A shape as a reader writes it: `(3, any)`."""
    inside = ", ".join("any" if size is None else str(size) for size in shape)
    return f"({inside},)" if len(shape) == 1 else f"({inside})"


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
    if array.shape != shape and not _matches(array.shape, shape):
        raise InputError(f"the shape of {field}", shape_words(array.shape), shape_words(shape))
    return array


def _matches(have: Sequence[int], want: Sequence[int | None]) -> bool:
    return len(have) == len(want) and all(b is None or a == b for a, b in zip(have, want, strict=True))


def as_real_array(field: str, value: object) -> Array:
    """`value` as a float64 array of any shape, or an `InputError`; nothing that is not a number is taken for one."""
    if type(value) is np.ndarray and value.dtype == np.float64:
        return value
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "biufO":  # NumPy makes strings of all entries where one is a string
            array = np.array(value.tolist() if isinstance(value, np.ndarray) else value, dtype=object)
    except (TypeError, ValueError):  # what cannot be one array, such as rows of unequal lengths
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


def as_path(field: str, value: object) -> Path:
    """`value` as a path, or an `InputError`."""
    if isinstance(value, str | Path) or (isinstance(value, os.PathLike) and isinstance(value.__fspath__(), str)):
        return Path(value)
    raise InputError(field, value_words(value), "a path: a string or a pathlib.Path")


def check_count(field: str, value: object, *, at_least: int = 1) -> None:
    """Raise `InputError` unless `value` is an integer of at least so many; True and False are none."""
    if not _is_count(value, at_least):
        raise InputError(field, value_words(value), _size_words(f"an integer of at least {at_least}", value))


def _size_words(expected: str, value: object, *, optional: bool = False) -> str:
    """What was expected, with the upper limit where it is that which the value missed."""
    too_large = isinstance(value, numbers.Integral) and not math.isfinite(as_float(value)) and not _is_flag(value)
    return expected + (" and within the range of float64" if too_large else "") + (" or None" if optional else "")


def _is_flag(value: object) -> bool:
    return isinstance(value, bool | np.bool_)


def _is_count(value: Any, at_least: int | None) -> bool:
    """An integer within the floats: none beyond has a meaning as a size, and Python does not even print the longest."""
    is_whole = isinstance(value, numbers.Integral) and not _is_flag(value)
    return is_whole and math.isfinite(as_float(value)) and (at_least is None or int(value) >= at_least)


def check_shape(field: str, array: Array, shape: Sequence[int]) -> None:
    """Raise `InputError` where an array has another shape."""
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


# Tables written with eight or more digits pass; a missing or doubled entry does not.
PROBABILITY_TOLERANCE = 1e-8


def rounded_sums(given: object, sums: Any, terms: int) -> Array | None:
    """What to divide the rows of a table of probabilities by, where it was given in float32 or less; None for float64.

    Sums of `terms` rounded numbers miss one by that rounding, which is no mistake of the caller; a larger miss stays.
    """
    dtype = np.asarray(given).dtype if hasattr(given, "dtype") else np.dtype(np.float64)
    if dtype.kind != "f" or dtype.itemsize >= 8:
        return None
    return np.where(np.abs(sums - 1.0) <= terms * np.finfo(dtype).eps, sums, 1.0)


def read_only(array: Array) -> Array:
    """A view that refuses writes: components share arrays, and none may change another's."""
    view = array.view()
    view.flags.writeable = False
    return view
