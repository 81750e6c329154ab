"""JSON that every reader accepts: no NaN, no Infinity, and only JSON's own types."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bilevelrl.validation.errors import InputError, value_words

NON_FINITE = "non-finite"
"""The key for a float that is not finite, in documents that are read back exactly."""


def json_text(content: Any, *, indent: int | None = None) -> str:
    """Content for other programs: a float that is not finite becomes the string "NaN", "Infinity" or "-Infinity"."""
    return _dump(content, non_finite_words, indent)


def exact_json(content: Any) -> str:
    """Content that `read_exact_json` reads back exactly: a float that is not finite becomes `{"non-finite": "nan"}`."""
    return _dump(content, lambda value: {NON_FINITE: repr(value)}, None)


def read_exact_json(data: bytes) -> Any:
    """The content that `exact_json` wrote; raises `ValueError` or `RecursionError` for any other bytes."""
    return json.loads(data, parse_constant=no_constant, object_hook=_non_finite)


def non_finite_words(value: float) -> str:
    """A float that is not finite, in the form that JavaScript and Python's `float` read."""
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def plain(value: Any, non_finite: Callable[[float], Any] = float) -> Any:
    """A value in JSON's own types, from arrays and NumPy's numbers too.

    Raises:
        InputError: if it is not a number, flag, string, None, or a list or table of these.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(entry, non_finite) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry, non_finite) for entry in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist(), non_finite)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else non_finite(float(value))
    if value is None or isinstance(value, bool | int | str):
        return value
    raise InputError("a figure to be saved", value_words(value), "a number, a flag, a string or None")


def _dump(content: Any, non_finite: Callable[[float], Any], indent: int | None) -> str:
    return json.dumps(plain(content, non_finite), indent=indent, ensure_ascii=False, allow_nan=False)


def no_constant(word: str) -> Any:
    """Refuses NaN and Infinity, which Python's parser accepts although JSON does not have them."""
    raise ValueError(word)


def _non_finite(table: dict[str, Any]) -> Any:
    word = table.get(NON_FINITE)
    return float(word) if len(table) == 1 and word in ("nan", "inf", "-inf") else table
