"""Frozen attrs classes: converters that read other fields, and fast copies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import attrs


def depending(convert: Callable[[Any, Any], Any]) -> Any:
    """An attrs converter `(value, instance) ↦ value` that may read the fields declared before its own.

    mypy does not support such converters: a field that has one needs `# type: ignore[misc]`.
    """
    return attrs.Converter(convert, takes_self=True)


Instance = TypeVar("Instance")


def unchecked_copy(instance: Instance, fields: Mapping[str, Any]) -> Instance:
    """A copy of a frozen attrs object with some fields replaced, without converting or validating them.

    For code that runs once an iteration, with values that are valid by construction: `attrs.evolve` would check all
    fields again. The class must have a `__dict__` (`slots=False`), and no replaced field may determine another field's
    value.

    Args:
        instance: the object to copy.
        fields: their new values, and those of the cached properties that depend on them.
    """
    copy = object.__new__(type(instance))
    members = copy.__dict__
    members |= instance.__dict__
    members |= fields
    return copy
