"""The kit's strategies honour their arguments, draw every kind of thing, and shrink to what a person can read."""

import attrs
import numpy as np
import pytest
import scipy.sparse
from hypothesis import Phase, find, given, settings, strategies as st

import bilevelrl as bl
from bilevelrl.testing import drawn
from bilevelrl.testing.strategies import (
    bilevel_problems,
    parametric_mdps,
    points,
    policies,
    policy_objectives,
    soft_mdps,
    trajectory_objectives,
)
from slowness import slow_unless

SEARCH = settings(max_examples=3000, database=None, derandomize=True)


def simplest(strategy, condition):
    return find(strategy, condition, settings=SEARCH)


def kernel(mdp):
    """P (S, A, S)"""
    stored = mdp.transitions.probabilities
    table = stored.toarray() if scipy.sparse.issparse(stored) else stored
    return table.reshape(mdp.states, mdp.actions, mdp.states)


def is_sparse(mdp):
    return isinstance(mdp.transitions, bl.mdp.SparseTransitions)


def parts_of(lower):
    kinds = {
        "rewards": bl.parametric.ParametricArray,
        "initial": bl.parametric.ParametricArray,
        "transitions": bl.parametric.ParametricTransitions,
    }
    return tuple(
        name for name in ("rewards", "transitions", "initial") if isinstance(getattr(lower, name), kinds[name])
    )


def unsliced(part):
    return part.part if isinstance(part, bl.parametric.Slice) else part


@given(soft_mdps(max_states=3, max_actions=2, discount=0.3, temperature=2, sparse=True, reference=True, reachable=True))
def test_mdps_are_as_asked_for(mdp):
    assert mdp.states <= 3
    assert mdp.actions <= 2
    assert (mdp.discount, mdp.temperature) == (0.3, 2.0)
    assert is_sparse(mdp)
    assert mdp.reference is not None
    assert (mdp.initial > 0).all()


@given(soft_mdps(discount=st.just(0.75), temperature=st.sampled_from((0.5, 3.0)), sparse=False, reference=False))
def test_numbers_may_be_strategies_and_flags_false(mdp):
    assert mdp.discount == 0.75
    assert mdp.temperature in (0.5, 3.0)
    assert not is_sparse(mdp)
    assert mdp.reference is None


@given(soft_mdps())
def test_default_ranges(mdp):
    assert mdp.states <= 5
    assert mdp.actions <= 3
    assert 0 <= mdp.discount <= 0.99
    assert 0.05 <= mdp.temperature <= 10


KINDS_OF_MDP = {
    "sparse": is_sparse,
    "dense": lambda mdp: not is_sparse(mdp),
    "with a reference": lambda mdp: mdp.reference is not None,
    "with a reference that is no policy": lambda mdp: mdp.reference is not None and mdp.reference.sum() > 50,
    "one state": lambda mdp: mdp.states == 1,
    "largest": lambda mdp: (mdp.states, mdp.actions) == (5, 3),
    "one action": lambda mdp: mdp.actions == 1 and mdp.states > 1,
    "never entered": lambda mdp: mdp.states > 2 and (kernel(mdp)[:, :, -1] == 0).all(),
    "start in one state": lambda mdp: mdp.states > 2 and mdp.initial.max() == 1,
    "absorbing": lambda mdp: mdp.states > 2 and mdp.actions > 1 and mdp.transitions.absorbing.any(),
    "deterministic": lambda mdp: (
        mdp.states > 2 and np.ptp(kernel(mdp).argmax(axis=2)) and (kernel(mdp).max(2) == 1).all()
    ),
    "noisy": lambda mdp: mdp.states > 2 and (kernel(mdp).max(axis=2) < 1).all(),
    "both rows": lambda mdp: 0 < (kernel(mdp).max(axis=2) == 1).mean() < 1,
    "slightly noisy": lambda mdp: ((kernel(mdp) > 0) & (kernel(mdp) < 1e-5)).any(),
    "no reward": lambda mdp: not mdp.rewards.any(),
    "ties": lambda mdp: mdp.actions > 1 and np.ptp(mdp.rewards) > 0 and (np.ptp(mdp.rewards, axis=1) == 0).all(),
    "no ties": lambda mdp: mdp.actions > 1 and (np.ptp(mdp.rewards, axis=1) > 0).all(),
    "large rewards": lambda mdp: np.abs(mdp.rewards).max() >= 100,
    "far-sighted": lambda mdp: mdp.discount == 0.99,
    "near-sighted": lambda mdp: mdp.discount == 0,
    "cold": lambda mdp: mdp.temperature < 0.1,
    "warm": lambda mdp: mdp.temperature > 5,
}


