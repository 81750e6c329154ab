"""The follower's problem at one x: an entropy-regularised Markov decision process."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import attrs
import numpy as np

from bilevelrl.mdp.transitions import Transitions, as_transitions
from bilevelrl.validation.arrays import Array, as_array, as_distribution, read_only
from bilevelrl.validation.errors import InputError
from bilevelrl.validation.fields import is_real
from bilevelrl.validation.frozen import depending, unchecked_copy

SMALLEST_TEMPERATURE = 1e-300
"""Dividing a reward of ordinary size by a smaller temperature could overflow."""


def _rewards(value: object, mdp: SoftMDP) -> Array:
    return read_only(as_array("rewards", value, (mdp.states, mdp.actions)))


def _initial(value: object, mdp: SoftMDP) -> Array:
    given = np.full(mdp.states, 1.0 / mdp.states) if value is None else value
    return read_only(as_distribution("initial", given, mdp.states))


def _reference(value: object, mdp: SoftMDP) -> Array | None:
    if value is None:
        return None
    reference = read_only(as_array("reference", value, (mdp.states, mdp.actions)))
    if not (reference > 0).all():
        s, a = (int(i) for i in np.unravel_index(reference.argmin(), reference.shape))
        raise InputError(f"reference[{s}, {a}]", str(reference[s, a]), "a positive number")
    return reference


def _scaled(rewards: Array, temperature: float, reference: Array | None) -> Array:
    scaled = rewards / temperature
    return scaled if reference is None else scaled + np.log(reference)


@attrs.frozen(slots=False, eq=False, repr=False)
class SoftMDP:
    """An entropy-regularised MDP `M_τ = (S, A, P, r, γ, τ)` with initial distribution ρ and reference measure μ.

    The follower maximises `E[Σ_t γ^t (r(s_t, a_t) − τ log(π(a_t|s_t)/μ(a_t|s_t)))]`, `s_0 ~ ρ`.

    All fields are validated here, once; components need not check them again.

    Args:
        transitions: P, an array (S, A, S), a scipy sparse array (S·A, S), or a `Transitions`.
        rewards: r, (S, A), finite.
        discount: γ in [0, 1).
        temperature: τ ≥ 1e-300, in the units of the reward.
        initial: ρ, (S,), sums to one. Default: uniform.
        reference: μ, (S, A), strictly positive. None means μ = 1 (Shannon entropy, as in Yang, Gao and Yuan 2025);
            a policy gives the KL divergence to that policy. It need not be normalised.

    Raises:
        InputError: if a field is invalid; the message gives the field, the value and what was expected.
    """

    transitions: Transitions = attrs.field(converter=as_transitions)
    rewards: Array = attrs.field(converter=depending(_rewards))  # type: ignore[misc]
    discount: float = attrs.field(validator=is_real(at_least=0.0, below=1.0))
    temperature: float = attrs.field(validator=[is_real(above=0.0), is_real(at_least=SMALLEST_TEMPERATURE)])
    initial: Array = attrs.field(default=None, converter=depending(_initial))  # type: ignore[misc]
    reference: Array | None = attrs.field(default=None, converter=depending(_reference))  # type: ignore[misc]

    @property
    def states(self) -> int:
        """S."""
        return self.transitions.states

    @property
    def actions(self) -> int:
        """A."""
        return self.transitions.actions

    @cached_property
    def scaled_rewards(self) -> Array:
        """`r/τ + log μ` (S, A): a reference measure is entropy with the reward `r + τ log μ`."""
        return _scaled(self.rewards, self.temperature, self.reference)

    def replace(self, **fields: Any) -> SoftMDP:
        """A copy with some of `transitions`, `rewards`, `initial`, `reference` replaced, not validated again.

        For models that are valid by construction, in code that runs once an iteration. A solver reports non-finite
        rewards as `Status.NON_FINITE`.
        """
        rewards, reference = fields.get("rewards", self.rewards), fields.get("reference", self.reference)
        fields["scaled_rewards"] = _scaled(rewards, self.temperature, reference)
        return unchecked_copy(self, fields)

    def __repr__(self) -> str:
        kl = "" if self.reference is None else ", reference=given"
        return f"SoftMDP({self.transitions!r}, discount={self.discount:g}, temperature={self.temperature:g}{kl})"
