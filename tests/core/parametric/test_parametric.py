"""How x enters the follower: every part's pullback is the transpose of its derivative."""

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, strategies as st

import bilevelrl as bl
from bilevelrl.testing.rounding import EPSILON
from strategies import KERNELS, drawn_kernel, drawn_problems, seeds, stored_as

# Central differences of functions whose derivatives are O(1): h = ε^(1/3) makes truncation h² and rounding ε/h equal,
# both about 4e-11; a hundred of them covers sums over up to 12·5·12 entries.
STEP = 6e-6
DIFFERENCES = 4e-9


def derivative(function, x, direction):
    """`d/dh function(x + h·direction)` at zero."""
    return (function(x + STEP * direction) - function(x - STEP * direction)) / (2 * STEP)


@st.composite
def shapes(draw):
    """S, A, n and a generator."""
    return *(draw(st.integers(1, size)) for size in (12, 5, 4)), np.random.default_rng(draw(seeds))


def rewards_of_every_kind(states, actions, n, rng):
    base, features = rng.normal(size=(states, actions)), rng.normal(size=(states, actions, n))
    chosen = rng.permutation(states)[: rng.integers(1, states + 1)]
    return {
        "tabular": bl.parametric.TabularReward(base),
        "state": bl.parametric.StateReward(base),
        "some states": bl.parametric.StateReward(base, chosen),
        "linear": bl.parametric.LinearReward(base, features),
        "linear, flat features": bl.parametric.LinearReward(base, features.reshape(-1, n)),
        "linear, sparse features": bl.parametric.LinearReward(base, scipy.sparse.csr_array(features.reshape(-1, n))),
        "callable": bl.parametric.CallableReward(
            lambda x: base + np.sin(features @ x),
            lambda x, c: np.einsum("sa,san->n", c * np.cos(features @ x), features),
            n,
        ),
    }


@given(shapes())
def test_the_pullback_of_rewards_is_the_transpose_of_their_derivative(drawn):
    """`⟨J_rᵀ c, d⟩ = ⟨c, J_r d⟩` for every kind of reward, at any x, cotangent c and direction d."""
    states, actions, n, rng = drawn
    for name, part in rewards_of_every_kind(states, actions, n, rng).items():
        x, direction = rng.normal(size=(2, part.dimension))
        cotangent = rng.normal(size=(states, actions))
        assert part(x).shape == (states, actions), name
        change = float((cotangent * derivative(part, x, direction)).sum())
        size = np.abs(cotangent).sum() * (1 + np.abs(direction).sum()) ** 3 * (1 + np.abs(part(x)).max())
        assert part.pullback(x, cotangent) @ direction == pytest.approx(change, rel=0, abs=DIFFERENCES * size), name


@given(shapes())
def test_linear_rewards_are_the_same_however_their_features_are_stored(drawn):
    states, actions, n, rng = drawn
    kinds = rewards_of_every_kind(states, actions, n, rng)
    x, cotangent = rng.normal(size=n), rng.normal(size=(states, actions))
    expected, back = kinds["linear"](x), kinds["linear"].pullback(x, cotangent)
    for name in ("linear, flat features", "linear, sparse features"):
        assert kinds[name](x) == pytest.approx(expected, rel=1e-13, abs=1e-13)
        assert kinds[name].pullback(x, cotangent) == pytest.approx(back, rel=1e-12, abs=1e-12)


def test_a_state_reward_is_counted_in_the_states_listed_in_the_order_of_x():
    part = bl.parametric.StateReward(np.zeros((3, 2)), [2, 0])
    assert part(np.array([5.0, 7.0])).tolist() == [[7.0, 7.0], [0.0, 0.0], [5.0, 5.0]]


def test_a_tabular_reward_has_one_parameter_for_each_state_and_action_in_row_major_order():
    part = bl.parametric.TabularReward(np.ones((2, 2)))
    assert part(np.array([0.0, 1.0, 2.0, 3.0])).tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_a_pullback_does_not_hand_out_the_cotangent_itself():
    """An estimator reuses its arrays; a gradient must not change with them."""
    cotangent = np.ones((2, 2))
    gradient = bl.parametric.TabularReward(np.zeros((2, 2))).pullback(np.zeros(4), cotangent)
    cotangent[:] = 0.0
    assert gradient.tolist() == [1.0] * 4