QUICKLY_FOUND = {"dense", "sparse", "one state", "absorbing", "never entered", "with a reference", "warm"}


@pytest.mark.parametrize("kind", slow_unless(QUICKLY_FOUND.__contains__, KINDS_OF_MDP))
def test_every_kind_of_mdp_occurs(kind):
    simplest(soft_mdps(), KINDS_OF_MDP[kind])


@given(
    st.sets(st.sampled_from(("rewards", "transitions", "initial")), min_size=1).flatmap(
        lambda parts: st.tuples(st.just(parts), parametric_mdps(parts=parts, dimension=3, linear=True, sparse=True))
    )
)
def test_parametric_mdps_are_as_asked_for(asked):
    parts, lower = asked
    assert set(parts_of(lower)) == parts
    assert lower.dimension == 3
    assert is_sparse(lower.model(np.zeros(3)))
    assert not isinstance(unsliced(lower.rewards), drawn.TanhReward)


@given(parametric_mdps(parts="rewards", linear=False))
def test_rewards_that_are_not_linear(lower):
    assert parts_of(lower) == ("rewards",)
    assert isinstance(unsliced(lower.rewards), drawn.TanhReward)


@given(parametric_mdps(reachable=True).flatmap(lambda lower: st.tuples(st.just(lower), points(lower.dimension))))
def test_reachable_holds_at_every_x(drawn_pair):
    lower, x = drawn_pair
    assert (lower.model(x).initial > 0).all()


KINDS_OF_LOWER = {
    "linear": lambda lower: isinstance(unsliced(lower.rewards), bl.parametric.LinearReward),
    "of states": lambda lower: isinstance(unsliced(lower.rewards), bl.parametric.StateReward),
    "table": lambda lower: isinstance(unsliced(lower.rewards), bl.parametric.TabularReward),
    "tanh": lambda lower: isinstance(unsliced(lower.rewards), drawn.TanhReward),
    "all parts": lambda lower: len(parts_of(lower)) == 3,
    "kernel only": lambda lower: parts_of(lower) == ("transitions",),
    "initial only": lambda lower: parts_of(lower) == ("initial",),
    "all of x": lambda lower: (
        isinstance(lower.rewards, bl.parametric.ParametricArray) and not isinstance(lower.rewards, bl.parametric.Slice)
    ),
    "a block of x": lambda lower: isinstance(lower.rewards, bl.parametric.Slice) and lower.rewards.start > 0,
    "a parameter an entry": lambda lower: (
        isinstance(lower.transitions, bl.parametric.SoftmaxTransitions) and lower.transitions.features is None
    ),
    "sparse features": lambda lower: scipy.sparse.issparse(getattr(unsliced(lower.rewards), "features", None)),
    "sparse softmax": lambda lower: (
        isinstance(lower.transitions, bl.parametric.SoftmaxTransitions)
        and isinstance(lower.transitions.base, bl.mdp.SparseTransitions)
    ),
}


@pytest.mark.parametrize("kind", slow_unless({"all of x", "of states", "kernel only"}.__contains__, KINDS_OF_LOWER))
def test_every_kind_of_follower_occurs(kind):
    simplest(parametric_mdps(), KINDS_OF_LOWER[kind])


