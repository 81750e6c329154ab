"""Components from options: the fields of an attrs class are its configuration, and are checked strictly."""

from __future__ import annotations

import functools
import numbers
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

import attrs
import numpy as np

from bilevelrl.validation.errors import InputError, UnknownNameError, value_words

T = TypeVar("T")


def build(component: type[T], options: Mapping[str, Any]) -> T:
    """An instance of an attrs class from options.

    Raises `InputError` for an unknown option (with the close matches), a value of the wrong type, a missing option, or
    a value that the class's own validators reject.
    """
    owner = repr(getattr(component, "name", component.__name__))
    fields = {field.alias or field.name: field for field in option_fields(component)}
    for key in options:
        if key not in fields:
            raise UnknownNameError(f"an option of {owner}", key, fields)
    for key, field in fields.items():
        if field.default is attrs.NOTHING and key not in options:
            raise InputError(f"option {key!r} of {owner}", "missing", _expected_words(component, field))
    values = {key: _convert(component, fields[key], value, owner) for key, value in options.items()}
    try:
        return component(**values)
    except InputError as error:
        if error.field in fields:
            raise InputError(f"option {error.field!r} of {owner}", error.value, error.expected) from error
        raise
    except (TypeError, ValueError) as error:
        label, given = f"the configuration of {owner}", value_words(dict(options))
        raise InputError(label, given, f"valid options ({error})") from error


def options_of(component: object) -> dict[str, Any]:
    """The configuration of a component by option name, without options whose value is the default None."""
    values = {field.alias or field.name: getattr(component, field.name) for field in option_fields(type(component))}
    return {key: value for key, value in values.items() if value is not None}


def option_fields(component: type) -> list[attrs.Attribute[Any]]:
    """The fields that a caller may set."""
    return [field for field in attrs.fields(component) if field.init]


def type_words(component: type, field: attrs.Attribute[Any]) -> str:
    """A field's type as source code has it: `int | None`."""
    hint = _hints(component).get(field.name, Any)
    return getattr(hint, "__name__", str(hint)) if isinstance(hint, type) else str(hint).replace("typing.", "")


_EXPECTED = {
    int: "an integer",
    float: "a number",
    str: "a string",
    bool: "true or false",
    types.NoneType: "None",
    Any: "a value",
}


def _expected_words(component: type, field: attrs.Attribute[Any]) -> str:
    """A field's type in words: `an integer or None`."""
    hint = _hints(component).get(field.name, Any)
    choices = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return " or ".join(_EXPECTED.get(choice, str(choice).replace("typing.", "")) for choice in choices)


@functools.cache
def _hints(component: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(component)
    except NameError:  # a plugin's hints may use names that are imported for type checkers only
        return {}


def _convert(component: type, field: attrs.Attribute[Any], value: Any, owner: str) -> Any:
    import cattrs

    hint = _hints(component).get(field.name, Any)
    try:
        return _converter().structure(value, hint)
    except cattrs.errors.StructureHandlerNotFoundError:
        return value  # not a plain type (an array, a function): the class's own validator decides
    except (TypeError, ValueError, AttributeError, OverflowError, cattrs.BaseValidationError):
        label = f"option {field.alias or field.name!r} of {owner}"
        raise InputError(label, value_words(value), _expected_words(component, field)) from None


@functools.cache
def _converter() -> Any:
    """A cattrs converter that never coerces: 3.7 is not an integer, "0.1" not a number, 1 not a flag."""
    import cattrs

    def whole(value: Any, _: type) -> int:
        if isinstance(value, numbers.Integral) and not isinstance(value, bool | np.bool_):
            return int(value)
        raise TypeError

    def real(value: Any, _: type) -> float:
        if isinstance(value, numbers.Real) and not isinstance(value, bool | np.bool_):
            return float(value)  # OverflowError: an integer beyond the range of floats
        raise TypeError

    def exactly(value: Any, kind: type) -> Any:
        if type(value) is kind:
            return value
        raise TypeError

    converter = cattrs.Converter()
    converter.register_structure_hook(int, whole)
    converter.register_structure_hook(float, real)
    converter.register_structure_hook(str, exactly)
    converter.register_structure_hook(bool, exactly)
    return converter
