"""Finds every array in a value, and saves and restores answers like a file does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import numpy as np

from bilevelrl.problems.bilevel_problem import BilevelProblem
from bilevelrl.protocols import HyperGradient
from bilevelrl.storage import container, solutions
from bilevelrl.storage.array_files import checked_arrays
from bilevelrl.validation.arrays import Array


def arrays_of(value: Any, name: str = "", depth: int = 3) -> Iterator[tuple[str, Array]]:
    """Every array in a value, with its path."""
    if isinstance(value, np.ndarray):
        yield name, value
    elif depth and isinstance(value, Mapping):
        for key, item in value.items():
            yield from arrays_of(item, f"{name}[{key!r}]", depth - 1)
    elif depth and isinstance(value, tuple | list):
        for index, item in enumerate(value):
            yield from arrays_of(item, f"{name}[{index}]", depth - 1)
    elif depth and attrs.has(type(value)):
        for field in attrs.fields(type(value)):
            yield from arrays_of(getattr(value, field.name, None), f"{name}.{field.name}", depth - 1)


def restored_solution(solver: Any, problem: BilevelProblem, x: Array, solution: Any) -> Any:
    """A solution at x as it comes back from a checkpoint, through its solver's `restore`."""
    arrays, figures = solutions.saved_solution(solution, "the subject")
    figures, arrays = container.unpack(container.pack(figures, arrays), "a checkpoint")
    return solutions.restored_solution(solver, problem, x, arrays, figures)


def restored_estimate(hyper: HyperGradient) -> HyperGradient:
    """An estimate as it comes back from a checkpoint: without its occupancy."""
    arrays = through_a_file(direct=hyper.direct, implicit=hyper.implicit)
    return attrs.evolve(hyper, **arrays, occupancy=None, carry=through_a_file(**hyper.carry))


def through_a_file(**arrays: Any) -> dict[str, Any]:
    """Arrays as they come back from a file, without pickle."""
    return container.unpack(container.pack({}, checked_arrays(arrays, "the subject")), "a file")[1]