@given(bilevel_problems(), st.integers(0, 2**32 - 1))
def test_pullback_agrees_with_central_differences(problem, seed):
    lower, x, rng = problem.lower, problem.start, np.random.default_rng(seed)
    states, actions = lower.model(x).rewards.shape
    weights, continuation, initial = (
        rng.normal(size=(states, actions)),
        rng.normal(size=states),
        rng.normal(size=states),
    )

    def paired(at):
        mdp = lower.model(at)
        return (weights * (mdp.rewards + mdp.transitions.expectation(continuation))).sum() + initial @ mdp.initial

    step = 1e-4
    differences = [(paired(x + step * e) - paired(x - step * e)) / (2 * step) for e in np.eye(x.size)]
    # The step's square times third derivatives (features are at most 2, so at most some dozens), and rounding over it.
    sizes = np.abs(weights).sum() * (1 + np.abs(continuation).max()) + np.abs(initial).sum()
    tolerance = 100 * step**2 * sizes + 1e-15 * sizes * (1 + np.abs(lower.model(x).rewards).max()) / step
    measure = bl.occupancy.DenseOccupancy(weights, continuation, initial)
    np.testing.assert_allclose(lower.pullback(x, measure), differences, rtol=0, atol=tolerance)


@given(policies(3, 2))
def test_policies_are_policies(policy):
    assert policy.shape == (3, 2)
    assert (policy >= 0).all()
    np.testing.assert_allclose(policy.sum(axis=1), 1, rtol=1e-12)


def test_policies_from_uniform_to_deterministic():
    assert (simplest(policies(2, 2), lambda policy: True) == 0.5).all()
    simplest(policies(2, 2), lambda policy: (policy.max(axis=1) == 1).all())
    simplest(policies(2, 2), lambda policy: ((policy > 0.1) & (policy < 0.4)).any())
    simplest(policies(2, 2), lambda policy: ((policy > 0) & (policy < 1e-8)).any())


LOWER = bl.ParametricMDP(np.ones((1, 2, 1)), bl.parametric.TabularReward(np.zeros((1, 2))), 0.5, 1.0)
FIXED_REWARDS = bl.ParametricMDP(
    np.ones((1, 2, 1)), np.zeros((1, 2)), 0.5, 1.0, bl.parametric.SoftmaxInitial(np.ones(1))
)

KINDS_OF_OBJECTIVE = {
    "with targets": lambda f: (
        isinstance(f, bl.objectives.QuadraticObjective) and not (f.x_target is None or f.policy_target is None)
    ),
    "without targets": lambda f: (
        isinstance(f, bl.objectives.QuadraticObjective) and f.x_target is None is f.policy_target
    ),
    "return": lambda f: isinstance(f, bl.objectives.ReturnObjective) and isinstance(f.true_mdp, bl.SoftMDP),
    "return of the shared model": lambda f: isinstance(f, bl.objectives.ReturnObjective) and f.true_mdp is LOWER,
    "log-likelihood": lambda f: isinstance(f, bl.objectives.LogLikelihoodObjective),
    "sum": lambda f: isinstance(f, bl.objectives.WeightedSum),
}


@pytest.mark.parametrize("kind", KINDS_OF_OBJECTIVE)
def test_every_kind_of_policy_objective_occurs(kind):
    objective = simplest(policy_objectives(LOWER), KINDS_OF_OBJECTIVE[kind])
    value, by_x, by_policy = objective.value_and_gradients(np.zeros(2), np.array([[0.25, 0.75]]))
    assert np.isfinite(value)
    assert (by_x.shape, by_policy.shape) == ((2,), (1, 2))


@given(policy_objectives(LOWER, bounded=True))
def test_bounded_objectives_are_finite_at_every_policy(objective):
    assert np.isfinite(objective.value_and_gradients(np.zeros(2), np.array([[0.0, 1.0]]))[0])


KINDS_OF_TRAJECTORY_OBJECTIVE = {
    "preferences": lambda f: isinstance(f, bl.objectives.PreferenceObjective) and f.horizon == 2,
    "one trajectory": lambda f: f.trajectories == 1,
    "pairs": lambda f: isinstance(f, drawn.TableLoss) and f.trajectories == 2,
    "curved": lambda f: isinstance(f, drawn.TableLoss) and f.curved and f.table.any() and f.x_weights.any(),
}


