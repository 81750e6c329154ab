"""Validators of option fields: numbers within bounds, counts, choices, flags."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Callable
from typing import Any

import attrs
import numpy as np

from bilevelrl.validation.errors import InputError, UnknownNameError, value_words

Validator = Callable[[Any, "attrs.Attribute[Any]", Any], None]


def is_real(
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
    optional: bool = False,
) -> Validator:
    """An attrs validator for a finite real number within bounds (`optional` also accepts None)."""
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
    """A real number as a float; NaN for anything else: a flag, a string, an integer beyond the range of floats."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool | np.bool_):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def is_integer(*, at_least: int | None = None, optional: bool = False) -> Validator:
    """An attrs validator for an integer with a lower bound (`optional` also accepts None)."""
    expected = "an integer" + (f" of at least {at_least}" if at_least is not None else "")

    def validate(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if optional and value is None:
            return
        if not _is_count(value, at_least):
            raise InputError(attribute.name, value_words(value), _size_words(expected, value, optional=optional))

    return validate


def is_choice(*choices: str) -> Validator:
    """An attrs validator for one of a few strings; for a similar string the message has a suggestion."""

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


def check_positive(field: str, value: object) -> None:
    """Raise `InputError` unless `value` is a finite number above 0."""
    if not 0.0 < as_float(value) < math.inf:
        raise InputError(field, value_words(value), "a finite number above 0")


def check_not_negative(field: str, value: object) -> None:
    """Raise `InputError` unless `value` is a finite number of at least 0."""
    if not 0.0 <= as_float(value) < math.inf:
        raise InputError(field, value_words(value), "a finite number of at least 0")


def check_count(field: str, value: object, *, at_least: int = 1) -> None:
    """Raise `InputError` unless `value` is an integer of at least `at_least`; True and False are not integers."""
    if not _is_count(value, at_least):
        raise InputError(field, value_words(value), _size_words(f"an integer of at least {at_least}", value))


def _size_words(expected: str, value: object, *, optional: bool = False) -> str:
    """The expected value, with the upper limit if the value exceeds it."""
    too_large = isinstance(value, numbers.Integral) and not math.isfinite(as_float(value)) and not _is_flag(value)
    return expected + (" and within the range of float64" if too_large else "") + (" or None" if optional else "")


def _is_flag(value: object) -> bool:
    return isinstance(value, bool | np.bool_)


def _is_count(value: Any, at_least: int | None) -> bool:
    """An integer within the range of floats: larger ones have no use as sizes, and Python cannot print the longest."""
    is_whole = isinstance(value, numbers.Integral) and not _is_flag(value)
    return is_whole and math.isfinite(as_float(value)) and (at_least is None or int(value) >= at_least)
