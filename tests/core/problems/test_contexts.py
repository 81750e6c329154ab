"""Contexts: the direct sum is all contexts at once, exactly; samplers draw them by weight."""

from __future__ import annotations

import functools
import itertools
import re
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import scipy.stats
from hypothesis import given, strategies as st

import bilevelrl as bl
from bilevelrl.testing.exact import dense_kernel
from bilevelrl.testing.rounding import TINY, solve_rounding
from strategies import (
    OBJECTIVES,
    drawn_contexts,
    drawn_objective,
    drawn_policy,
    policy_error,
    seeds,
    solved,
    value_error,
)

kinds = st.sampled_from([kind for kind in OBJECTIVES if kind != "log-likelihood"])


def summed(drawn: tuple[list[Any], bl.Array]) -> bl.problems.ContextualMDP:
    contexts, weights = drawn
    return bl.problems.ContextualMDP([context.lower for context in contexts], weights)


def problems_of(drawn: tuple[list[Any], bl.Array], kind: str, seed: int) -> list[bl.BilevelProblem]:
    rng = np.random.default_rng(seed)
    return [bl.BilevelProblem(context.lower, drawn_objective(context, kind, rng)) for context in drawn[0]]


# --- The direct sum


@given(drawn_contexts())
def test_the_direct_sum_has_all_contexts_side_by_side(drawn):
    contexts, weights = drawn
    lower, x = summed(drawn), contexts[0].x
    model, table = lower.model(x), dense_kernel(lower.model(x))
    inside = np.zeros(table.shape, dtype=bool)
    for index, context in enumerate(contexts):
        own, rows = context.lower.model(x), lower.rows(index)
        inside[rows, :, rows] = True
        assert (table[rows, :, rows] == dense_kernel(own)).all()
        assert (model.rewards[rows] == own.rewards).all()
        assert model.initial[rows] == pytest.approx(weights[index] * own.initial, rel=1e-15)  # two roundings
        assert ((1.0 if model.reference is None else model.reference[rows]) == context.measure).all()
    assert (table[~inside] == 0).all()
    assert model.initial.sum() == pytest.approx(1.0, abs=1e-14)
    assert (model.discount, model.temperature) == (contexts[0].discount, contexts[0].temperature)


@given(drawn_contexts())
def test_the_direct_sum_is_solved_by_the_contexts_own_answers(drawn):
    contexts, _ = drawn
    lower, x = summed(drawn), contexts[0].x
    together = solved(lower.model(x))
    for index, context in enumerate(contexts):
        part, alone = lower.restrict(x, together, index), solved(context.lower.model(x))
        assert part.values == pytest.approx(alone.values, rel=0, abs=value_error(together) + value_error(alone))
        allowed = np.expm1(policy_error(together) + policy_error(alone))
        # A probability may underflow to zero in both.
        assert (np.abs(part.policy - alone.policy) <= allowed * alone.policy + 1e-300).all()


@given(drawn_contexts(), kinds, seeds)
def test_the_hypergradient_is_the_weighted_sum_of_the_contexts(drawn, kind, seed):
    """`∇φ = Σ_c w_c ∇φ_c`, both sides from the same V*: what may differ is the rounding of the linear solves."""
    contexts, weights = drawn
    x, rng = contexts[0].x, np.random.default_rng(seed)
    parts = problems_of(drawn, kind, seed)
    whole = bl.problems.contextual_problem(parts, weights)
    together = solved(whole.lower.model(x))
    estimator = bl.hypergradient_estimator("implicit")
    hyper = estimator.estimate(whole, x, together, None, rng)
    value, gradient, size = 0.0, np.zeros_like(x), 0.0
    for index, (weight, part) in enumerate(zip(weights, parts, strict=True)):
        own = whole.lower.restrict(x, together, index)
        alone = estimator.estimate(part, x, own, None, rng)
        value += weight * alone.objective
        gradient += weight * alone.gradient
        _, _, by_policy = part.objective.value_and_gradients(x, own.policy)
        slope = contexts[index].action_value_slope(x, own.values)
        # |∇φ_c| is at most Σ π|G| · 2|∂_x q|/(τ(1−γ)), plus the direct part.
        strength = float((own.policy * np.abs(by_policy)).sum()) * 2 * slope
        size += weight * (strength / (own.model.temperature * (1 - own.model.discount)))
        size += weight * (np.abs(alone.direct).sum() + abs(alone.objective))
    rounding = solve_rounding(together.model) * size + TINY
    assert hyper.objective == pytest.approx(value, rel=0, abs=rounding)
    assert hyper.gradient == pytest.approx(gradient, rel=0, abs=4 * rounding)