@pytest.mark.parametrize("kind", KINDS_OF_TRAJECTORY_OBJECTIVE)
def test_every_kind_of_trajectory_objective_occurs(kind):
    simplest(trajectory_objectives(LOWER), KINDS_OF_TRAJECTORY_OBJECTIVE[kind])


@given(trajectory_objectives(LOWER, max_horizon=1, max_trajectories=1) | trajectory_objectives(FIXED_REWARDS))
def test_preferences_need_pairs_and_rewards_that_depend_on_x(objective):
    assert isinstance(objective, drawn.TableLoss)


@given(trajectory_objectives(LOWER), st.integers(0, 2**32 - 1))
def test_losses_of_trajectories_draw_nothing_and_have_their_gradient(objective, seed):
    rng, untouched = np.random.default_rng(seed), np.random.default_rng(seed)
    groups = 4
    actions = untouched.integers(2, size=(groups * objective.trajectories, objective.horizon))
    observations = np.zeros((actions.shape[0], objective.horizon + 1), dtype=np.int64)
    seen, x, step = (
        bl.sampling.Trajectories(observations, actions, np.zeros(actions.shape)),
        np.array([0.5, -0.25]),
        1e-4,
    )
    losses, gradient = objective.loss_and_gradient(x, seen, rng)
    assert rng.bit_generator.state == np.random.default_rng(seed).bit_generator.state
    assert losses.shape == (groups,)

    def mean(at):
        return objective.loss_and_gradient(at, seen, rng)[0].mean()

    differences = [(mean(x + step * e) - mean(x - step * e)) / (2 * step) for e in np.eye(2)]
    # Third derivatives are a few units; losses are at most some tens, rounded and divided by the step.
    np.testing.assert_allclose(gradient, differences, rtol=0, atol=1e-6)


@given(bilevel_problems("trajectory"))
def test_problems_of_trajectories_can_be_enumerated(problem):
    mdp, objective = problem.lower.model(problem.start), problem.objective
    assert isinstance(objective, bl.objectives.TrajectoryObjective)
    assert parts_of(problem.lower) == ("rewards",)
    assert (mdp.states * mdp.actions) ** (objective.horizon * objective.trajectories) <= 6**4
    assert mdp.discount <= 0.9


@given(bilevel_problems(parts=("rewards", "initial"), dimension=2, max_states=2, discount=0.5, bounded=True))
def test_problems_are_as_asked_for(problem):
    assert parts_of(problem.lower) == ("rewards", "initial")
    assert problem.start.shape == (2,)
    assert problem.lower.model(problem.start).states <= 2
    assert problem.lower.discount == 0.5
    assert not isinstance(problem.objective, bl.objectives.LogLikelihoodObjective)


@settings(max_examples=60, suppress_health_check=[], phases=[Phase.generate], database=None)
@given(st.tuples(soft_mdps(), parametric_mdps(), bilevel_problems(), bilevel_problems("trajectory")))
def test_no_health_check_fails_at_default_sizes(values):
    assert len(values) == 4


def test_a_noisy_mdp_shrinks_to_two_states_and_a_coin():
    mdp = simplest(soft_mdps(), lambda mdp: mdp.discount > 0 and (kernel(mdp) % 1 != 0).any())
    assert repr(mdp) == (
        "bl.SoftMDP(\n"
        "    transitions=np.array([[[0.5, 0.5]], [[1.0, 0.0]]]),\n"
        "    rewards=np.zeros((2, 1)),\n"
        "    discount=0.5,\n"
        "    temperature=1.0,\n"
        ")"
    )


@pytest.fixture(scope="module")
def simplest_problem():
    return simplest(bilevel_problems(), lambda problem: True)


def test_the_simplest_problem_moves_one_reward(simplest_problem):
    assert repr(simplest_problem) == (
        "bl.BilevelProblem(\n"
        "    lower=bl.ParametricMDP(\n"
        "        transitions=np.ones((1, 1, 1)),\n"
        "        rewards=bl.parametric.StateReward(base=np.zeros((1, 1))),\n"
        "        discount=0.0,\n"
        "        temperature=1.0,\n"
        "    ),\n"
        "    objective=bl.objectives.QuadraticObjective(),\n"
        "    start=np.zeros(1),\n"
        ")"
    )


