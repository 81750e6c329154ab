"""Values as bytes for another process of the same run. Nothing from a file or a user is ever unpickled.

joblib transports these bytes. Tasks, results and errors are pickled here and not by joblib, because a backend that
cannot pickle a result may wait for it forever, and because a message can then name the part that cannot be pickled.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import numpy as np

from bilevelrl.validation.errors import InputError, kind_words


def dumps(value: Any, label: str, out_of_band: Callable[[Any], bool] | None = None) -> bytes:
    """The value as a pickle.

    Functions that cannot be imported (defined in a notebook, a script or another function) are pickled by value. Values
    of a `cached_property` are left out, and computed again when needed. Arrays keep the order of their axes in memory,
    since the last bits of a sum depend on it.

    Args:
        value: what to pickle.
        label: its name in messages.
        out_of_band: called with the `pickle.PickleBuffer` of each array; if it returns False, the caller sends that
            buffer itself, and passes it to `pickle.loads` in the same order.

    Raises:
        InputError: if a part of the value cannot be pickled; the message names it.
    """
    file = io.BytesIO()
    try:
        _pickler()(file, protocol=5, buffer_callback=out_of_band).dump(value)
    except Exception as error:  # pickle and its reducers may raise any exception
        field, culprit, reason = _culprit(value, label, error)
        complaint = f"{kind_words(culprit)} that cannot be sent to another process ({reason})"
        expected = "values and functions only, such as registered names give, or jobs=1"
        raise InputError(field, complaint, expected) from error
    return file.getvalue()


def loads(data: Any, buffers: Any = ()) -> Any:
    """The value that `dumps` pickled."""
    import pickle

    return pickle.loads(data, buffers=buffers)


@functools.cache
def _pickler() -> Any:
    import cloudpickle

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, obj: Any) -> Any:
            if type(obj) is np.ndarray and not (obj.flags.c_contiguous or obj.flags.f_contiguous):
                axes = sorted(range(obj.ndim), key=lambda axis: -abs(obj.strides[axis]))
                return _in_order, (np.ascontiguousarray(obj.transpose(axes)), axes)
            kind: Any = type(obj)
            cached = _cached_names(kind).intersection(getattr(obj, "__dict__", ()))
            if cached:
                return _without(obj, cached)
            return super().reducer_override(obj)

    return Pickler


def _in_order(array: Any, axes: list[int]) -> Any:
    return array.transpose(np.argsort(axes))


@functools.cache
def _cached_names(kind: type) -> frozenset[str]:
    members = ((name, member) for base in kind.__mro__ for name, member in vars(base).items())
    return frozenset(name for name, member in members if isinstance(member, functools.cached_property))


def _without(obj: Any, names: frozenset[str]) -> Any:
    function, arguments, state, *rest = obj.__reduce_ex__(5)
    if isinstance(state, dict):
        state = {name: value for name, value in state.items() if name not in names}
    return function, arguments, state, *rest


def _culprit(value: Any, label: str, error: Exception, depth: int = 6) -> tuple[str, Any, str]:
    """The smallest part of a value that cannot be pickled, by its path."""
    for name, part in _parts(value) if depth else ():
        try:
            _pickler()(io.BytesIO(), protocol=5).dump(part)
        except Exception as inner:
            return _culprit(part, f"{label}{name}", inner, depth - 1)
    return label, value, " ".join(str(error).split()) or type(error).__name__


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from ((f"[{key!r}]", part) for key, part in value.items())
    elif isinstance(value, list | tuple):
        yield from ((f"[{index}]", part) for index, part in enumerate(value))
    elif attrs.has(type(value)):
        yield from ((f".{field.name}", getattr(value, field.name)) for field in attrs.fields(type(value)))
    elif not isinstance(value, type):
        yield from ((f".{name}", part) for name, part in getattr(value, "__dict__", {}).items())
