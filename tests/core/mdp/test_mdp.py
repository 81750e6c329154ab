"""SoftMDP: what it keeps, what it derives, and what a copy of it shares."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse

import bilevelrl as bl
from bilevelrl.mdp.soft_mdp import SMALLEST_TEMPERATURE

KERNEL = np.array([[[0.5, 0.5], [1.0, 0.0], [0.0, 1.0]], [[0.25, 0.75], [0.0, 1.0], [1.0, 0.0]]])
REWARDS = np.array([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]])
REFERENCE = np.array([[0.2, 0.3, 0.5], [1.0, 2.0, 3.0]])


def mdp(**changes: object) -> bl.SoftMDP:
    fields = {"transitions": KERNEL, "rewards": REWARDS, "discount": 0.9, "temperature": 0.5}
    return bl.SoftMDP(**(fields | changes))


def test_states_and_actions_are_those_of_the_kernel() -> None:
    """Two of one, three of the other: not to be confused."""
    assert (mdp().states, mdp().actions) == (2, 3)


def test_initial_distribution_is_uniform_where_none_is_given() -> None:
    assert mdp().initial.tolist() == [0.5, 0.5]
    assert mdp(initial=[0.25, 0.75]).initial.tolist() == [0.25, 0.75]


def test_scaled_rewards_are_rewards_in_units_of_the_temperature() -> None:
    assert mdp().scaled_rewards.tolist() == (REWARDS / 0.5).tolist()


def test_reference_adds_its_logarithm_to_the_scaled_rewards() -> None:
    np.testing.assert_array_equal(mdp(reference=REFERENCE).scaled_rewards, REWARDS / 0.5 + np.log(REFERENCE))


@pytest.mark.parametrize("field", ["rewards", "initial", "reference"])
def test_what_is_kept_cannot_be_written_to(field: str) -> None:
    """Components share the arrays; none may change another's."""
    with pytest.raises(ValueError, match="read-only"):
        getattr(mdp(reference=REFERENCE), field)[0] = 1.0


def test_callers_own_array_stays_writable() -> None:
    rewards = REWARDS.copy()
    mdp(rewards=rewards)
    rewards[0, 0] = 7.0


def test_copy_has_what_was_replaced_and_the_rest_of_the_original() -> None:
    original = mdp(reference=REFERENCE, initial=[0.25, 0.75])
    copy = original.replace(rewards=2 * REWARDS)
    np.testing.assert_array_equal(copy.rewards, 2 * REWARDS)
    np.testing.assert_array_equal(copy.scaled_rewards, 2 * REWARDS / 0.5 + np.log(REFERENCE))
    assert copy.transitions is original.transitions
    assert copy.initial is original.initial
    assert copy.reference is original.reference
    assert (copy.discount, copy.temperature) == (0.9, 0.5)
    np.testing.assert_array_equal(original.rewards, REWARDS)
    np.testing.assert_array_equal(original.scaled_rewards, REWARDS / 0.5 + np.log(REFERENCE))


def test_copy_without_a_reference_has_none() -> None:
    copy = mdp(reference=REFERENCE).replace(reference=None)
    assert copy.reference is None
    np.testing.assert_array_equal(copy.scaled_rewards, REWARDS / 0.5)


def test_copy_is_not_validated_again() -> None:
    """It is made once an iteration; what is not finite surfaces as a status."""
    assert np.isnan(mdp().replace(rewards=np.full((2, 3), np.nan)).scaled_rewards).all()


def test_entry_of_the_reference_that_is_not_positive_is_named() -> None:
    reference = REFERENCE.copy()
    reference[1, 2] = -0.5
    with pytest.raises(bl.InputError, match=r"^reference\[1, 2\] is -0\.5; expected a positive number$"):
        mdp(reference=reference)


def test_shapes_that_do_not_fit_are_named() -> None:
    with pytest.raises(bl.InputError, match=r"^the shape of rewards is \(3, 2\); expected \(2, 3\)$"):
        mdp(rewards=REWARDS.T)
    with pytest.raises(bl.InputError, match=r"^the shape of reference is \(3, 2\); expected \(2, 3\)$"):
        mdp(reference=REFERENCE.T)
    with pytest.raises(bl.InputError, match=r"^the shape of initial is \(3,\); expected \(2,\)$"):
        mdp(initial=[0.5, 0.25, 0.25])


def test_temperature_below_which_rewards_cannot_be_scaled_is_refused() -> None:
    assert mdp(temperature=SMALLEST_TEMPERATURE).temperature == SMALLEST_TEMPERATURE
    with pytest.raises(bl.InputError, match="temperature is 1e-310; expected a finite number at least 1e-300"):
        mdp(temperature=1e-310)


def test_repr_says_what_matters() -> None:
    told = "DenseTransitions(states=2, actions=3), discount=0.9, temperature=0.5"
    assert repr(mdp()) == f"SoftMDP({told})"
    assert repr(mdp(reference=REFERENCE)) == f"SoftMDP({told}, reference=given)"
    sparse = mdp(transitions=scipy.sparse.csr_array(KERNEL.reshape(-1, 2)))
    assert repr(sparse).startswith("SoftMDP(SparseTransitions(states=2, actions=3), ")
