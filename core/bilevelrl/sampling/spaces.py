"""Spaces of observations and actions: any object with Gymnasium's `contains`, `shape` and `dtype`, and `Discrete`."""

from __future__ import annotations

import numbers
from typing import Any, ClassVar, Protocol, runtime_checkable

import attrs
import numpy as np

from bilevelrl.validation.errors import InputError, value_words
from bilevelrl.validation.fields import is_integer


@runtime_checkable
class Space(Protocol):
    """What a space must offer. Gymnasium's spaces of arrays (Box, Discrete, MultiBinary, MultiDiscrete) offer it."""

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The shape of one element."""

    @property
    def dtype(self) -> Any:
        """The NumPy type of an element's entries."""

    def contains(self, x: Any) -> bool:
        """Whether x is an element."""


@attrs.frozen
class Discrete:
    """The indices 0, …, n−1: the states or actions of a table."""

    n: int = attrs.field(validator=is_integer(at_least=1))
    shape: ClassVar[tuple[int, ...]] = ()
    dtype: ClassVar[np.dtype[Any]] = np.dtype(np.int64)

    def contains(self, x: Any) -> bool:
        """Whether x is an integer from 0 to n−1."""
        value = x.item() if isinstance(x, np.ndarray | np.generic) and np.ndim(x) == 0 else x
        return isinstance(value, numbers.Integral) and not isinstance(value, bool) and 0 <= int(value) < self.n


def is_space(field: str, value: Any) -> Any:
    """`value` if it is a space of arrays; otherwise raises `InputError`."""
    if not isinstance(value, Space) or value.shape is None or value.dtype is None:
        expected = "a space of arrays: an object with contains, shape and dtype, such as Gymnasium's Box or Discrete"
        raise InputError(field, value_words(value), expected)
    return value


def table_size(space: Any) -> int | None:
    """n of a `Discrete(n)` that starts at zero, of this module or of Gymnasium; None for any other space."""
    size = getattr(space, "n", None)
    whole = isinstance(size, numbers.Integral) and tuple(space.shape or ()) == () and getattr(space, "start", 0) == 0
    return int(size) if whole and size is not None else None
