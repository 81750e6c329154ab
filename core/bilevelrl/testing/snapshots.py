"""Finds every array in a value, and saves and restores answers like a file does."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import numpy as np

from bilevelrl.mdp.linearization import Linearization
from bilevelrl.mdp.solution import TabularSolution
from bilevelrl.protocols import HyperGradient
from bilevelrl.sampling.solution import SampledSolution
from bilevelrl.testing.violation import NotApplicable
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


def saved_and_restored(value: Any) -> Any:
    """An answer as restored from a file: arrays and numbers only; handles are rebuilt, everything else is lost.

    Raises:
        NotApplicable: for an answer of a class that the kit cannot save.
    """
    if isinstance(value, TabularSolution):
        return attrs.evolve(
            value,
            **through_a_file(policy=value.policy, values=value.values, action_values=value.action_values),
            linearization=Linearization(value.model.transitions, value.model.discount, value.policy),
        )
    if isinstance(value, SampledSolution):
        arrays = through_a_file(policy=value.policy, action_values=value.action_values)
        return attrs.evolve(value, **arrays, carry=through_a_file(**value.carry))
    if isinstance(value, HyperGradient):
        arrays = through_a_file(direct=value.direct, implicit=value.implicit)
        return attrs.evolve(value, **arrays, occupancy=None, carry=through_a_file(**value.carry))
    raise NotApplicable(f"a {type(value).__name__} is of a class that the kit cannot save")


def through_a_file(**arrays: Array) -> dict[str, Any]:
    """Arrays as restored from a file, without pickle."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    buffer.seek(0)
    with np.load(buffer, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}
