"""A leader who acts in the follower's world: averages under her mixed policy, and their pullbacks."""

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, strategies as st

import bilevelrl as bl
from bilevelrl.testing.rounding import EPSILON
from strategies import KERNELS, drawn_kernel, seeds, stored_as

# As in test_parametric.py: the step makes truncation and rounding equal, about 4e-11; a hundred of them covers sums.
STEP = 6e-6
DIFFERENCES = 4e-9


def derivative(function, x, direction):
    """`d/dh function(x + h·direction)` at zero."""
    return (function(x + STEP * direction) - function(x - STEP * direction)) / (2 * STEP)


def table_of(transitions):
    stored = transitions.probabilities
    table = stored.toarray() if scipy.sparse.issparse(stored) else np.array(stored)
    return table.reshape(transitions.states, transitions.actions, transitions.states)


@st.composite
def games(draw):
    """S, B, A, a leader's policy, kernels (B, S, A, S) and a generator."""
    states, choices, actions = (draw(st.integers(1, size)) for size in (7, 4, 4))
    kind, features = draw(st.sampled_from(KERNELS)), draw(st.sampled_from(("identity", "dense", "sparse")))
    rng = np.random.default_rng(draw(seeds))
    kernels = np.array([drawn_kernel(rng, kind, states, actions, 0) for _ in range(choices)])
    matrix = None if features == "identity" else rng.normal(size=(states * choices, draw(st.integers(1, 4))))
    if features == "sparse":
        matrix = scipy.sparse.csr_array(matrix)
    return bl.parametric.SoftmaxPolicy(states, choices, matrix), kernels, rng


def parts(policy, kernels, rng):
    rewards = rng.normal(size=kernels.shape[:3])
    sparse = [stored_as(kernel, True) for kernel in kernels]
    mixed = [stored_as(kernel, index == 0) for index, kernel in enumerate(kernels)]
    return (
        rewards,
        bl.parametric.MixtureReward(policy, rewards),
        [bl.parametric.MixtureTransitions(policy, storage) for storage in (kernels, sparse, mixed)],
    )


@given(games())
def test_the_leaders_policy_is_a_softmax_of_its_features_and_a_policy_at_any_x(drawn):
    policy, _, rng = drawn
    x = 10.0 ** rng.uniform(-2, 4) * rng.normal(size=policy.dimension)
    features = np.eye(x.size) if policy.features is None else policy.features
    logits = np.asarray(features @ x).reshape(policy.states, policy.choices)
    value = policy(x)
    assert (value >= 0).all()
    assert value.sum(axis=1) == pytest.approx(np.ones(policy.states), abs=8 * EPSILON)
    for s, b in np.ndindex(value.shape):
        # σ_b = 1 / Σ_c exp(z_c − z_b), which no shift enters; overflow means zero.
        with np.errstate(over="ignore"):
            expected = 1.0 / np.exp(logits[s] - logits[s, b]).sum()
        # An exponent z rounds by ε|z|, which its exponential feels relatively.
        assert value[s, b] == pytest.approx(expected, rel=1e-13 + 4 * EPSILON * np.abs(logits[s]).max(), abs=1e-300)


@given(games())
def test_mixtures_are_the_averages_of_their_tables_in_every_storage(drawn):
    """`r_sa = Σ_b σ_sb r_bsa` and `P_sas' = Σ_b σ_sb P^b_sas'`."""
    policy, kernels, rng = drawn
    rewards, reward, transitions = parts(policy, kernels, rng)
    x = rng.normal(size=policy.dimension)
    sigma = policy(x)
    expected = sum(sigma[:, b, None] * rewards[b] for b in range(len(rewards)))
    assert reward(x) == pytest.approx(expected, rel=1e-14, abs=1e-14)
    expected = sum(sigma[:, b, None, None] * kernels[b] for b in range(len(kernels)))
    for part, kind in zip(
        transitions, (bl.mdp.DenseTransitions, bl.mdp.SparseTransitions, bl.mdp.SparseTransitions), strict=True
    ):
        # With one choice the "mixed" storage is sparse too: its first kernel is.
        assert isinstance(part(x), kind)
        assert table_of(part(x)) == pytest.approx(expected, rel=1e-14, abs=1e-16)
        assert part(x).under(np.full(reward(x).shape, 1 / reward(x).shape[1])).sum(axis=1) == pytest.approx(1.0)


