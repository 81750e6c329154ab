"""Passes over P: compiled, they are the same backup as NumPy's on whole arrays."""

import attrs
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, strategies as st
from numpy.testing import assert_allclose

import bilevelrl as bl
from bilevelrl.execution import threads
from bilevelrl.mdp import passes
from bilevelrl.testing.rounding import EPSILON, backup_rounding
from slowness import slow_unless
from strategies import drawn_values, seeds, soft_mdps


def special(mdp):
    """The passes made for a large kernel of this storage, whatever its size."""
    kind = passes.SparsePasses if isinstance(mdp.transitions, bl.mdp.SparseTransitions) else passes.TablePasses
    return kind(mdp.transitions)


def dense(chain):
    return chain.toarray() if scipy.sparse.issparse(chain) else chain


def chain_entries(chain):
    return chain.data if scipy.sparse.issparse(chain) else chain


def expect_same_backup(came, expected, mdp, values):
    rounding = 2 * backup_rounding(mdp, values, expected.values)
    assert came.values == pytest.approx(expected.values, rel=0, abs=rounding)
    assert came.action_values == pytest.approx(expected.action_values, rel=0, abs=rounding)
    # log π is a difference of numbers of this size over τ; 1.5 ulp for the compiled exponential.
    assert came.policy == pytest.approx(expected.policy, rel=4 * rounding / mdp.temperature + 8 * EPSILON, abs=1e-300)
    assert came.policy.sum(axis=1) == pytest.approx(1.0, rel=0, abs=2 * came.policy.shape[1] * EPSILON)


@given(soft_mdps(), seeds)
def test_special_passes_are_the_backup_of_whole_arrays(mdp, seed):
    """`T v`, `π(v)`, `q(v)` and `P^π(v)`, dense and sparse, both compiled, to rounding."""
    values = drawn_values(mdp, np.random.default_rng(seed))
    expected = passes.Passes(mdp.transitions).backup(mdp, values)
    before = values.copy()
    expect_same_backup(special(mdp).backup(mdp, values), expected, mdp, values)
    backup, chain = special(mdp).linearized(mdp, values)
    expect_same_backup(backup, expected, mdp, values)
    averaged = dense(mdp.transitions.under(backup.policy))
    assert dense(chain) == pytest.approx(averaged, rel=0, abs=2 * mdp.actions * EPSILON)
    assert (values == before).all()


@given(soft_mdps(sparse=st.just(True)), seeds, st.integers(1, 6))
def test_compiled_sweeps_are_backups_one_after_another(mdp, seed, count):
    """`T^N v`."""
    values = drawn_values(mdp, np.random.default_rng(seed))
    expected = values
    for _ in range(count):
        expected = passes.Passes(mdp.transitions).backup(mdp, expected).values
    rounding = count * 2 * backup_rounding(mdp, values, expected)
    assert special(mdp).sweeps(mdp, values, count) == pytest.approx(expected, rel=0, abs=rounding)


def crowd(states=301, actions=6):
    """A dense kernel large enough for several threads: anybody may follow anybody."""
    rng = np.random.default_rng(0)
    kernel = rng.dirichlet(np.ones(states), size=(states, actions))
    return bl.SoftMDP(kernel, rng.normal(size=(states, actions)), 0.99, 0.1), rng.normal(size=states)


def corridor(states):
    """A sparse kernel large enough for several threads: step left or right, or stay."""
    here = np.arange(states)
    steps = np.stack([np.maximum(here - 1, 0), here, np.minimum(here + 1, states - 1)], axis=1)
    matrix = scipy.sparse.csr_array(
        (np.full(6 * states, 1 / 3), np.repeat(steps, 2, axis=0).reshape(-1), np.arange(2 * states + 1) * 3),
        shape=(2 * states, states),
    )
    rng = np.random.default_rng(0)
    return bl.SoftMDP(matrix, rng.normal(size=(states, 2)), 0.99, 0.1), rng.normal(size=states)