@given(drawn_contexts(), seeds)
def test_an_objective_may_judge_in_the_direct_sum_itself(drawn, seed):
    """`ReturnObjective(ContextualMDP)` is the weighted return, the pullback of the initial distribution included."""
    contexts, weights = drawn
    lower, x = summed(drawn), contexts[0].x
    policy = drawn_policy(np.random.default_rng(seed), int(lower.starts[-1]), contexts[0].base_rewards.shape[1])
    together = bl.objectives.ReturnObjective(lower).value_and_gradients(x, policy)
    apart = bl.problems.ContextualObjective(
        lower, [bl.objectives.ReturnObjective(context.lower) for context in contexts]
    )
    rounding = solve_rounding(lower.model(x))
    for one, other in zip(together, apart.value_and_gradients(x, policy), strict=True):
        visits = 1 / (1 - contexts[0].discount)
        size = visits**2 * (1 + max(np.abs(c.rewards(x)).max() for c in contexts)) * (1 + np.abs(x).sum())
        features = 1 + max(
            np.abs(array).max()
            for c in contexts
            for array in (c.reward_features, c.kernel_features, c.initial_features)
        )
        assert np.asarray(one) == pytest.approx(np.asarray(other), rel=0, abs=8 * rounding * size * features)
    assert weights.size == len(contexts)


def test_sparse_contexts_stay_sparse_and_small_dense_ones_dense() -> None:
    rng = np.random.default_rng(0)
    table = rng.dirichlet(np.ones(3), size=(3, 2))
    dense, sparse = (
        bl.ParametricMDP(kernel, bl.parametric.TabularReward(np.zeros((3, 2))), 0.9, 1.0)
        for kernel in (table, scipy.sparse.csr_array(table.reshape(6, 3)))
    )
    x = np.zeros(6)
    assert isinstance(bl.problems.ContextualMDP([dense, dense]).model(x).transitions, bl.mdp.DenseTransitions)
    for contexts in ([sparse, sparse], [dense, sparse]):
        assert isinstance(bl.problems.ContextualMDP(contexts).model(x).transitions, bl.mdp.SparseTransitions)
    large = rng.dirichlet(np.ones(100), size=(100, 2))
    big = bl.ParametricMDP(large, bl.parametric.TabularReward(np.zeros((100, 2))), 0.9, 1.0)
    assert isinstance(
        bl.problems.ContextualMDP([big, big, big]).model(np.zeros(200)).transitions, bl.mdp.SparseTransitions
    )


def test_what_does_not_depend_on_x_is_assembled_once() -> None:
    lower = bl.problems.ContextualMDP([cell(1.0), cell(2.0)])
    one, other = lower.model(np.zeros(4)), lower.model(np.ones(4))
    assert one.transitions is other.transitions
    assert one.initial is other.initial
    assert one.rewards is not other.rewards


def test_contexts_of_contexts_are_contexts() -> None:
    inner = bl.problems.ContextualMDP([cell(1.0), cell(2.0)], [0.25, 0.75])
    nested, flat = (
        bl.problems.ContextualMDP([inner, cell(3.0)]),
        bl.problems.ContextualMDP([cell(1.0), cell(2.0), cell(3.0)]),
    )
    x = np.arange(4.0)
    assert (nested.model(x).rewards == flat.model(x).rewards).all()
    assert nested.model(x).initial.reshape(3, 2).sum(axis=1) == pytest.approx([0.125, 0.375, 0.5])


