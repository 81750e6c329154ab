"""Iterative solves with `I − γP^π`: as exact as asked, honest about what they took, and never without an answer."""

import itertools

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, strategies as st

import bilevelrl as bl
from bilevelrl.linear import chain_patterns, multilevel
from bilevelrl.linear.chain_patterns import Pattern
from bilevelrl.mdp import linearization
from bilevelrl.testing.exact import dense_kernel
from bilevelrl.testing.rounding import EPSILON
from faults.injected import Stubborn
from strategies import drawn_policy, seeds, soft_mdps


def grid(side, *, noise=0.3):
    """Four noisy moves on a torus-free grid, sparse."""
    row, column = np.divmod(np.arange(side * side), side)
    moves = ((-1, 0), (0, 1), (1, 0), (0, -1))
    targets = np.stack(
        [np.clip(row + d, 0, side - 1) * side + np.clip(column + e, 0, side - 1) for d, e in moves], axis=1
    )
    chances = np.full((side * side, 4, 4), noise / 3)
    chances[:, np.arange(4), np.arange(4)] = 1 - noise
    indices = np.repeat(targets[:, None, :], 4, axis=1).reshape(-1)
    pointers = np.arange(side * side * 4 + 1) * 4
    return scipy.sparse.csr_array((chances.reshape(-1), indices, pointers), shape=(side * side * 4, side * side))


def system_on_grid(side, discount, *, method="iterative", seed=0):
    transitions = bl.mdp.SparseTransitions(grid(side))
    rng = np.random.default_rng(seed)
    policy = rng.dirichlet(np.full(4, 0.3), size=side * side)
    return bl.mdp.Linearization(transitions, discount, policy, method=method), rng


@given(soft_mdps(), seeds, st.sampled_from([1e-2, 1e-8]))
def test_an_iteration_meets_the_tolerance_it_was_given(mdp, seed, tolerance):
    """`‖b − Ax‖₂ ≤ tolerance·‖b‖₂`, in both directions, for any chain; or the factorisation that took over is exact."""
    rng = np.random.default_rng(seed)
    policy = drawn_policy(rng, mdp.states, mdp.actions)
    chain = np.einsum("sa,sat->st", policy, dense_kernel(mdp))
    matrix = np.eye(mdp.states) - mdp.discount * chain
    system = bl.mdp.Linearization(mdp.transitions, mdp.discount, policy, method="iterative")
    target = rng.normal(size=mdp.states) * 10.0 ** rng.uniform(-200, 100)
    for solve, square in ((system.solve, matrix), (system.solve_transpose, matrix.T)):
        answer = solve(target, tolerance=tolerance)
        scale = float(np.abs(target).max())
        left, size = (target - square @ answer) / scale, np.linalg.norm(answer / scale)
        rounding = 8 * (mdp.states + mdp.actions) * EPSILON * (size + mdp.states)
        assert np.linalg.norm(left) <= tolerance * np.linalg.norm(target / scale) + rounding
        assert system.iterated > 0


@pytest.mark.parametrize("discount", [0.9, 0.999])
def test_iterating_to_rounding_is_as_good_as_factoring(discount):
    """On a grid with all levels of aggregation, in both directions; the condition number is 2/(1−γ)."""
    iterating, rng = system_on_grid(60, discount)
    factoring, _ = system_on_grid(60, discount, method="direct")
    target = rng.normal(size=3600)
    for one, other in (
        (iterating.solve(target), factoring.solve(target)),
        (iterating.solve_transpose(target), factoring.solve_transpose(target)),
    ):
        scale = np.abs(other).max()
        assert one == pytest.approx(other, rel=0, abs=100 * EPSILON * 60 / (1 - discount) * scale)
    assert not iterating.fell_back
    assert iterating.factorization is None


def test_aggregation_keeps_the_number_of_products_nearly_independent_of_the_discount():
    """Plain BiCGSTAB needs many times as many at γ = 0.9999 as at 0.9, or fails; with aggregates they grow slowly."""
    products = {}
    for discount in (0.9, 0.9999):
        system, rng = system_on_grid(80, discount)
        system.solve(rng.normal(size=6400), tolerance=1e-8)
        assert not system.fell_back
        products[discount] = system.iterated
    assert products[0.9999] <= 6 * products[0.9], products


