"""Budgets: the amount that a run may spend, in one unit, and exchange rates of other units."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np
import scipy.sparse

from bilevelrl.linear.factorization import factorization_work
from bilevelrl.mdp.linearization import can_be_factored
from bilevelrl.mdp.solution import SupportsModel
from bilevelrl.mdp.transitions import DenseTransitions, Transitions
from bilevelrl.outer_loop import OuterState
from bilevelrl.problems.bilevel_problem import BilevelProblem
from bilevelrl.protocols import Cost
from bilevelrl.validation.arrays import Array
from bilevelrl.validation.errors import InputError, UnknownNameError, value_words
from bilevelrl.validation.fields import as_float, is_real

DEFAULT_AMOUNTS = {"backups": 5_000.0, "samples": 1_000_000.0, "seconds": 10.0, "iterations": 500.0}
EXAMPLE = "UNIT=AMOUNT, such as backups=2000 or seconds=20"

# Checkpoints are spread evenly on a logarithmic scale over this part of the budget.
FIRST_CHECKPOINT = 1e-3


@attrs.frozen
class Budget:
    """The amount that a run may spend.

    Args:
        unit: "backups", passes over P, other work converted by `ExchangeRates`; "samples", transitions drawn;
            "seconds", in the components' calls; "iterations", updates of x.
        amount: the amount, above zero.
    """

    unit: str = attrs.field()
    amount: float = attrs.field()

    @unit.validator
    def _check_unit(self, attribute: attrs.Attribute[Any], value: Any) -> None:
        if not isinstance(value, str):
            raise InputError("the unit of the budget", value_words(value), "a string")
        if value not in DEFAULT_AMOUNTS:
            raise UnknownNameError("the unit of the budget", value, DEFAULT_AMOUNTS)

    @amount.validator
    def _check_amount(self, attribute: attrs.Attribute[Any], value: Any) -> None:
        if not (math.isfinite(as_float(value)) and value > 0):
            raise InputError(f"the budget's {self.unit}", value_words(value), "a finite number above 0")

    @classmethod
    def parse(cls, text: str) -> Budget:
        """`backups=2000`, or `backups` alone for a usual amount."""
        unit, separator, amount = text.partition("=")
        if not separator and unit.strip() in DEFAULT_AMOUNTS:
            return cls(unit.strip(), DEFAULT_AMOUNTS[unit.strip()])
        if not separator and unit.strip().isalpha():
            raise UnknownNameError("the unit of the budget", unit.strip(), DEFAULT_AMOUNTS)
        try:
            return cls(unit.strip(), float(amount))
        except InputError:
            raise
        except ValueError:
            raise InputError("the budget", value_words(text), EXAMPLE) from None

    def __str__(self) -> str:
        return f"{self.amount:,.10g} {self.unit}"

    def spent(self, state: OuterState, rates: ExchangeRates) -> float:
        """The amount that a run has spent at a state."""
        if self.unit == "iterations":
            return float(state.iteration)
        if self.unit == "seconds":
            return state.seconds
        return rates.backups(state.cost) if self.unit == "backups" else float(getattr(state.cost, self.unit))

    def checkpoints(self, count: int) -> tuple[float, ...]:
        """The `count` amounts at which a run is evaluated, evenly on a logarithmic scale; the last is the whole."""
        if count == 1:
            return (float(self.amount),)
        marks = np.geomspace(FIRST_CHECKPOINT, 1.0, count) * self.amount
        if self.unit == "iterations":
            marks = np.unique(np.append(np.floor(marks), self.amount))
        marks[-1] = self.amount
        return tuple(float(mark) for mark in marks)

    def enough(self, needed: float) -> str:
        """`needed` rounded up, in the form of an option: `backups=24`."""
        if self.unit != "seconds":
            return f"{self.unit}={math.ceil(needed)}"
        scale = 10.0 ** (math.floor(math.log10(max(needed, 1e-9))) - 1)
        return f"{self.unit}={math.ceil(needed / scale) * scale:.2g}"


@attrs.frozen
class ExchangeRates:
    """The cost of linear solves and products in backups, that is in passes over P.

    The rates compare multiplications. A pass takes one for each stored entry of P: S²A for a dense kernel. A product
    with `P^π` takes one for each entry of `P^π`: 1/A of a pass for a dense kernel. The cost of a linear solve includes
    everything that it may need: `P^π` from P and π (a pass), an LU factorisation (S³/3 for a dense matrix; for a sparse
    one by SuperLU's own factors), and two triangular solves. If an algorithm solves twice with one factorisation, two
    factorisations are counted. This is an upper bound, so the rates can be set.

    Args:
        linear_solve: backups per linear solve, at least 0.
        product: backups per product with `P^π` or its transpose, at least 0.
    """

    linear_solve: float = attrs.field(default=0.0, validator=is_real(at_least=0.0))
    product: float = attrs.field(default=0.0, validator=is_real(at_least=0.0))

    @classmethod
    def of(cls, problem: BilevelProblem, x: Array, given: Mapping[str, float] | None = None) -> ExchangeRates:
        """The rates of a problem's kernel at x, except those `given`; zero if it has no model."""
        known = [field.name for field in attrs.fields(cls)]
        for name in given or {}:
            if name not in known:
                raise UnknownNameError("an exchange rate", name, known)
        own = cls._of_kernel(problem.lower.model(x).transitions) if isinstance(problem.lower, SupportsModel) else cls()
        return attrs.evolve(own, **(given or {}))

    @classmethod
    def _of_kernel(cls, kernel: Transitions) -> ExchangeRates:
        states, actions = kernel.states, kernel.actions
        if isinstance(kernel, DenseTransitions):
            return cls(states / (3.0 * actions) + 1.0 + 1.0 / actions, 1.0 / actions)
        # The pattern of P^π, and so the fill of its factors, is the same for every policy that takes all actions.
        chain = scipy.sparse.csr_array(kernel.under(np.full((states, actions), 1.0 / actions)))
        entries = max(1, len(kernel.stored()[2]))
        # Systems too large to factor are solved by iteration, which counts products; this price applies only if
        # factorisation is forced.
        work = factorization_work(chain) if can_be_factored(kernel) else states**3 / 3.0
        return cls(work / entries + 1.0, chain.nnz / entries)

    def backups(self, cost: Cost) -> float:
        """A cost in passes over P; samples and seconds are not included."""
        return cost.backups + cost.passes + self.linear_solve * cost.linear_solves + self.product * cost.products
