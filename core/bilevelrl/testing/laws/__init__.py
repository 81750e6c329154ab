"""The laws, by kind of subject; importing this package registers all of them in `LAWS`."""

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