@pytest.mark.parametrize("transpose", [False, True])
def test_the_preconditioner_is_linear_and_an_approximate_inverse(monkeypatch, transpose):
    """`M(au + bv) = aMu + bMv`; and the eigenvalues of `MA` lie near one, where those of sweeps alone reach to zero."""
    monkeypatch.setattr(chain_patterns, "COARSEST", 20)
    monkeypatch.setattr(multilevel, "COARSEST", 20)
    system, rng = system_on_grid(15, 0.999)
    structure, entries = system.transitions.chains, system.chain.data
    levels = structure.levels
    if transpose:
        levels, order = structure.transposed
        entries = entries[order]
    assert len(levels) > 2
    inverse = multilevel.Aggregation(levels, entries, 0.999)
    u, v = rng.normal(size=(2, 225))
    parts = 2.0 * inverse(u) - 3.0 * inverse(v)
    assert inverse(2.0 * u - 3.0 * v) == pytest.approx(parts, rel=0, abs=1e-12 * np.abs(parts).max())
    matrix = np.eye(225) - 0.999 * levels[0].pattern.matrix(entries).toarray()
    sweeps = multilevel.Aggregation((chain_patterns.Level(levels[0].pattern),), entries, 0.999)
    farthest = {}
    for label, approximate in (("aggregates", inverse), ("sweeps", sweeps)):
        product = np.stack([approximate(column) for column in matrix.T], axis=1)
        farthest[label] = np.abs(1.0 - np.linalg.eigvals(product)).max()
    assert farthest["aggregates"] < 0.8, farthest
    assert farthest["sweeps"] > 0.99, farthest


def test_sweeps_without_aggregates_are_gauss_seidel():
    """On one level M is a sweep forward, with the halves apart, and a sweep back: see `sweep_forward`."""
    rng = np.random.default_rng(1)
    chain = rng.dirichlet(np.ones(7), size=7) * (rng.random((7, 7)) < 0.6)
    chain /= np.maximum(chain.sum(axis=1, keepdims=True), 1.0)
    sparse = scipy.sparse.csr_array(chain)
    pattern = Pattern.of(sparse)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multilevel, "COARSEST", 1)
        inverse = multilevel.Aggregation((chain_patterns.Level(pattern),), sparse.data, 0.9)
    matrix, target = np.eye(7) - 0.9 * chain, rng.normal(size=7)
    expected = np.zeros(7)
    own_half = np.arange(7) // 4
    for s in range(7):
        seen = (np.arange(7) < s) & (own_half == own_half[s])
        expected[s] = (target[s] - matrix[s, seen] @ expected[seen]) / matrix[s, s]
    for pair in ([3, 6], [2, 5], [1, 4], [0]):  # back, two at a time, which do not see each other
        others = ~np.isin(np.arange(7), pair)
        left = target[pair] - matrix[np.ix_(pair, others)] @ expected[others]
        left -= (matrix[np.ix_(pair, pair)] - np.diag(np.diag(matrix)[pair])) @ expected[pair]
        expected[pair] = left / np.diag(matrix)[pair]
    assert inverse(target) == pytest.approx(expected, rel=0, abs=1e-13 * np.abs(expected).max())


@given(soft_mdps(sparse=st.just(True)))
def test_aggregates_are_a_partition_of_the_states_that_are_tied(mdp):
    """Every state is in one aggregate or in none; the coarser chain's entries are sums of the finer one's."""
    structure = mdp.transitions.chains
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chain_patterns, "COARSEST", 1)
        patch.setattr(chain_patterns, "WORTH_A_LEVEL", 1.0)
        levels = chain_patterns.hierarchy(structure.pattern, structure.uniform)
    entries = structure.uniform
    for level, below in itertools.pairwise(levels):
        members = np.zeros((level.pattern.size, level.count))
        inside = level.labels < level.count
        members[inside, level.labels[inside]] = 1.0
        assert (members.sum(axis=0) >= 1).all()
        matrix = level.pattern.matrix(entries).toarray()
        alone = ~inside
        off = matrix - np.diag(np.diag(matrix))
        assert not off[alone].any()
        assert not off[:, alone].any()
        merged = level.merged(entries, below.pattern.columns.size)
        expected = members.T @ matrix @ members
        assert below.pattern.matrix(merged).toarray() == pytest.approx(expected, rel=0, abs=1e-13)
        entries = merged


def test_a_transposed_hierarchy_has_the_same_aggregates():
    """`Zᵀ Aᵀ Z` is the transpose of `Zᵀ A Z`."""
    structure = bl.mdp.SparseTransitions(grid(30)).chains
    turned, order = structure.transposed
    entries, back = structure.uniform, structure.uniform[order]
    for level, other in zip(structure.levels, turned, strict=True):
        one, two = level.pattern.matrix(entries), other.pattern.matrix(back)
        assert abs(one.T - two).max() <= 1e-15
        if level.labels is not None:
            assert (level.labels == other.labels).all()
            entries = level.merged(entries, int(level.slots.max()) + 1)
            back = other.merged(back, int(other.slots.max()) + 1)