def test_every_exact_algorithm_takes_contexts_as_they_are() -> None:
    """M-SoBiRL, unchanged, ends where the exact gradient of the weighted sum vanishes."""
    targets = np.random.default_rng(0).dirichlet(np.ones(2), size=(2, 2))
    parts = [
        bl.BilevelProblem(cell(scale), bl.objectives.QuadraticObjective(0.1, 1.0, policy_target=target))
        for scale, target in zip((1.0, -2.0), targets, strict=True)
    ]
    whole = bl.problems.contextual_problem(parts, [0.3, 0.7])
    run = bl.algorithm("m-sobirl", step_size=0.2).run(whole, iterations=5000, tolerance=1e-9)
    assert run.status is bl.Status.CONVERGED
    gradient = 0.3 * bl.value_and_gradient(parts[0], run.x)[1] + 0.7 * bl.value_and_gradient(parts[1], run.x)[1]
    assert np.linalg.norm(gradient) < 1e-8  # ten times the tolerance, which bounds residuals of the tracked answer


def cell(scale: float, **changes: Any) -> bl.ParametricMDP:
    """A two-state follower whose rewards are `scale · x`."""
    kernel = np.array([[[0.8, 0.2], [0.3, 0.7]], [[0.4, 0.6], [0.9, 0.1]]])
    reward = bl.parametric.LinearReward(np.zeros((2, 2)), scale * np.eye(4).reshape(2, 2, 4))
    fields = {"transitions": kernel, "rewards": reward, "discount": 0.5, "temperature": 0.8}
    return bl.ParametricMDP(**(fields | changes))


# --- Sampling

# One of the chi-square tests below fails for a correct sampler in fewer than one of 10⁵ choices of seeds.
LEVEL = 1e-6
WEIGHTS = np.array([0.2, 0.5, 0.0, 0.3])
STARTS = [np.array([0.9, 0.1]), np.array([0.0, 1.0]), np.array([0.5, 0.5]), np.array([0.25, 0.75])]
UNIFORM = np.full((8, 2), 0.5)


def world() -> bl.sampling.TabularSimulator:
    lower = bl.problems.ContextualMDP([cell(scale, initial=start) for scale, start in enumerate(STARTS, 1)], WEIGHTS)
    return lower.simulator(np.zeros(4))


def assert_frequencies(counts: bl.Array, probabilities: bl.Array) -> None:
    counts, probabilities = np.ravel(counts), np.ravel(probabilities)
    assert counts[probabilities == 0].sum() == 0
    positive = probabilities > 0
    expected = counts.sum() * probabilities[positive] / probabilities.sum()
    assert expected.min() > 10
    assert scipy.stats.chisquare(counts[positive], expected).pvalue > LEVEL


def test_first_states_draw_the_context_by_its_weight_and_no_step_leaves_it() -> None:
    rng = np.random.default_rng(1)
    paths = world().rollout(UNIFORM, 20_000, 5, rng)
    expected = np.concatenate([weight * start for weight, start in zip(WEIGHTS, STARTS, strict=True)])
    assert_frequencies(np.bincount(paths.observations[:, 0], minlength=8), expected)
    assert_frequencies(np.bincount(world().reset(20_000, rng), minlength=8), expected)
    contexts = paths.observations // 2
    assert (contexts == contexts[:, :1]).all()


