"""The errors of rejected input: each message is one sentence with the field, the value and what was expected."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np


class TravellingError(Exception):
    """An exception that can be pickled, with any constructor."""

    def __reduce__(self) -> Any:
        return _exception, (type(self), self.args, self.__dict__.copy())


def _exception(kind: type[BaseException], arguments: tuple[Any, ...], members: dict[str, Any]) -> BaseException:
    error = kind.__new__(kind, *arguments)
    error.__dict__.update(members)
    return error


class InputError(TravellingError, ValueError):
    """An input was rejected; the message gives the field, the value and what was expected."""

    def __init__(self, field: str, value: str, expected: str) -> None:
        self.field = field
        self.value = value
        self.expected = expected
        super().__init__(f"{field} is {value}; expected {expected}")


class UnknownNameError(InputError):
    """An unknown name; the message suggests the close matches."""

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
    """The workers could not complete a task: it killed several of them, or none could be started.

    Attributes:
        task: its index; None if no worker could be started.
    """

    def __init__(self, message: str, task: int | None = None) -> None:
        self.task = task
        super().__init__(message)


LONGEST_VALUE = 80
NUMPY_SCALAR = re.compile(r"np\.\w+\(([^()]*)\)|np\.(True|False)_")


def value_words(value: object) -> str:
    """A value for a message, in one short line: `0.5` for `np.float64(0.5)`, an array by its shape."""
    if isinstance(value, np.ndarray):
        return f"an array of shape {shape_words(value.shape)}"
    if isinstance(value, np.generic):
        value = value.item()
    try:
        text = " ".join(repr(value).split())
    except Exception:  # an integer with more digits than Python prints, or an object whose `repr` raises
        return f"an integer of {value.bit_length():,} bits" if isinstance(value, int) else kind_words(value)
    text = NUMPY_SCALAR.sub(r"\1\2", text)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 20]}…"


def printable(text: object) -> str:
    """A string from a file that is safe to print: one line, without control characters.

    Raises:
        TypeError: if it is not a string.
    """
    if not isinstance(text, str):
        raise TypeError
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def kind_words(value: object) -> str:
    """The kind of a value: `a SoftMDP`, `an int`, `None`."""
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIO' else 'a'} {name}"


def shape_words(shape: Sequence[int | None]) -> str:
    """A shape for a message: `(3, any)`."""
    inside = ", ".join("any" if size is None else str(size) for size in shape)
    return f"({inside},)" if len(shape) == 1 else f"({inside})"


def as_path(field: str, value: object) -> Path:
    """`value` as a path, or an `InputError`."""
    if isinstance(value, str | Path) or (isinstance(value, os.PathLike) and isinstance(value.__fspath__(), str)):
        return Path(value)
    raise InputError(field, value_words(value), "a path: a string or a pathlib.Path")