@given(games())
def test_pullbacks_are_the_transposes_of_the_derivatives(drawn):
    """`⟨Jᵀ c, d⟩ = ⟨c, J d⟩` for the policy, the rewards, and the kernel with the outer product as its cotangent."""
    policy, kernels, rng = drawn
    rewards, reward, transitions = parts(policy, kernels, rng)
    x, direction = rng.normal(size=(2, policy.dimension))
    weights, continuation = rng.normal(size=rewards.shape[1:]), rng.normal(size=kernels.shape[1])
    size = (1 + np.abs(direction).sum()) ** 3 * (1 + np.abs(weights).sum()) * (1 + np.abs(continuation).max()) * 4
    if policy.features is not None:
        size *= (1 + np.abs(policy.features).max()) ** 3
    at = rng.normal(size=(policy.states, policy.choices))
    change = float((at * derivative(policy, x, direction)).sum())
    assert policy.pullback(x, at) @ direction == pytest.approx(change, rel=0, abs=DIFFERENCES * size)
    change = float((weights * derivative(reward, x, direction)).sum())
    assert reward.pullback(x, weights) @ direction == pytest.approx(change, rel=0, abs=DIFFERENCES * size)
    for part in transitions:
        change = derivative(lambda x, part=part: table_of(part(x)), x, direction)
        expected = float(np.einsum("sa,sat,t->", weights, change, continuation))
        back = part.pullback(x, weights, continuation) @ direction
        assert back == pytest.approx(expected, rel=0, abs=DIFFERENCES * size)


def test_states_with_the_same_features_have_the_same_mixed_policy():
    tied = np.tile(np.eye(3), (5, 1, 1))
    value = bl.parametric.SoftmaxPolicy(5, 3, tied)(np.array([0.1, 0.5, -1.0]))
    assert (value == value[0]).all()


SIGMA = bl.parametric.SoftmaxPolicy(2, 2)
KERNEL = np.full((2, 3, 2), 0.5)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: bl.parametric.SoftmaxPolicy(0, 2), "states is 0; expected an integer of at least 1"),
        (
            lambda: bl.parametric.SoftmaxPolicy(2, 2, np.ones((3, 1))),
            r"SoftmaxPolicy.features is \(3, 1\); expected \(4, n\)",
        ),
        (
            lambda: bl.parametric.MixtureReward(np.eye(2), np.ones((2, 2, 3))),
            "MixtureReward.weights is a ndarray; expected",
        ),
        (lambda: bl.parametric.MixtureReward(SIGMA, np.ones((2, 3))), r"shape of MixtureReward.rewards is \(2, 3\)"),
        (lambda: bl.parametric.MixtureReward(SIGMA, np.ones((0, 2, 3))), "MixtureReward.rewards is empty"),
        (
            lambda: bl.parametric.MixtureReward(SIGMA, np.ones((3, 2, 3)))(np.zeros(4)),
            r"MixtureReward.weights is \(2, 2\)",
        ),
        (lambda: bl.parametric.MixtureTransitions(None, [KERNEL]), "MixtureTransitions.weights is None; expected"),
        (
            lambda: bl.parametric.MixtureTransitions(SIGMA, 3),
            "MixtureTransitions.kernels is an int; expected a sequence",
        ),
        (lambda: bl.parametric.MixtureTransitions(SIGMA, []), "MixtureTransitions.kernels is empty"),
        (
            lambda: bl.parametric.MixtureTransitions(SIGMA, [KERNEL, np.full((2, 1, 2), 0.5)]),
            r"kernels\[1\] is \(2, 1\); expected \(2, 3\)",
        ),
        (
            lambda: bl.parametric.MixtureTransitions(SIGMA, [KERNEL])(np.zeros(4)),
            r"MixtureTransitions.weights is \(2, 2\)",
        ),
        (
            lambda: bl.parametric.MixtureTransitions(bl.parametric.TabularReward(np.zeros((2, 2))), [KERNEL] * 2)(
                np.ones(4)
            ),
            "expected a distribution in each row",
        ),
    ],
)
def test_parts_that_do_not_fit_are_told_in_one_sentence(make, sentence):
    with pytest.raises(bl.InputError, match=sentence):
        make()