def test_groups_share_a_context_and_are_independent_given_it() -> None:
    """The joint distribution of a group's first two states is `Σ_c w_c ρ_c ρ_cᵀ`."""
    paths = world().rollout_groups(UNIFORM, 30_000, 3, 2, np.random.default_rng(2))
    first = paths.observations[:, 0].reshape(-1, 3)
    assert (first // 2 == first[:, :1] // 2).all()
    joint = scipy.linalg.block_diag(*(w * np.outer(start, start) for w, start in zip(WEIGHTS, STARTS, strict=True)))
    for one, other in itertools.combinations(range(3), 2):
        assert_frequencies(np.bincount(8 * first[:, one] + first[:, other], minlength=64), joint)


@pytest.mark.parametrize("size", [1, 3])
def test_groups_of_one_context_are_what_rollout_draws(size: int) -> None:
    simulator = bl.sampling.TabularSimulator(world()._mdp) if size > 1 else world()
    grouped = simulator.rollout_groups(UNIFORM, 50, size, 4, np.random.default_rng(3))
    plain = simulator.rollout(UNIFORM, 50 * size, 4, np.random.default_rng(3))
    assert (grouped.observations == plain.observations).all()
    assert (grouped.actions == plain.actions).all()


# --- Estimators from trajectories

HORIZON, X = 2, np.array([0.2, -0.1, 0.3, 0.1])
# Four coordinates: a correct estimator exceeds 5.2 standard errors in one of them with probability 8e-7.
Z = 5.2


def pair_loss(scale: float) -> bl.objectives.CallableTrajectoryObjective:
    """`l(d, d') = (g(d) − b)(g(d') − b)(1 + x_0)`, `g = a_0 + 0.7 a_1`, `b = scale`: its mean shows who is paired."""

    def function(x: bl.Array, paths: bl.sampling.Trajectories, rng: np.random.Generator) -> tuple[bl.Array, bl.Array]:
        assert paths.observations.max() <= 1, "a context's objective sees its own states, counted from zero"
        scores = (paths.actions @ np.array([1.0, 0.7]) - scale).reshape(-1, 2).prod(axis=1)
        return scores * (1.0 + x[0]), np.eye(4)[0] * scores.mean()

    return bl.objectives.CallableTrajectoryObjective(function, HORIZON, 2)


SCALES, PAIR_WEIGHTS = (1.0, -2.0), np.array([0.3, 0.7])
PAIR_STARTS = (np.array([0.9, 0.1]), np.array([0.2, 0.8]))


@functools.cache
def pairs() -> bl.BilevelProblem:
    parts = [
        bl.BilevelProblem(cell(scale, initial=start), pair_loss(scale))
        for scale, start in zip(SCALES, PAIR_STARTS, strict=True)
    ]
    return bl.problems.contextual_problem(parts, PAIR_WEIGHTS, name="pairs")


def mean_score(context: int, x: bl.Array) -> float:
    """`E_c[g]` under π*(x), by enumeration of all paths."""
    model = cell(SCALES[context], initial=PAIR_STARTS[context]).model(x)
    policy, kernel, total = solved(model).policy, dense_kernel(model), 0.0
    for s, a, t, b in itertools.product(range(2), repeat=4):
        probability = model.initial[s] * policy[s, a] * kernel[s, a, t] * policy[t, b]
        total += probability * (a + 0.7 * b)
    return total


def objective(x: bl.Array) -> float:
    """Given the context the two of a pair are independent, so that `E_c[l] = (E_c[g] − b)² (1 + x_0)`."""
    squares = [(mean_score(c, x) - SCALES[c]) ** 2 for c in range(2)]
    return float(PAIR_WEIGHTS @ squares) * (1.0 + x[0])


@functools.cache
def exact_gradient() -> bl.Array:
    step = 1e-5
    return np.array([(objective(X + d) - objective(X - d)) / (2 * step) for d in step * np.eye(4)])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sobirl", {"groups": 200_000, "truncation": 25}),  # bias below 2‖c‖ 0.5²⁵/0.5: far below the noise
        ("sobirl", {"groups": 50_000, "truncation": 25, "restarts": False}),
        ("stoc-sobirl", {"batch": 200_000}),
    ],
)
def test_estimators_from_trajectories_are_unbiased_on_contexts(name: str, options: Any) -> None:
    problem = pairs()
    solution = bl.lower_level_solver("soft-policy-iteration", tolerance=1e-13).solve(
        problem, X, None, bl.randomness.stream(0, "")
    )
    estimator = bl.hypergradient_estimator(name, blocks=50, **options)
    hyper = estimator.estimate(problem, X, solution, None, bl.randomness.stream(1, "estimator"))
    assert (np.abs(hyper.gradient - exact_gradient()) / hyper.standard_error).max() < Z
    # The test would notice pairs across contexts: their mean loss is another.
    apart = float(PAIR_WEIGHTS @ [mean_score(c, X) - SCALES[c] for c in range(2)]) ** 2 * (1 + X[0])
    assert abs(apart - objective(X)) > 0.3
    assert hyper.objective == pytest.approx(objective(X), abs=0.05)  # 50,000 pairs of a loss of size 5: ten errors


