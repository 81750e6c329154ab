"""Values as Python source, so that a failing example can be pasted into a test.

The expression assumes `import numpy as np`, `import scipy.sparse`, `import bilevelrl as bl` and
`from bilevelrl import testing`.
"""

from __future__ import annotations

import enum
import math
import textwrap
from collections.abc import Callable
from typing import Any, TypeAlias

import attrs
import numpy as np
import scipy.sparse

import bilevelrl as bl

# Narrower than the 120 columns of a source file, so that the text may be indented where it is pasted.
WIDTH = 100
INDENT = 4

# Sparse arrays with more entries than this, including zeros, are written by their stored entries.
WRITTEN_DENSE = 10_000


@attrs.frozen
class Group:
    """A bracketed list: on one line if it fits, else one item per line, or with `packed` as many as fit."""

    opening: str
    items: list[Node]
    closing: str
    packed: bool = False


Node: TypeAlias = str | Group


def source(value: object) -> str:
    """A Python expression that rebuilds `value`, broken over lines of at most 100 columns.

    It writes this package's MDPs, objectives and problems, arrays with their exact floats, and plain Python values;
    default arguments are left out. Anything else (a lambda, another class) becomes its `repr` in angle brackets, so
    that the rest of the text can still be read.
    """
    return _laid_out(_node(value), 0)


def _laid_out(node: Node, indent: int) -> str:
    flat = _flat(node)
    # One column for the comma behind it.
    if isinstance(node, str) or not node.items or indent + len(flat) < WIDTH:
        return flat
    inner = indent + INDENT
    if node.packed:
        packed = textwrap.fill(", ".join(map(_flat, node.items)), WIDTH - inner, break_long_words=False)
        body = textwrap.indent(packed, " " * inner) + ",\n"
    else:
        body = "".join(f"{' ' * inner}{_laid_out(item, inner)},\n" for item in node.items)
    # The comma of a tuple of one item has been written with the item.
    return f"{node.opening}\n{body}{' ' * indent}{node.closing.removeprefix(',')}"


def _flat(node: Node) -> str:
    if isinstance(node, str):
        return node
    return f"{node.opening}{', '.join(map(_flat, node.items))}{node.closing}"


def _wrapped(before: str, node: Node, after: str = "") -> Node:
    if isinstance(node, str):
        return before + node + after
    return attrs.evolve(node, opening=before + node.opening, closing=node.closing + after)


def _node(value: Any) -> Node:
    if isinstance(value, np.generic) and not isinstance(value, np.void):
        value = value.item()
    for kind, write in _WRITERS:
        if isinstance(value, kind):
            return write(value)
    name = _public_name(value)
    return _call(name, value) if name is not None and attrs.has(type(value)) else _unwritten(value)


def _unwritten(value: object) -> str:
    try:
        text = " ".join(repr(value).split())
    except Exception:  # an object without a constructor expression
        text = type(value).__name__
    return text if text.startswith("<") and text.endswith(">") else f"<{text}>"


def _public_name(value: object) -> str | None:
    """The name of a value's class in a test; None if it has none."""
    kind = type(value)
    kind = kind.__dict__.get("written_as", kind)
    if getattr(bl, kind.__name__, None) is kind:
        return f"bl.{kind.__name__}"
    package = kind.__module__.split(".")[1] if kind.__module__.startswith("bilevelrl.") else ""
    if package in dir(bl) and getattr(getattr(bl, package), kind.__name__, None) is kind:
        return f"bl.{package}.{kind.__name__}"
    is_kit = kind.__module__.startswith("bilevelrl.testing.") and not kind.__name__.startswith("_")
    return f"testing.{kind.__name__}" if is_kit else None


def _call(name: str, value: Any) -> Node:
    """The constructor's call, by keywords."""
    fields = [field for field in attrs.fields(type(value)) if field.init]
    given = [(field, getattr(value, field.name)) for field in fields]
    items = [
        _wrapped(f"{field.alias}=", _node(argument))
        for field, argument in given
        if not _is_default(value, field, argument)
    ]
    return Group(f"{name}(", items, ")")