@st.composite
def softmax_kernels(draw):
    """The same softmax kernel in both storages, with features or one parameter an entry, and a generator."""
    states, actions = draw(st.integers(1, 8)), draw(st.integers(1, 4))
    kind, unreachable = draw(st.sampled_from(KERNELS)), draw(st.integers(0, states - 1))
    identity, sparse_features = draw(st.booleans()), draw(st.booleans())
    rng = np.random.default_rng(draw(seeds))
    base = drawn_kernel(rng, kind, states, actions, unreachable)
    features = None if identity else rng.normal(size=(np.count_nonzero(base), draw(st.integers(1, 4))))
    if sparse_features and features is not None:
        features = scipy.sparse.csr_array(features)
    return base, [bl.parametric.SoftmaxTransitions(stored_as(base, sparse), features) for sparse in (False, True)], rng


def as_table(kernel, shape):
    table = kernel.probabilities
    return (table.toarray() if scipy.sparse.issparse(table) else table).reshape(shape)


@given(softmax_kernels())
def test_a_softmax_kernel_is_the_same_in_both_storages(drawn):
    """Dense stays dense, sparse stays sparse; x = 0 is the base; zero entries stay zero; rows sum to one."""
    base, parts, rng = drawn
    x = rng.normal(size=parts[0].dimension)
    weights, continuation = rng.normal(size=base.shape[:2]), rng.normal(size=base.shape[2])
    dense, sparse = (part(x) for part in parts)
    assert isinstance(dense, bl.mdp.DenseTransitions)
    assert isinstance(sparse, bl.mdp.SparseTransitions)
    table = as_table(dense, base.shape)
    assert (table == as_table(sparse, base.shape)).all()
    assert ((table > 0) == (base > 0)).all()
    rounding = 4 * base.shape[2] * EPSILON
    assert table.sum(axis=2) == pytest.approx(np.ones(base.shape[:2]), rel=0, abs=rounding)
    # log and exp of the base's entries, down to 1e-12 or so, cost a few dozen ulps.
    assert as_table(parts[0](0 * x), base.shape) == pytest.approx(base, rel=1e-13, abs=0)
    back = [part.pullback(x, weights, continuation) for part in parts]
    assert (back[0] == back[1]).all()


@given(softmax_kernels())
def test_the_pullback_of_transitions_is_the_transpose_of_their_derivative(drawn):
    """`⟨J_Pᵀ P̄, d⟩ = Σ_sas' r̄_sa (γV)_s' (J_P d)_sas'` for the outer product `P̄`."""
    base, parts, rng = drawn
    for part in parts:
        x, direction = rng.normal(size=(2, part.dimension))
        weights, continuation = rng.normal(size=base.shape[:2]), rng.normal(size=base.shape[2])
        change = derivative(lambda x, part=part: as_table(part(x), base.shape), x, direction)
        expected = np.einsum("sa,t,sat->", weights, continuation, change)
        logits = direction if part.features is None else part.features @ direction
        size = np.abs(weights).sum() * np.abs(continuation).max() * (1 + np.abs(logits).max()) ** 3
        pulled = part.pullback(x, weights, continuation)
        assert pulled @ direction == pytest.approx(expected, rel=0, abs=DIFFERENCES * size)


