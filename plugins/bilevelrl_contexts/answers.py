"""Splits a follower's solution into the rows of each context, as arrays, and joins them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np

import bilevelrl as bl
from bilevelrl_contexts.inner import worst

TABLES = {
    bl.mdp.TabularSolution: ("policy", "values", "action_values"),
    bl.sampling.SampledSolution: ("policy", "action_values"),
}


@attrs.frozen(eq=False)
class Answer:
    """A `TabularSolution` or a `SampledSolution` without its handles, which are rebuilt when needed.

    Args:
        kind: which of the two.
        tables: the rows of policy, values and the like.
        residual: of the solution.
        iterations: of a `TabularSolution`.
        status: of the solution.
        cost: of the solution.
        carry: of a `SampledSolution`.
    """

    kind: type
    tables: Mapping[str, bl.Array]
    residual: float
    iterations: int
    status: bl.Status
    cost: bl.Cost
    carry: Mapping[str, bl.Array]

    @classmethod
    def of(cls, solution: Any) -> Answer:
        """The parts of a whole solution."""
        kind = type(solution)
        if kind not in TABLES:
            raise bl.InputError("the follower's answer", kind.__name__, "a TabularSolution or a SampledSolution")
        return cls(
            kind,
            {name: getattr(solution, name) for name in TABLES[kind]},
            solution.residual,
            getattr(solution, "iterations", 0),
            solution.status,
            solution.cost,
            dict(getattr(solution, "carry", {})),
        )

    def of_context(self, rows: slice, context: int) -> Answer:
        """The part of a solution of all contexts that belongs to one of them."""
        tables = {name: table[rows] for name, table in self.tables.items()}
        return attrs.evolve(self, tables=tables, carry=below(self.carry, context))

    def rebuilt(self, lower: Any, x: bl.Array) -> Any:
        """The solution, with handles of this follower at x."""
        known: dict[str, Any] = {"residual": self.residual, "status": self.status, "cost": self.cost, **self.tables}
        if self.kind is bl.sampling.SampledSolution:
            return bl.sampling.SampledSolution(simulator=lower.simulator(x), carry=self.carry, **known)
        return bl.mdp.TabularSolution(model=lower.model(x), iterations=self.iterations, **known)

    @classmethod
    def joined(cls, answers: Sequence[Answer]) -> Answer:
        """The solutions of all contexts as one: largest residual, worst status, most iterations, sum of costs."""
        first = answers[0]
        return cls(
            first.kind,
            {name: np.concatenate([answer.tables[name] for answer in answers]) for name in first.tables},
            float(np.max([answer.residual for answer in answers])),
            max(answer.iterations for answer in answers),
            worst([answer.status for answer in answers]),
            bl.Cost().plus(*(answer.cost for answer in answers)),
            collected([answer.carry for answer in answers]),
        )


def collected(carries: Sequence[Mapping[str, bl.Array]]) -> dict[str, bl.Array]:
    """The carries of all contexts in one dictionary, with keys such as `0/name`."""
    return {f"{context}/{name}": array for context, carry in enumerate(carries) for name, array in carry.items()}


def below(carry: Mapping[str, bl.Array], context: int) -> dict[str, bl.Array]:
    """The carry of one context."""
    prefix = f"{context}/"
    return {name.removeprefix(prefix): array for name, array in carry.items() if name.startswith(prefix)}