def test_an_iteration_that_stagnates_gives_way_to_a_factorisation_and_says_so(monkeypatch):
    """The answer is exact, `fell_back` tells, and later solves use the factorisation at once."""
    monkeypatch.setattr("bilevelrl.mdp.linearization.Iteration", Stubborn)
    system, rng = system_on_grid(10, 0.99)
    expected, _ = system_on_grid(10, 0.99, method="direct")
    target = rng.normal(size=100)
    assert system.solve(target) == pytest.approx(expected.solve(target), rel=1e-12)
    assert system.fell_back
    assert system.factorization is not None
    assert system.iterated == 7
    assert system.solve_transpose(target) == pytest.approx(expected.solve_transpose(target), rel=1e-12)
    assert system.iterated == 7, "it tried to iterate once more"


def _no_memory(chain, discount):
    raise MemoryError


@pytest.mark.parametrize("transpose", [False, True])
def test_without_memory_for_a_factorisation_sweeps_find_the_answer(monkeypatch, transpose):
    """The last resort converges for every chain, at the rate γ."""
    monkeypatch.setattr("bilevelrl.mdp.linearization.Iteration", Stubborn)
    monkeypatch.setattr(bl.linear.Factorization, "of", _no_memory)
    system, rng = system_on_grid(10, 0.9)
    target = rng.normal(size=100)
    solve, apply = (system.solve_transpose, system.apply_transpose) if transpose else (system.solve, system.apply)
    assert apply(solve(target)) == pytest.approx(target, rel=0, abs=1e-13)
    assert system.fell_back


def test_a_large_chain_whose_aggregates_do_not_thin_out_is_not_factored(monkeypatch):
    """The factors of a random graph fill up: at this size by tens of gigabytes."""
    monkeypatch.setattr(linearization, "SURELY_FITS", 1000)
    rng = np.random.default_rng(0)
    columns = rng.integers(2000, size=(4000, 8))
    tangled = scipy.sparse.csr_array((np.full(32_000, 0.125), columns.reshape(-1), np.arange(4001) * 8), (4000, 2000))
    assert not linearization.can_be_factored(bl.mdp.SparseTransitions(tangled))
    assert linearization.can_be_factored(bl.mdp.SparseTransitions(grid(45)))


def tangle():
    """A random graph of 2000 states, whose aggregates are tied to nearly all others."""
    columns = np.random.default_rng(0).integers(2000, size=(4000, 8))
    pointers = np.arange(4001) * 8
    return scipy.sparse.csr_array((np.full(32_000, 0.125), columns.reshape(-1), pointers), (4000, 2000))


def test_what_cannot_be_factored_is_swept_and_all_its_products_are_counted(monkeypatch):
    """Neither the iteration nor a factorisation serves: the answer is right, and the cost and the flag are honest."""
    monkeypatch.setattr("bilevelrl.mdp.linearization.Iteration", Stubborn)
    monkeypatch.setattr(linearization, "SURELY_FITS", 1000)
    system = bl.mdp.Linearization(bl.mdp.SparseTransitions(tangle()), 0.5, np.full((2000, 2), 0.5), method="iterative")
    assert system.fell_back is False
    target = np.random.default_rng(1).normal(size=2000)
    sweeps = []
    for _ in range(2):
        before = system.iterated
        assert system.apply(system.solve(target)) == pytest.approx(target, rel=0, abs=1e-14)
        assert system.fell_back is True
        assert system.factorization is None
        sweeps.append(system.iterated - before - 7)
    # γ halves what is left in each sweep, and 2^−52 is rounding.
    assert sweeps[0] == sweeps[1]
    assert 40 < sweeps[0] < 55


def test_products_of_all_solves_are_counted():
    system, rng = system_on_grid(12, 0.9)
    system.solve(rng.normal(size=144), tolerance=1e-3)
    once = system.iterated
    system.solve_transpose(rng.normal(size=144), tolerance=1e-3)
    assert system.iterated > once > 0


def random_graph(states):
    columns = np.random.default_rng(0).integers(states, size=states * 2 * 4)
    return scipy.sparse.csr_array(
        (np.full(columns.size, 0.25), columns, np.arange(2 * states + 1) * 4), (2 * states, states)
    )


def line(states):
    """Steps both ways."""
    here = np.arange(states)
    columns = np.stack([np.maximum(here - 1, 0), np.minimum(here + 1, states - 1)], axis=1).reshape(-1)
    return scipy.sparse.csr_array((np.ones(columns.size), columns, np.arange(columns.size + 1)), (2 * states, states))


MEASURED = {
    "a line is a band, however long": (line(20_000), False),
    "a small grid": (grid(35), False),
    "a larger grid": (grid(80), True),
    "a random graph soon fills up": (random_graph(1_000), True),
    "longer than it is worth to order": (line(60_000), True),
}


@pytest.mark.parametrize("what", MEASURED)
def test_the_method_is_chosen_by_what_a_factorisation_would_take(what):
    """Of two kernels with as many states the one may be a band and the other a knot."""
    kernel, iterated = MEASURED[what]
    transitions = bl.mdp.SparseTransitions(kernel)
    assert linearization.iterates(transitions, "auto") == iterated
    assert linearization.iterates(transitions, "iterative")
    assert not linearization.iterates(transitions, "direct")