@pytest.mark.parametrize("large", [lambda: corridor(20_011), crowd], ids=["sparse", "dense"])
def test_the_number_of_threads_changes_no_bit(monkeypatch, large):
    """Each state's row is worked out by one thread, whichever."""
    mdp, values = large()
    assert mdp.transitions.large
    answers = []
    for count in (1, 2, 3):
        monkeypatch.setattr(threads, "processors", lambda count=count: count)
        backup, system = bl.mdp.linearized_backup(mdp, values)
        answers.append((backup.values, backup.policy, backup.action_values, chain_entries(system.chain)))
    for answer in answers[1:]:
        assert all((one == other).all() for one, other in zip(answers[0], answer, strict=True))


@pytest.mark.parametrize("actions", slow_unless((3).__eq__, [1, 3, 4, 9]))
def test_the_chain_of_a_large_table_is_its_average(actions):
    """Whether the actions divide into those that are worked on together or not."""
    rng = np.random.default_rng(actions)
    kernel = bl.mdp.DenseTransitions(rng.dirichlet(np.ones(760), size=(760, actions)))
    assert kernel.large
    policy = rng.dirichlet(np.ones(actions), size=760)
    expected = np.einsum("sa,sat->st", policy, kernel.probabilities)
    assert_allclose(kernel.under(policy), expected, rtol=2 * actions * EPSILON, atol=0)
    assert kernel.under(policy.astype(np.float32)).dtype == np.float64


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_reward_that_is_not_finite_shows_in_a_dense_backup(bad):
    """Wherever it stands among a state's actions, and whatever the order in which sums are taken."""
    mdp, values = crowd()
    rewards = np.array(mdp.rewards)
    rewards[7], rewards[8, -1] = [bad, *rewards[7, 1:]], bad
    with np.errstate(all="ignore"):
        backup, _ = bl.mdp.linearized_backup(mdp.replace(rewards=rewards), values)
        expected = passes.Passes(mdp.transitions).backup(mdp.replace(rewards=rewards), values)
    for came, wanted in ((backup.values, expected.values), (backup.policy, expected.policy)):
        assert (np.isfinite(came) == np.isfinite(wanted)).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_reward_that_is_not_finite_shows_in_the_backup(bad):
    """Compiled loops do not swallow it: the solver must be able to say NON_FINITE."""
    mdp, values = corridor(20_000)
    rewards = np.array(mdp.rewards)
    rewards[70, 1] = bad
    spoilt = mdp.replace(rewards=rewards)
    with np.errstate(invalid="ignore"):
        assert not np.isfinite(bl.mdp.soft_backup(spoilt, values).policy[70]).all()
        assert not np.isfinite(bl.mdp.soft_bellman(spoilt, values)[70])
        solver = bl.lower_level_solver("soft-policy-iteration")
        lower = bl.ParametricMDP(mdp.transitions, bl.parametric.TabularReward(np.zeros((20_000, 2))), 0.99, 0.1)
        problem = bl.BilevelProblem(lower, bl.objectives.QuadraticObjective())
        problem = attrs.evolve(problem, lower=_Spoilt(lower, spoilt))
        found = solver.solve(problem, np.zeros(40_000), None, np.random.default_rng(0))
    assert found.status is bl.Status.NON_FINITE


@attrs.frozen
class _Spoilt:
    original: object
    mdp: object

    @property
    def dimension(self):
        return self.original.dimension

    def model(self, x):
        return self.mdp

    def pullback(self, x, occupancy):
        return self.original.pullback(x, occupancy)


def test_exponentials_are_right_to_two_ulps_over_their_whole_range():
    """From 1 down to the smallest normal number, below which they are zero; NaN stays NaN."""
    from bilevelrl.mdp.sparse_kernels import _exponentials

    rng = np.random.default_rng(0)
    exponents = np.concatenate([-rng.random(20_000) * 708, -rng.random(20_000), [-0.0, -708.5, -1e300, np.nan]])
    came, scratch = exponents.copy(), np.empty(exponents.size)
    _exponentials(came, scratch.view(np.int64), scratch)
    assert came[:-4] == pytest.approx(np.exp(exponents[:-4]), rel=2 * EPSILON, abs=0)
    assert came[-4:-1].tolist() == [1.0, 0.0, 0.0]
    assert np.isnan(came[-1])
