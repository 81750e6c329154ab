"""First-order bounds of the effect of rounding, which give tolerances a justification."""

from __future__ import annotations

import numpy as np

from bilevelrl.linear.factorization import EPSILON as EPSILON
from bilevelrl.mdp.soft_mdp import SoftMDP
from bilevelrl.mdp.transitions import SparseTransitions, Transitions
from bilevelrl.validation.arrays import Array

TINY = 1e-300  # below it doubles are subnormal or nearly so, and have few digits left


def backup_rounding(mdp: SoftMDP, *values: Array) -> float:
    """A bound of the rounding error of `T v` at any of the `values` (S,).

    q sums a product for each next state; the log-sum-exp sums A terms and multiplies a logarithm by τ; each rounds by
    an ulp of the largest number in the sum.
    """
    log_reference = 0.0 if mdp.reference is None else float(np.abs(np.log(mdp.reference)).max())
    largest_value = max((float(np.abs(v).max()) for v in values), default=0.0)
    largest = float(np.abs(mdp.rewards).max()) + largest_value + mdp.temperature * (1 + log_reference)
    return 2 * (row_terms(mdp.transitions) + mdp.actions + 4) * EPSILON * largest


def row_defect(transitions: Transitions) -> float:
    """`max_sa |Σ_s' P_sas' − 1|` by one pass, including the rounding of that sum."""
    sums = transitions.expectation(np.ones(transitions.states))
    return float(np.abs(sums - 1.0).max()) + (row_terms(transitions) + 1) * EPSILON


def row_terms(transitions: Transitions) -> int:
    """The largest number of products in a sum over next states."""
    if isinstance(transitions, SparseTransitions):
        return int(np.diff(transitions.probabilities.indptr).max())
    return transitions.states


def column_terms(transitions: Transitions) -> int:
    """The largest number of products in a sum over the predecessors of a state."""
    if isinstance(transitions, SparseTransitions):
        return int(np.bincount(transitions.probabilities.indices, minlength=1).max())
    return transitions.states * transitions.actions


def length(vector: Array) -> float:
    """`‖v‖₂` by repeated hypotenuses, since the squares of small numbers underflow."""
    return float(np.hypot.reduce(np.abs(vector)))


def sum_rounding(terms: int) -> float:
    """The error of a sum of products, relative to the sum of their absolute values (Higham 2002, section 3.1)."""
    return float(terms + 32) * EPSILON


def pullback_rounding(mdp: SoftMDP, dimension: int) -> float:
    """The same for a pullback: a term for each entry of r, P and ρ, and for each entry of x in the logits of a part."""
    kernel = mdp.transitions
    entries = kernel.probabilities.nnz if isinstance(kernel, SparseTransitions) else mdp.states**2 * mdp.actions
    return sum_rounding(entries + mdp.states * mdp.actions + mdp.states + dimension)
