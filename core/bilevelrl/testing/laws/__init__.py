"""The laws, by what they speak about; importing this package enters them all in `LAWS`."""

from __future__ import annotations

from bilevelrl.testing.laws import (
    algorithm_laws,
    component_laws,
    estimator_laws,
    operator_laws,
    optimizer_laws,
    problem_laws,
    sampling_laws,
    simulator_laws,
    solver_laws,
)

__all__ = [
    "algorithm_laws",
    "component_laws",
    "estimator_laws",
    "operator_laws",
    "optimizer_laws",
    "problem_laws",
    "sampling_laws",
    "simulator_laws",
    "solver_laws",
]
