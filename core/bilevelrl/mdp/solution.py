"""The follower's tabular solution, and the protocol of lower levels with a transition model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import attrs
import numpy.typing as npt

from bilevelrl.mdp.linearization import Linearization
from bilevelrl.mdp.soft_mdp import SoftMDP
from bilevelrl.occupancy import Occupancy
from bilevelrl.protocols import Cost, Problem, Status, outcome
from bilevelrl.validation.arrays import Array
from bilevelrl.validation.errors import InputError, kind_words
from bilevelrl.validation.saved import check_table, saved_array, saved_count, saved_policy


@attrs.frozen(eq=False, slots=False)
class TabularSolution:
    """The follower's tabular solution: `V`, and the policy and action values of one backup from it.

    Args:
        model: the `SoftMDP` that was solved; a handle, which is not saved but rebuilt from x.
        policy: `π(V)` (S, A).
        values: `V` (S,).
        action_values: `q(V)` (S, A).
        residual: `‖T V − V‖∞`; bounds the error by `‖V − V*‖∞ ≤ residual/(1−γ)`.
        iterations: sweeps or Newton steps.
        status: how the solver ended.
        cost: the cost of the solve.
        linearization: solves with `I − γP^π` and its transpose; may hold a factorisation that the solver made. A
            handle, which is not saved; built on demand if the solver gives none.
    """

    model: SoftMDP
    policy: Array
    values: Array
    action_values: Array
    residual: float
    iterations: int
    status: Status
    cost: Cost
    linearization: Linearization = attrs.field(
        default=attrs.Factory(
            lambda self: Linearization(self.model.transitions, self.model.discount, self.policy),
            takes_self=True,
        )
    )

    @property
    def error_bound(self) -> float:
        """`‖V − V*‖∞ ≤ ‖T V − V‖∞/(1−γ)`, in the units of the reward."""
        return self.residual / (1.0 - self.model.discount)

    def arrays(self) -> dict[str, Array]:
        """The tables: `policy` (S, A), `values` (S,), `action_values` (S, A)."""
        return {"policy": self.policy, "values": self.values, "action_values": self.action_values}

    def figures(self) -> dict[str, int]:
        """The number of iterations."""
        return {"iterations": self.iterations}

    @classmethod
    def restored(
        cls, problem: Problem, x: Array, arrays: Mapping[str, npt.NDArray[Any]], figures: Mapping[str, Any]
    ) -> TabularSolution:
        """The solution at x from its `arrays()` and `figures()`, every table checked; see `LowerLevelSolver.restore`.

        Raises:
            InputError: if the problem has no model, or the tables are not those of such a solution.
        """
        lower = problem.lower
        if not isinstance(lower, SupportsModel):
            raise InputError(f"the follower of problem {problem.name!r}", kind_words(lower), "one with a model")
        model = lower.model(x)
        shape = (model.states, model.actions)
        return cls(
            model=model,
            policy=saved_policy(arrays, "policy", shape),
            values=saved_array(arrays, "values", shape[:1]),
            action_values=saved_array(arrays, "action_values", shape),
            iterations=saved_count(figures, "iterations"),
            **outcome(figures),
        )

    def check(self) -> None:
        """Raise `InputError` if a table does not fit the model."""
        shape = self.model.rewards.shape
        check_table("the follower's values", self.values, shape[:1])
        check_table("the follower's policy", self.policy, shape)
        check_table("the follower's action values", self.action_values, shape)

    def restrict(self, lower: SupportsModel, x: Array, rows: slice) -> TabularSolution:
        """These rows as a solution of a context's follower at x; status, residual and cost stay those of the whole."""
        model, policy = lower.model(x), self.policy[rows]
        return attrs.evolve(
            self,
            model=model,
            policy=policy,
            values=self.values[rows],
            action_values=self.action_values[rows],
            linearization=Linearization(model.transitions, model.discount, policy),
        )


@runtime_checkable
class SupportsModel(Protocol):
    """A lower level with a known transition model at every x."""

    @property
    def dimension(self) -> int:
        """n, the length of x."""

    def model(self, x: Array) -> SoftMDP:
        """`M_τ(x)`."""

    def pullback(self, x: Array, occupancy: Occupancy) -> Array:
        """(n,) `J_rᵀ r̄ + J_Pᵀ P̄ + J_ρᵀ ρ̄` at x: one vector-Jacobian product, never a Jacobian."""
