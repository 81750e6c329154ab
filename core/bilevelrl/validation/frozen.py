"""Frozen attrs classes: converters that read other fields, and copies on the path that runs once an iteration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import attrs


def depending(convert: Callable[[Any, Any], Any]) -> Any:
    """An attrs converter `(value, instance) ↦ value` that may read the fields declared before its own.

    mypy knows no such converter: a field that has one needs `# type: ignore[misc]`.
    """
    return attrs.Converter(convert, takes_self=True)


Instance = TypeVar("Instance")


def unchecked_copy(instance: Instance, fields: Mapping[str, Any]) -> Instance:
    """A copy of a frozen attrs object with some fields replaced, neither converted nor validated again.

    For the path that runs once an iteration, where values are valid by construction: `attrs.evolve` would check all
    fields anew. The class has a `__dict__` (`slots=False`), and none of the fields replaced decides another's value.

    Args:
        instance: what to copy.
        fields: their new values, and those of the cached properties that depend on them.
    """
    copy = object.__new__(type(instance))
    members = copy.__dict__
    members |= instance.__dict__
    members |= fields
    return copy