@pytest.mark.parametrize("name", ["direct-only", "zero-order"])
def test_rivals_that_sample_draw_pairs_of_one_context(name: str) -> None:
    problem = pairs()
    solution = bl.lower_level_solver("soft-policy-iteration", tolerance=1e-13).solve(
        problem, X, None, bl.randomness.stream(0, "")
    )
    estimator = bl.hypergradient_estimator(name, groups=50_000)
    hyper = estimator.estimate(problem, X, solution, None, bl.randomness.stream(1, "estimator"))
    assert hyper.objective == pytest.approx(objective(X), abs=0.05)
    if name == "direct-only":
        exact = objective(X) / (1.0 + X[0]) * np.eye(4)[0]
        assert (np.abs(hyper.direct - exact) <= Z * hyper.standard_error).all()


def test_a_model_free_algorithm_takes_contexts_as_they_are() -> None:
    algorithm = bl.algorithm("sobirl", groups=200, samples=5000, step_size=0.02)
    run = algorithm.run(pairs(), iterations=20, x=X)
    assert objective(run.x) < objective(X)
    own = pairs().lower.restrict(run.x, run.solution, 1)
    assert own.policy.shape == (2, 2)
    assert own.simulator.spec.states == 2


def test_a_group_from_several_contexts_is_told() -> None:
    problem = pairs()
    paths = problem.lower.simulator(X).rollout(np.full((4, 2), 0.5), 100, HORIZON, bl.randomness.stream(0, "paths"))
    with pytest.raises(bl.InputError, match=r"group \d+ of the trajectories is from contexts 0, 1; expected .*Groups"):
        problem.objective.loss_and_gradient(X, paths, bl.randomness.stream(0, "labels"))


# --- Reports


def test_measures_are_averaged_and_told_for_each_context() -> None:
    def part(scale: float) -> bl.BilevelProblem:
        return bl.BilevelProblem(
            cell(scale),
            bl.objectives.QuadraticObjective(),
            measures=lambda x, solution: {"largest value": solution.values.max(), f"only in {scale}": scale},
        )

    problem = bl.problems.contextual_problem([part(1.0), part(2.0)], [0.25, 0.75], name="two")
    run = bl.algorithm("m-sobirl").run(problem, iterations=3, x=X)
    before = problem.measures(run.x, run.solution)
    own = [before[f"  largest value, context {index}"] for index in range(2)]
    assert before["largest value"] == pytest.approx(0.25 * own[0] + 0.75 * own[1])
    assert before["  only in 2.0, context 1"] == 2.0
    assert "only in 2.0" not in before
    assert "largest value" in str(run)


def test_a_picture_shows_the_first_context(tmp_path: Any) -> None:
    seen = []
    part = bl.BilevelProblem(
        cell(1.0),
        bl.objectives.QuadraticObjective(),
        picture=lambda axes, x, solution: seen.append(solution.policy.shape),
    )
    bl.algorithm("m-sobirl").run(bl.problems.contextual_problem([part, part]), iterations=1).plot(tmp_path / "run.png")
    assert seen == [(2, 2)]