# Arguments that a constructor fills in itself if they are left out.
_FILLED_IN: dict[tuple[type, str], Callable[[Any], Any]] = {
    (bl.SoftMDP, "initial"): lambda mdp: np.full(mdp.states, 1.0 / mdp.states),
    (bl.parametric.StateReward, "states"): lambda reward: np.arange(reward.base.shape[0]),
}


def _is_default(owner: Any, field: attrs.Attribute[Any], argument: Any) -> bool:
    default: Any = field.default
    for (kind, name), fill in _FILLED_IN.items():
        if isinstance(owner, kind) and name == field.name:
            return np.array_equal(argument, fill(owner))
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]  # a class at run time, a function for mypy
        if default.takes_self:
            return False
        default = default.factory()
    return type(default) is type(argument) and _flat(_node(default)) == _flat(_node(argument))


def _float(value: float) -> str:
    return repr(value) if math.isfinite(value) else repr(value).replace("inf", "np.inf").replace("nan", "np.nan")


def _sequence(value: Any, opening: str, closing: str) -> Node:
    return Group(opening, [_node(item) for item in value], closing)


def _tuple(value: tuple[Any, ...]) -> Node:
    if type(value) is not tuple:
        return _unwritten(value)
    return Group("(", [_node(item) for item in value], ",)" if len(value) == 1 else ")")


def _mapping(value: dict[Any, Any]) -> Node:
    return Group("{", [_wrapped(f"{_flat(_node(key))}: ", _node(item)) for key, item in value.items()], "}")


def _enumeration(value: enum.Enum) -> str:
    name = _public_name(value)
    return _unwritten(value) if name is None else f"{name}.{value.name}"


def _nested(value: Any) -> Node:
    """An array's `tolist()`; a row of numbers that is too long for a line is packed."""
    if not isinstance(value, list):
        return _node(value)
    return Group("[", [_nested(item) for item in value], "]", packed=not any(isinstance(item, list) for item in value))


# Dtypes that `np.array` finds by itself from a list of Python numbers.
_NATURAL = (np.dtype(np.float64), np.dtype(np.int64), np.dtype(np.bool_))


def _array(array: Any) -> Node:
    if type(array) is not np.ndarray or array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        return _unwritten(array)
    dtype = f", dtype=np.{array.dtype.name}"
    written = _wrapped("np.array(", _nested(array.tolist()), ")" if array.dtype in _NATURAL else f"{dtype})")
    shape = str(array.shape[0]) if array.ndim == 1 else str(array.shape)
    short = {"zeros": 0.0, "ones": 1.0}
    for name, number in short.items():
        # 0.0 == -0.0, but a test may depend on the sign.
        if (array == number).all() and not np.signbit(array).any():
            call = f"np.{name}({shape}" + (")" if array.dtype == np.float64 else f"{dtype})")
            if array.size == 0 or len(call) < len(_flat(written)):
                return call
    return written


def _sparse(array: Any) -> Node:
    name = f"scipy.sparse.{type(array).__name__}"
    if math.prod(array.shape) <= WRITTEN_DENSE:
        dense = array.toarray()
        if np.count_nonzero(dense) == array.nnz:  # no stored zeros and no duplicate entries
            return _wrapped(f"{name}(", _array(dense), ")")
    if array.format != "csr":
        return _unwritten(array)
    stored = Group("(", [_array(part) for part in (array.data, array.indices, array.indptr)], ")")
    return Group(f"{name}(", [stored, f"shape={array.shape}"], ")")


def _kernel(kernel: Any) -> Node:
    """The array inside a kernel; every constructor that accepts a kernel accepts the array."""
    return _unwritten(kernel) if not hasattr(kernel, "probabilities") else _node(kernel.probabilities)


_WRITERS: tuple[tuple[Any, Callable[[Any], Node]], ...] = (
    (enum.Enum, _enumeration),
    ((bool, int, str, bytes, type(None)), repr),
    (float, _float),
    (np.ndarray, _array),
    (scipy.sparse.sparray | scipy.sparse.spmatrix, _sparse),
    (bl.mdp.Transitions, _kernel),
    (bl.Cost, lambda cost: f"bl.{cost!r}"),
    (tuple, _tuple),
    (list, lambda value: _sequence(value, "[", "]")),
    (dict, _mapping),
)