def test_a_softmax_kernel_does_not_overflow():
    """Logits of ±1e4 give zeros and ones, not nan."""
    part = bl.parametric.SoftmaxTransitions(np.full((2, 1, 2), 0.5))
    assert as_table(part(np.array([1e4, -1e4, -1e4, 1e4])), (2, 2)).tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_features_belong_to_entries_in_row_major_order_in_both_storages():
    """A sparse base that lists a row's successors in another order means the same kernel."""
    unsorted = scipy.sparse.csr_array(([0.9, 0.1, 0.5, 0.5], [1, 0, 1, 0], [0, 2, 4]), shape=(2, 2))
    x = np.array([1.0, 0.0, 0.0, 2.0])
    dense = bl.parametric.SoftmaxTransitions(unsorted.toarray().reshape(2, 1, 2))(x).probabilities
    sparse = bl.parametric.SoftmaxTransitions(unsorted)(x).probabilities
    assert sparse.toarray() == pytest.approx(dense.reshape(2, 2), rel=1e-14)


@given(st.integers(1, 12), st.booleans(), seeds)
def test_the_pullback_of_the_initial_distribution_is_the_transpose_of_its_derivative(states, identity, seed):
    """`⟨J_ρᵀ ρ̄, d⟩ = ⟨ρ̄, J_ρ d⟩`, on the base's support, where ρ(x) is a distribution."""
    rng = np.random.default_rng(seed)
    base = rng.dirichlet(np.ones(states)) * (rng.random(states) < 0.7)
    base = base / base.sum() if base.sum() > 0 else np.eye(states)[0]
    part = bl.parametric.SoftmaxInitial(base, None if identity else rng.normal(size=(states, 3)))
    x, direction = rng.normal(size=(2, part.dimension))
    cotangent = rng.normal(size=states)
    change = float(cotangent @ derivative(part, x, direction))
    logits = direction if part.features is None else part.features @ direction
    size = np.abs(cotangent).sum() * (1 + np.abs(logits).max()) ** 3
    assert part.pullback(x, cotangent) @ direction == pytest.approx(change, rel=0, abs=DIFFERENCES * size)
    assert part(x).sum() == pytest.approx(1.0, rel=0, abs=2 * states * EPSILON)
    assert ((part(x) > 0) == (base > 0)).all()
    assert part(0 * x) == pytest.approx(base, rel=4 * states * EPSILON, abs=0)


def test_a_start_that_is_ruled_out_stays_ruled_out_however_large_its_parameter():
    """`0 · exp(1000)` is zero here, not nan: its parameter does not count at all."""
    part = bl.parametric.SoftmaxInitial([0.25, 0.75, 0.0])
    assert part(np.array([0.0, 0.0, 1000.0])).tolist() == [0.25, 0.75, 0.0]
    assert part(np.array([1e4, 0.0, 0.0])).tolist() == [1.0, 0.0, 0.0]


# --- Slice


@given(st.integers(0, 3), st.integers(0, 3), seeds)
def test_a_slice_reads_and_writes_its_block_only(before, after, seed):
    rng = np.random.default_rng(seed)
    part = bl.parametric.LinearReward(np.zeros((2, 3)), rng.normal(size=(2, 3, 2)))
    n = before + 2 + after
    sliced = bl.parametric.Slice(part, before, n)
    x, cotangent = rng.normal(size=n), rng.normal(size=(2, 3))
    block = slice(before, before + 2)
    assert (sliced(x) == part(x[block])).all()
    gradient = sliced.pullback(x, cotangent)
    assert (gradient[block] == part.pullback(x[block], cotangent)).all()
    assert np.delete(gradient, block).tolist() == [0.0] * (before + after)


def test_a_slice_beyond_the_end_of_x_is_refused():
    with pytest.raises(bl.InputError, match=r"Slice.start \+ part.dimension is 3 \+ 4; expected at most dimension = 6"):
        bl.parametric.Slice(bl.parametric.TabularReward(np.zeros((2, 2))), 3, 6)


# --- The whole follower