def test_the_objective_is_of_every_kind_that_all_contexts_are() -> None:
    data = bl.objectives.PreferenceDatasetObjective(bl.parametric.TabularReward(np.zeros((2, 2))), one_label())
    both = bl.problems.contextual_problem([bl.BilevelProblem(cell(1.0), data)] * 2).objective
    assert isinstance(both, bl.objectives.PolicyObjective)
    assert isinstance(both, bl.objectives.TrajectoryObjective)
    one = bl.problems.contextual_problem(
        [bl.BilevelProblem(cell(1.0), data), bl.BilevelProblem(cell(1.0), bl.objectives.QuadraticObjective())]
    ).objective
    assert isinstance(one, bl.objectives.PolicyObjective)
    assert not isinstance(one, bl.objectives.TrajectoryObjective)
    assert not isinstance(pairs().objective, bl.objectives.PolicyObjective)


def one_label() -> bl.objectives.PreferenceDataset:
    one = bl.sampling.Trajectories(np.zeros((1, 2), int), np.zeros((1, 1), int), np.zeros((1, 1)))
    return bl.objectives.PreferenceDataset(one, one, np.array([0.5]))


# --- Bad input


def quadratic(lower: Any, **changes: Any) -> bl.BilevelProblem:
    return bl.BilevelProblem(lower, bl.objectives.QuadraticObjective(), **changes)


def longer() -> bl.ParametricMDP:
    return cell(1.0, rewards=bl.parametric.Slice(bl.parametric.TabularReward(np.zeros((2, 2))), 0, 5))