def test_a_large_table_is_iterated_on_and_a_small_one_factored():
    for states, iterated in ((300, False), (301, True)):
        transitions = bl.mdp.DenseTransitions(np.full((states, 1, states), 1 / states))
        assert linearization.iterates(transitions, "auto") == iterated


@given(soft_mdps(sparse=st.just(True)))
def test_factors_stay_within_the_envelope(mdp):
    """`Σ w_i²` bounds the multiplications below the diagonal, in the envelope's own order, of a factorisation."""
    from scipy.sparse.csgraph import reverse_cuthill_mckee

    pattern = mdp.transitions.chains.pattern
    ones = pattern.matrix(np.ones(pattern.columns.size)).toarray()
    order = reverse_cuthill_mckee(scipy.sparse.csr_array(ones + ones.T), symmetric_mode=True)
    both = (ones + ones.T)[np.ix_(order, order)] > 0
    expected = sum((i - int(row[: i + 1].argmax())) ** 2 for i, row in enumerate(both) if row[: i + 1].any())
    assert pattern.envelope_work == expected


def grid_problem(side, discount=0.99, temperature=0.1):
    rng = np.random.default_rng(5)
    rewards = rng.normal(size=(side * side, 4))
    lower = bl.ParametricMDP(
        bl.mdp.SparseTransitions(grid(side)), bl.parametric.StateReward(rewards), discount, temperature
    )
    return bl.BilevelProblem(lower, bl.objectives.QuadraticObjective())


@pytest.mark.parametrize("discount", [0.9, 0.999])
def test_inexact_newton_keeps_the_guarantee_and_the_gradient(discount):
    """Systems solved no better than a step deserves lead to the same answer as exact ones."""
    problem, x = grid_problem(40, discount), np.zeros(1600)
    answers = {}
    for method in ("direct", "iterative"):
        solver = bl.lower_level_solver("soft-policy-iteration", tolerance=1e-8, linear_solver=method)
        solution = solver.solve(problem, x, None, np.random.default_rng(0))
        assert solution.status is bl.Status.CONVERGED
        assert solution.residual <= (1 - discount) * 1e-8
        hyper = bl.hypergradient_estimator("implicit").estimate(problem, x, solution, None, np.random.default_rng(0))
        assert hyper.status is bl.Status.CONVERGED
        answers[method] = solution, hyper
    (exact, gradient), (inexact, other) = answers["direct"], answers["iterative"]
    assert np.abs(exact.values - inexact.values).max() <= 2e-8
    # A value error of 1e-8 moves log π by 2e-8/τ, which is 2e-7; and the gradient by about as much, relative.
    assert np.abs(gradient.gradient - other.gradient).max() <= 1e-5 * np.abs(gradient.gradient).max()
    assert exact.cost.linear_solves == exact.iterations
    assert (inexact.cost.linear_solves, exact.cost.products) == (0, 0)
    assert inexact.cost.products > 0
    assert other.cost.products > 1


def test_a_newton_step_that_fell_back_is_told_in_the_status(monkeypatch):
    """Both the solver and the estimator say that a slower method had to take over, and converge all the same."""
    monkeypatch.setattr("bilevelrl.mdp.linearization.Iteration", Stubborn)
    problem, x = grid_problem(12), np.zeros(144)
    solver = bl.lower_level_solver("soft-policy-iteration", linear_solver="iterative")
    solution = solver.solve(problem, x, None, np.random.default_rng(0))
    assert solution.status is bl.Status.FELL_BACK
    assert solution.status.converged
    assert "slower method" in solution.status.advice
    fresh = bl.mdp.TabularSolution(
        solution.model,
        solution.policy,
        solution.values,
        solution.action_values,
        solution.residual,
        1,
        bl.Status.CONVERGED,
        bl.Cost(),
        bl.mdp.Linearization(solution.model.transitions, 0.99, solution.policy, method="iterative"),
    )
    hyper = bl.hypergradient_estimator("implicit").estimate(problem, x, fresh, None, np.random.default_rng(0))
    assert hyper.status is bl.Status.FELL_BACK


def test_a_discount_too_near_to_one_for_the_guarantee_is_reported():
    """At γ = 1 − 1e-13 no float64 residual proves 1e-10; the status says so, and the bound says what is proven."""
    problem = grid_problem(6, discount=1 - 1e-13)
    for method in ("direct", "iterative"):
        solver = bl.lower_level_solver("soft-policy-iteration", linear_solver=method)
        found = solver.solve(problem, np.zeros(36), None, np.random.default_rng(0))
        assert found.status is bl.Status.STAGNATED, method
        assert "discount" in found.status.advice