def test_a_failing_example_is_reported_as_source():
    @settings(database=None, derandomize=True)
    @given(mdp=soft_mdps())
    def fails(mdp):
        assert mdp.actions == 1

    with pytest.raises(AssertionError) as caught:
        fails()
    assert "mdp=bl.SoftMDP(" in "\n".join(caught.value.__notes__)
    assert "transitions=np.ones((1, 2, 1))" in "\n".join(caught.value.__notes__)


def test_drawn_values_behave_as_their_base_classes(simplest_problem):
    problem = simplest_problem
    mdp = simplest(soft_mdps(), lambda mdp: True)
    assert isinstance(problem, bl.BilevelProblem)
    assert isinstance(problem.lower, bl.mdp.SupportsModel)
    assert isinstance(problem.lower, bl.sampling.SupportsSampling)
    assert attrs.evolve(problem, name="other").name == "other"
    other = mdp.replace(rewards=np.ones((1, 1)))
    assert isinstance(other, bl.SoftMDP)
    assert type(other) is type(mdp)
    assert other.rewards.tolist() == [[1.0]]
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        problem.name = "other"
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        mdp.discount = 0.0


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: soft_mdps(max_states=0), "max_states is 0; expected an integer of at least 1"),
        (lambda: soft_mdps(max_actions=1.5), "max_actions is 1.5; expected an integer of at least 1"),
        (
            lambda: soft_mdps(discount=1.5),
            "discount is 1.5; expected a finite number at least 0 and below 1, a strategy, or None",
        ),
        (
            lambda: soft_mdps(temperature=-1),
            "temperature is -1; expected a finite number above 0, a strategy, or None",
        ),
        (lambda: soft_mdps(sparse="yes"), "sparse is 'yes'; expected True, False, or None for either"),
        (lambda: soft_mdps(reachable=None), "reachable is None; expected True or False"),
        (
            lambda: parametric_mdps(parts=("nothing",)),
            "parts is ('nothing',); expected one or more of 'rewards', 'transitions', 'initial', or None",
        ),
        (
            lambda: parametric_mdps(parts=()),
            "parts is (); expected one or more of 'rewards', 'transitions', 'initial', or None",
        ),
        (lambda: parametric_mdps(dimension=0), "dimension is 0; expected an integer of at least 1 or None"),
        (lambda: parametric_mdps(linear=1), "linear is 1; expected True, False, or None for either"),
        (lambda: points(0), "dimension is 0; expected an integer of at least 1"),
        (lambda: policies(0, 1), "states is 0; expected an integer of at least 1"),
        (lambda: policy_objectives(None), "lower is None; expected a follower with a model, such as a ParametricMDP"),
        (lambda: policy_objectives(LOWER, bounded=1), "bounded is 1; expected True or False"),
        (lambda: trajectory_objectives(LOWER, max_horizon=0), "max_horizon is 0; expected an integer of at least 1"),
        (lambda: bilevel_problems("both"), "objective is 'both'; expected 'policy' or 'trajectory'"),
        (
            lambda: bilevel_problems("trajectory", parts="transitions"),
            "parts is ('transitions',); expected ('rewards',) for an objective of trajectories",
        ),
    ],
)
def test_bad_arguments_are_told_in_one_sentence_at_once(call, told):
    with pytest.raises(bl.InputError) as caught:
        call()
    assert str(caught.value) == told


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: drawn.TanhReward([[np.nan]], np.ones((1, 1))), "TanhReward.base"),
        (lambda: drawn.TanhReward([[0.0]], np.ones((2, 1))), "features"),
        (lambda: drawn.TableLoss([0.0], np.zeros(1), 1), "TableLoss.table"),
        (lambda: drawn.TableLoss([[0.0]], np.zeros(1), 0), "horizon is 0"),
    ],
)
def test_parts_of_drawn_problems_check_their_arguments(call, told):
    with pytest.raises(bl.InputError, match=told):
        call()