THREE_ACTIONS = np.full((2, 3, 2), 0.5)
MISTAKES = {
    "no context": (lambda: bl.problems.ContextualMDP([]), "contexts is empty; expected at least one follower"),
    "no problem": (
        lambda: bl.problems.contextual_problem([]),
        "problems is empty; expected at least one BilevelProblem",
    ),
    "not a list": (
        lambda: bl.problems.ContextualMDP(cell(1.0)),
        "contexts is a ParametricMDP; expected a list of followers",
    ),
    "one problem": (
        lambda: bl.problems.contextual_problem(quadratic(cell(1.0))),
        "problems is a BilevelProblem; expected a list of BilevelProblems",
    ),
    "not a follower": (
        lambda: bl.problems.ContextualMDP([cell(1.0), cell(1.0).model(X)]),
        "contexts[1] is a SoftMDP; expected a follower with a transition model (SupportsModel)",
    ),
    "not a problem": (lambda: bl.problems.contextual_problem([cell(1.0)]), "problems[0] is a ParametricMDP; expected"),
    "negative weight": (
        lambda: bl.problems.contextual_problem([quadratic(cell(1.0))] * 2, [1.5, -0.5]),
        "weights[1] is -0.5; expected a probability, so not negative",
    ),
    "sum": (
        lambda: bl.problems.contextual_problem([quadratic(cell(1.0))] * 2, [0.5, 0.4]),
        "the sum of weights is 0.9; expected 1 within 1e-8",
    ),
    "number of weights": (
        lambda: bl.problems.contextual_problem([quadratic(cell(1.0))] * 2, [1.0]),
        "the shape of weights is (1,); expected (2,)",
    ),
    "weights of words": (
        lambda: bl.problems.ContextualMDP([cell(1.0)] * 2, ["a", "b"]),
        "weights[0] is 'a'; expected a real number",
    ),
    "dimension": (
        lambda: bl.problems.contextual_problem([quadratic(cell(1.0)), quadratic(longer())]),
        "the dimension of contexts[1] is 5; expected 4, as of contexts[0]: one dimension for all contexts",
    ),
    "discount": (
        lambda: bl.problems.ContextualMDP([cell(1.0), cell(1.0, discount=0.9)]),
        "the discount of contexts[1] is 0.9; expected 0.5, as of contexts[0]: one discount for all contexts, since",
    ),
    "temperature": (
        lambda: bl.problems.ContextualMDP([cell(1.0), cell(1.0, temperature=1.0)]),
        "the temperature of contexts[1] is 1.0; expected 0.8, as of contexts[0]",
    ),
    "actions": (
        lambda: bl.problems.ContextualMDP(
            [
                longer(),
                cell(
                    1.0,
                    transitions=THREE_ACTIONS,
                    rewards=bl.parametric.LinearReward(np.zeros((2, 3)), np.ones((6, 5))),
                ),
            ]
        ),
        "the number of actions of contexts[1] is 3; expected 2, as of contexts[0]",
    ),
    "example": (
        lambda: bl.problems.ContextualMDP([cell(1.0)], example=[1.0]),
        "the shape of example is (1,); expected (4,)",
    ),
    "occupancy": (
        lambda: bl.problems.ContextualMDP([cell(1.0)]).pullback(X, bl.occupancy.DenseOccupancy(np.zeros((3, 2)))),
        "the shape of occupancy.weights is (3, 2); expected (2, 2)",
    ),
    "solution": (
        lambda: bl.problems.ContextualMDP([cell(1.0)]).restrict(X, attrs_like(), 0),
        "solution is a SimpleNamespace; expected a solution with a method restrict(lower, x, rows), such as a "
        "TabularSolution",
    ),
    "another feasible set": (
        lambda: bl.problems.contextual_problem(
            [quadratic(cell(1.0), feasible_set=bl.Box(-1, 1)), quadratic(cell(1.0), feasible_set=bl.Box(-1, 2))]
        ),
        "the feasible set of problems[1] is a Box; expected equal to the Box of problems[0], since x is shared",
    ),
    "kinds of objectives": (
        lambda: bl.problems.contextual_problem([quadratic(cell(1.0)), bl.BilevelProblem(cell(1.0), pair_loss(1.0))]),
        "the problems' objectives is QuadraticObjective, CallableTrajectoryObjective; expected all of them",
    ),
    "horizon": (
        lambda: bl.problems.contextual_problem(
            [bl.BilevelProblem(cell(1.0), bl.objectives.CallableTrajectoryObjective(print, h)) for h in (3, 4)]
        ),
        "horizon of the contexts' objectives is 3, 4; expected one number",
    ),
    "number of objectives": (
        lambda: bl.problems.ContextualObjective(
            bl.problems.ContextualMDP([cell(1.0)]), [bl.objectives.QuadraticObjective()] * 2
        ),
        "the number of ContextualObjective.objectives is 2; expected 1, one a context",
    ),
    "kind of objective": (
        lambda: bl.problems.ContextualObjective(bl.problems.ContextualMDP([cell(1.0)]), [pair_loss(1.0)]),
        "ContextualObjective.objectives[0] is a CallableTrajectoryObjective; expected a PolicyObjective",
    ),
    "not contexts": (
        lambda: bl.problems.ContextualObjective(cell(1.0), [bl.objectives.QuadraticObjective()]),
        "ContextualObjective.lower is a ParametricMDP; expected a ContextualMDP",
    ),
    "policy": (
        lambda: bl.problems.ContextualObjective(
            bl.problems.ContextualMDP([cell(1.0)]), [bl.objectives.QuadraticObjective()]
        ).value_and_gradients(X, np.ones((4, 2))),
        "the shape of the policy judged by ContextualObjective is (4, 2); expected (2, 2)",
    ),
}


def attrs_like() -> Any:
    import types

    return types.SimpleNamespace(policy=np.ones((2, 2)))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_one_sentence(mistake: str) -> None:
    call, words = MISTAKES[mistake]
    with pytest.raises(bl.InputError, match=re.escape(words)):
        call()


def test_equal_feasible_sets_are_one() -> None:
    parts = [quadratic(cell(1.0), feasible_set=bl.Box(-1, np.array([1.0, 2.0, 3.0, 4.0]))) for _ in range(2)]
    assert bl.problems.contextual_problem(parts).feasible_set is parts[0].feasible_set
    chosen = bl.problems.Ball(2.0)
    mixed = [parts[0], quadratic(cell(1.0))]
    assert bl.problems.contextual_problem(mixed, feasible_set=chosen).feasible_set is chosen