@given(drawn_problems())
def test_the_model_at_x_is_the_soft_mdp_of_its_parts(drawn):
    """r, P, ρ at x by plain formulas; γ, τ, μ as given. Softmax and tanh are good to a few ulps."""
    model = drawn.lower.model(drawn.x)
    table = as_table(model.transitions, drawn.base_kernel.shape)
    assert model.rewards == pytest.approx(drawn.rewards(drawn.x), rel=1e-13, abs=1e-13)
    assert table == pytest.approx(drawn.kernel(drawn.x), rel=1e-12, abs=1e-15)
    assert model.initial == pytest.approx(drawn.initial(drawn.x), rel=1e-12, abs=1e-15)
    assert (model.discount, model.temperature) == (drawn.discount, drawn.temperature)
    assert model.reference is None if drawn.reference is None else (model.reference == drawn.reference).all()
    assert isinstance(model.transitions, bl.mdp.SparseTransitions) is drawn.sparse


@given(drawn_problems(), seeds)
def test_the_followers_pullback_is_one_vector_jacobian_product(drawn, seed):
    """`J_rᵀ r̄ + J_Pᵀ P̄ + J_ρᵀ ρ̄`, against the whole Jacobians, where blocks of x are shared too."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=drawn.base_rewards.shape)
    continuation, initial = rng.normal(size=(2, weights.shape[0]))
    pulled = drawn.lower.pullback(drawn.x, bl.occupancy.DenseOccupancy(weights, continuation, initial))
    by_kernel = np.einsum("sa,t,satn->n", weights, continuation, drawn.kernel_jacobian(drawn.x))
    by_rewards = np.einsum("sa,san->n", weights, drawn.reward_jacobian(drawn.x))
    expected = by_rewards + by_kernel + initial @ drawn.initial_jacobian(drawn.x)
    size = np.abs(weights).sum() * (1 + np.abs(continuation).max()) + np.abs(initial).sum()
    # Features are standard normal: 6 bounds them in any draw that will ever be seen.
    assert pulled == pytest.approx(expected, rel=0, abs=6 * 4 * weights.size * EPSILON * size)


@given(drawn_problems(enters=st.just(("rewards",))), seeds)
def test_a_sampled_occupancy_pulls_back_as_the_table_it_sums_to(drawn, seed):
    rng = np.random.default_rng(seed)
    states, actions = drawn.base_rewards.shape
    visited, taken, weights = rng.integers(states, size=50), rng.integers(actions, size=50), rng.normal(size=50)
    sampled = bl.occupancy.SampledOccupancy(visited, taken, weights)
    table = np.zeros((states, actions))
    np.add.at(table, (visited, taken), weights)
    assert sampled.dense(states, actions).weights == pytest.approx(
        table, rel=0, abs=50 * EPSILON * np.abs(weights).sum()
    )
    by_table = drawn.lower.pullback(drawn.x, bl.occupancy.DenseOccupancy(table))
    rounding = 6 * 50 * states * actions * EPSILON * np.abs(weights).sum()
    assert drawn.lower.pullback(drawn.x, sampled) == pytest.approx(by_table, rel=0, abs=rounding)


@given(drawn_problems(enters=st.just(("transitions",))))
def test_an_occupancy_without_continuation_cannot_differentiate_transitions(drawn):
    """Samples of visits do not say what arriving is worth; a gradient without that part would be silently wrong."""
    occupancy = bl.occupancy.DenseOccupancy(np.zeros(drawn.base_rewards.shape))
    with pytest.raises(bl.InputError, match=r"occupancy.continuation is None; expected γV \(S,\)"):
        drawn.lower.pullback(drawn.x, occupancy)


def bandit(**changes):
    parts = {"transitions": np.ones((1, 2, 1)), "rewards": bl.parametric.TabularReward([[0.0, 1.0]]), "discount": 0.5}
    return bl.ParametricMDP(**(parts | {"temperature": 1.0} | changes))


def test_an_occupancy_without_initial_part_is_zero_there():
    lower = bandit(rewards=[[0.0, 1.0]], initial=bl.parametric.SoftmaxInitial([1.0]))
    assert lower.pullback(np.zeros(1), bl.occupancy.DenseOccupancy(np.ones((1, 2)))).tolist() == [0.0]


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ([1.0], r"the shape of x is \(1,\); expected \(2,\)"),
        ([1.0, np.nan], r"x\[1\] is nan; expected a finite number"),
        ([[1.0, 2.0]], r"the shape of x is \(1, 2\); expected \(2,\)"),
        ("here", "x is a str; expected an array of real numbers"),
    ],
)
def test_an_x_that_does_not_fit_is_refused(x, message):
    with pytest.raises(bl.InputError, match=message):
        bandit().model(x)


def test_an_x_of_integers_is_taken():
    assert bandit().model([1, 2]).rewards.tolist() == [[1.0, 3.0]]


def test_an_occupancy_of_another_shape_is_refused():
    with pytest.raises(bl.InputError, match=r"the shape of occupancy.weights is \(2, 1\); expected \(1, 2\)"):
        bandit().pullback(np.zeros(2), bl.occupancy.DenseOccupancy(np.ones((2, 1))))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rewards": [[0.0, 1.0]]}, "ParametricMDP is independent of x; expected at least one parametric part"),
        (
            {"initial": bl.parametric.SoftmaxInitial([1.0])},
            "rewards has 2, initial has 1; expected one n; use Slice to share x among parts",
        ),
        ({"rewards": bl.parametric.TabularReward([[0.0]])}, r"the shape of rewards is \(1, 1\); expected \(1, 2\)"),
        ({"initial": [0.4, 0.6]}, r"the shape of initial is \(2,\); expected \(1,\)"),
        ({"discount": 1.0}, "discount is 1.0; expected a finite number at least 0 and below 1"),
        ({"temperature": 0.0}, "temperature is 0.0; expected a finite number above 0"),
        ({"reference": [[1.0, 0.0]]}, r"reference\[0, 1\] is 0.0; expected a positive number"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(changes, message):
    with pytest.raises(bl.InputError, match=message):
        bandit(**changes)


@pytest.mark.parametrize("states", [[0, 0], [2], [-1], [0.5], []])
def test_a_state_reward_wants_distinct_states_that_exist(states):
    with pytest.raises(bl.InputError, match=r"StateReward.states .* expected distinct integers in 0..1"):
        bl.parametric.StateReward(np.zeros((2, 1)), states)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: bl.parametric.LinearReward(np.zeros((2, 2)), np.ones((3, 5))),
            r"LinearReward.features is \(3, 5\); expected \(4, n\)",
        ),
        (lambda: bl.parametric.LinearReward(np.zeros((2, 2)), np.ones(4)), r"LinearReward.features is \(4,\)"),
        (
            lambda: bl.parametric.LinearReward(np.zeros((1, 1)), [[np.inf]]),
            r"features\[0, 0\] is inf; expected a finite number",
        ),
        (
            lambda: bl.parametric.SoftmaxTransitions(np.eye(2)[:, None, :], np.ones((4, 1))),
            r"SoftmaxTransitions.features is \(4, 1\); expected \(2, n\)",
        ),
        (lambda: bl.parametric.SoftmaxInitial([0.5, 0.5], np.ones((3, 1))), r"SoftmaxInitial.features is \(3, 1\)"),
        (lambda: bl.parametric.SoftmaxInitial([0.5, 0.4]), "the sum of base is 0.9; expected 1 within 1e-8"),
        (lambda: bl.parametric.TabularReward([0.0, 1.0]), r"the shape of base is \(2,\); expected \(any, any\)"),
    ],
)
def test_a_part_that_cannot_be_is_refused(make, message):
    with pytest.raises(bl.InputError, match=message):
        make()


@pytest.mark.parametrize(
    ("part", "call"),
    [
        (bl.parametric.CallableReward(lambda x: np.zeros(3), lambda x, c: x, 1), lambda part: part(np.zeros(1))),
        (
            bl.parametric.CallableReward(lambda x: np.zeros((1, 1)), lambda x, c: np.zeros(2), 1),
            lambda part: part.pullback(np.zeros(1), np.zeros((1, 1))),
        ),
    ],
    ids=["function", "vjp"],
)
def test_a_callable_that_returns_another_shape_is_told_so(part, call):
    with pytest.raises(bl.InputError, match="the shape of the value of CallableReward"):
        call(part)
