"""A lower-level solver: value iteration that uses every new value at once."""

from __future__ import annotations

import math
from typing import ClassVar

import attrs
import numpy as np

import bilevelrl as bl


@attrs.frozen
class GaussSeidel:
    """`V_s ← τ log Σ_a μ_sa exp((r_sa + γ Σ_s' P_sas' V_s')/τ)`, state by state, each with the newest V.

    A few sweeps a call, from the last call's V; the error falls by γ a sweep or faster. What few sweeps answer depends
    on the order of the states.

    Source: Bertsekas, "Dynamic Programming and Optimal Control", volume II, section 2.2.

    Args:
        sweeps: how often a call updates every state.
    """

    name: ClassVar[str] = "gauss-seidel"
    requires: ClassVar[type] = bl.mdp.SupportsModel
    produces: ClassVar[type] = bl.mdp.TabularSolution
    tags: ClassVar[bl.Tags] = bl.Tags("tracking")

    sweeps: int = attrs.field(default=3, validator=bl.validation.is_integer(at_least=1))

    restore = staticmethod(bl.mdp.TabularSolution.restored)

    def solve(
        self,
        problem: bl.BilevelProblem,
        x: bl.Array,
        warm_start: bl.mdp.TabularSolution | None,
        rng: np.random.Generator,
    ) -> bl.mdp.TabularSolution:
        """V after some sweeps, with the policy and the residual of one backup from it."""
        model = problem.lower.model(x)
        values = np.zeros(model.states) if warm_start is None else warm_start.values.copy()
        kernel = dense(model.transitions)
        for _ in range(self.sweeps):
            sweep(model, kernel, values)
        backup = bl.mdp.soft_backup(model, values)
        residual = bl.validation.maximum_norm(backup.values - values)
        status = bl.Status.BUDGET_SPENT if math.isfinite(residual) else bl.Status.NON_FINITE
        cost = bl.Cost(backups=self.sweeps + 1)
        return bl.mdp.TabularSolution(
            model, backup.policy, values, backup.action_values, residual, self.sweeps, status, cost
        )


def dense(transitions: bl.mdp.Transitions) -> bl.Array:
    """P as one array (S·A, S), however it is stored."""
    rows, successors, probabilities = transitions.stored()
    kernel = np.zeros((transitions.states * transitions.actions, transitions.states))
    kernel[rows, successors] = probabilities
    return kernel


def sweep(model: bl.SoftMDP, kernel: bl.Array, values: bl.Array) -> None:
    """Update every state once, in place."""
    log_reference = np.zeros(model.rewards.shape) if model.reference is None else np.log(model.reference)
    of_state = kernel.reshape(model.states, model.actions, model.states)
    for state in range(model.states):
        action_values = model.rewards[state] + model.discount * of_state[state] @ values
        preferences = action_values / model.temperature + log_reference[state]
        largest = preferences.max()
        values[state] = model.temperature * (largest + np.log(np.exp(preferences - largest).sum()))
