"""The model-free solvers come as close to the exact answer as their samples allow, and see nothing but samples.

Errors are `‖log π − log π*‖∞`, with π* from soft policy iteration. All seeds are fixed; the bounds on them leave a
factor of about two to what was measured.
"""

from __future__ import annotations

import types
from typing import Any

import attrs
import numpy as np
import pytest
import scipy.special

import bilevelrl as bl
from bilevelrl.sampling import alias_tables
from bilevelrl_model_free.solvers import SoftActorCritic, SoftQLearning
from slowness import slow_unless
from strategies import stored_as

SOLVERS = [SoftQLearning, SoftActorCritic]
RESTARTS = ["initial", "everywhere"]


def small_mdp(
    states: int = 6,
    actions: int = 3,
    discount: float = 0.8,
    temperature: float = 0.5,
    *,
    sparse: bool = False,
    reference: bool = False,
) -> bl.SoftMDP:
    """Every state is reached from every other; half of the transitions are missing where `sparse`."""
    rng = np.random.default_rng(states)
    kernel = rng.random((states, actions, states)) ** 4
    if sparse:
        kernel *= rng.random(kernel.shape) < 0.5
        kernel[:, :, 0] += 0.01
    kernel /= kernel.sum(axis=2, keepdims=True)
    measure = 0.2 / actions + 0.8 * rng.dirichlet(np.ones(actions), size=states) if reference else None
    rewards = rng.standard_normal((states, actions))
    return bl.SoftMDP(stored_as(kernel, sparse), rewards, discount, temperature, None, measure)


MDPS = {
    "dense": (small_mdp(), 0.08),
    "dense, far-sighted": (small_mdp(5, 2, 0.9, 1.0), 0.03),
    "sparse, cold": (small_mdp(8, 3, 0.9, 0.3, sparse=True), 0.25),
    "dense with a reference, hot": (small_mdp(6, 3, 0.5, 2.0, reference=True), 0.005),
    "sparse with a reference": (small_mdp(7, 4, 0.7, 1.0, sparse=True, reference=True), 0.015),
}
"""Follower and the error that 200,000 samples must stay below."""


class StepsOnly:
    """A simulator that counts the transitions it hands out, and offers neither restarts nor anything else."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.spec: bl.sampling.FollowerSpec = inner.spec
        self.samples = 0

    def reset(self, count: int, rng: np.random.Generator) -> bl.Array:
        raise AssertionError("trajectories are drawn by rollout")

    def step(self, actions: Any, rng: np.random.Generator) -> bl.sampling.Step:
        raise AssertionError("trajectories are drawn by rollout")

    def rollout(self, policy: bl.Array, count: int, horizon: int, rng: np.random.Generator) -> bl.sampling.Trajectories:
        return self._counted(self._inner.rollout(policy, count, horizon, rng))

    def _counted(self, paths: bl.sampling.Trajectories) -> bl.sampling.Trajectories:
        self.samples += paths.samples
        return paths


class WithRestarts(StepsOnly):
    def rollout_from(
        self, observations: Any, actions: Any, policy: bl.Array, horizon: int, rng: np.random.Generator
    ) -> bl.sampling.Trajectories:
        return self._counted(self._inner.rollout_from(observations, actions, policy, horizon, rng))


class Sealed(bl.mdp.Transitions):
    """Can be sampled; raises on every question about probabilities."""

    def __init__(self, opened: bl.mdp.Transitions) -> None:
        self.states, self.actions = opened.states, opened.actions
        alias_tables._TABLES[self] = alias_tables.sampling_table(opened)

    def _touched(self, *_: Any) -> Any:
        raise AssertionError("the transition matrix was touched")

    expectation = transpose_expectation = under = row = stored = _touched


@attrs.define(eq=False)
class World:
    """A lower level whose rewards are those of an MDP plus x, whose model nobody may see."""

    mdp: bl.SoftMDP
    wrap: type[StepsOnly] = WithRestarts
    last: Any = None
    occupancy_forms = (bl.occupancy.DenseOccupancy,)

    @property
    def dimension(self) -> int:
        return self.mdp.rewards.size

    def at(self, x: bl.Array) -> bl.SoftMDP:
        return self.mdp.replace(rewards=self.mdp.rewards + x.reshape(self.mdp.rewards.shape))

    def model(self, x: bl.Array) -> bl.SoftMDP:
        raise AssertionError("the model was asked for")

    def simulator(self, x: bl.Array) -> bl.sampling.Simulator:
        sealed = self.at(x).replace(transitions=Sealed(self.mdp.transitions))
        self.last = self.wrap(bl.sampling.TabularSimulator(sealed))
        return self.last

    def pullback(self, x: bl.Array, occupancy: bl.occupancy.Occupancy) -> bl.Array:
        raise AssertionError("a solver needs no pullback")


def sampled_problem(mdp: bl.SoftMDP, wrap: type[StepsOnly] = WithRestarts) -> bl.BilevelProblem:
    return bl.BilevelProblem(World(mdp, wrap), bl.objectives.QuadraticObjective(), name="sampled")


def answer(
    solver: bl.LowerLevelSolver, problem: bl.BilevelProblem, x: Any = 0.0, warm_start: Any = None, seed: int = 0
) -> bl.sampling.SampledSolution:
    point = np.broadcast_to(np.asarray(x, dtype=np.float64), (problem.dimension,))
    return solver.solve(problem, point, warm_start, bl.randomness.stream(seed, "lower"))


def exact_policy(mdp: bl.SoftMDP) -> bl.Array:
    problem: Any = types.SimpleNamespace(lower=types.SimpleNamespace(model=lambda x: mdp))
    solver = bl.lower_level_solver("soft-policy-iteration", tolerance=1e-12)
    return solver.solve(problem, np.zeros(1), None, bl.randomness.stream(0, "lower")).policy


def error(policy: bl.Array, mdp: bl.SoftMDP) -> float:
    return bl.validation.maximum_norm(np.log(policy) - np.log(exact_policy(mdp)))


def mean_error(solver: bl.LowerLevelSolver, mdp: bl.SoftMDP, seeds: int) -> float:
    return float(np.mean([error(answer(solver, sampled_problem(mdp), seed=s).policy, mdp) for s in range(seeds)]))


@pytest.mark.parametrize("restarts", RESTARTS)
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("case", MDPS)
def test_answer_is_close_to_the_exact_one_and_no_model_is_touched(case: str, solver: Any, restarts: str) -> None:
    """Every `World` raises when its model, or a probability, is asked for."""
    mdp, bound = MDPS[case]
    found = answer(solver(samples=200_000, restarts=restarts), sampled_problem(mdp))
    assert found.status is bl.Status.BUDGET_SPENT
    assert error(found.policy, mdp) < bound


@pytest.mark.parametrize("restarts", slow_unless("initial".__eq__, RESTARTS))
@pytest.mark.parametrize("solver", slow_unless(lambda solver: solver is SoftQLearning, SOLVERS))
def test_error_falls_as_the_square_root_of_the_samples(solver: Any, restarts: str) -> None:
    """16 times the samples, a quarter of the error; 2.8 to 5.7, half a power of two about 4, over 40 seeds' means."""
    mdp = MDPS["dense, far-sighted"][0]
    few, many = (mean_error(solver(samples=n, restarts=restarts), mdp, seeds=40) for n in (25_000, 400_000))
    assert 2.8 < few / many < 5.7, (few, many)


@pytest.mark.parametrize("solver", SOLVERS)
def test_policy_is_the_softmax_of_the_action_values_with_the_reference(solver: Any) -> None:
    mdp = MDPS["sparse with a reference"][0]
    found = answer(solver(samples=5_000), sampled_problem(mdp))
    weights = mdp.reference * np.exp(found.action_values / mdp.temperature)
    np.testing.assert_allclose(found.policy, weights / weights.sum(axis=1, keepdims=True), rtol=1e-12)


def test_in_a_deterministic_world_the_error_falls_faster_than_any_noise_allows() -> None:
    """Without noise only the start is to be forgotten: by the product of 1 − (1−γ)α_n, below 1e-9 here."""
    rng = np.random.default_rng(3)
    mdp = bl.SoftMDP(np.eye(4)[rng.integers(4, size=(4, 2))], rng.standard_normal((4, 2)), 0.5, 0.3)
    found = answer(SoftQLearning(samples=100_000, restarts="everywhere"), sampled_problem(mdp))
    assert error(found.policy, mdp) < 1e-9
    assert found.residual < 1e-9


@pytest.mark.parametrize("restarts", RESTARTS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_cost_counts_every_transition_drawn(solver: Any, restarts: str) -> None:
    """As counted by the simulator: `samples` rounded up to whole trajectories, also where that is more than one."""
    problem = sampled_problem(MDPS["dense"][0])
    for samples, trajectories, expected in ((1, 32, 1), (20, 32, 20), (1_000, 30, 1_020), (5_000, 7, 5_005)):
        found = answer(solver(samples=samples, trajectories=trajectories, restarts=restarts), problem)
        assert found.cost.samples == problem.lower.last.samples == expected
        assert found.simulator is problem.lower.last


@pytest.mark.parametrize("restarts", RESTARTS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_same_generator_same_answer_bit_for_bit(solver: Any, restarts: str) -> None:
    problem = sampled_problem(MDPS["dense"][0])
    configured = solver(samples=3_000, restarts=restarts)
    first, again, other = (answer(configured, problem, seed=seed) for seed in (1, 1, 2))
    assert (first.action_values == again.action_values).all()
    assert (first.carry["visits"] == again.carry["visits"]).all()
    assert first.residual == again.residual
    assert (first.action_values != other.action_values).any()


@pytest.mark.parametrize("solver", SOLVERS)
def test_warm_start_at_a_nearby_x_beats_four_times_the_samples_from_scratch(solver: Any) -> None:
    """x moved by 0.01 in each entry; means of 10 seeds."""
    mdp = MDPS["dense"][0]
    problem = sampled_problem(mdp)
    x = 0.01 * np.random.default_rng(1).choice([-1.0, 1.0], size=problem.dimension)
    moved = problem.lower.at(x)
    warm, cold = [], []
    for seed in range(10):
        before = answer(solver(samples=100_000), problem, seed=seed)
        warm.append(error(answer(solver(samples=5_000), problem, x, before, seed=100 + seed).policy, moved))
        cold.append(error(answer(solver(samples=20_000), problem, x, seed=100 + seed).policy, moved))
    assert np.mean(warm) < np.mean(cold)


@pytest.mark.parametrize("solver", SOLVERS)
def test_warm_started_calls_at_one_x_gather_evidence(solver: Any) -> None:
    """With all visits remembered, the tenth call of 4,000 samples beats the first by far; with none it does not."""
    mdp = MDPS["dense, far-sighted"][0]
    problem = sampled_problem(mdp)

    def tenth(memory: float) -> float:
        errors = []
        for seed in range(10):
            found = None
            for call in range(10):
                found = answer(solver(samples=4_000, memory=memory), problem, 0.0, found, 10 * seed + call)
            errors.append(error(found.policy, mdp))
        return float(np.mean(errors))

    first = mean_error(solver(samples=4_000), mdp, seeds=10)
    assert tenth(1.0) < 0.6 * first
    assert tenth(0.0) > 0.6 * first


def test_answer_follows_an_x_that_moves() -> None:
    """x moves by 0.1 in each entry, one way, 20 times: with a mean over all calls the answer lags by ten of them."""
    mdp = MDPS["dense, far-sighted"][0]
    problem = sampled_problem(mdp)
    direction = np.random.default_rng(2).choice([-0.1, 0.1], size=problem.dimension)

    def last_error(memory: float, seed: int) -> float:
        found = None
        for k in range(20):
            found = answer(SoftQLearning(samples=20_000, memory=memory), problem, k * direction, found, 100 * seed + k)
        return error(found.policy, problem.lower.at(19 * direction))

    forgetful, default, stubborn = (np.mean([last_error(m, seed) for seed in range(5)]) for m in (0.0, 0.5, 1.0))
    assert default < 2 * forgetful
    assert stubborn > 5 * forgetful


def test_memory_keeps_its_share_of_the_evidence() -> None:
    problem = sampled_problem(MDPS["dense"][0])
    first = answer(SoftQLearning(samples=3_200), problem)
    assert first.carry["visits"].sum() == 3_200
    assert first.carry["averaged"].sum() == 1_600
    for memory in (0.0, 0.25, 1.0):
        second = answer(SoftQLearning(samples=3_200, memory=memory), problem, warm_start=first, seed=1)
        np.testing.assert_allclose(second.carry["visits"].sum(), (1 + memory) * 3_200, rtol=1e-12)
        np.testing.assert_allclose(second.carry["averaged"].sum(), (1 + memory) * 1_600, rtol=1e-12)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_solve_leaves_its_warm_start_as_it_was(solver: Any) -> None:
    problem = sampled_problem(MDPS["dense"][0])
    first = answer(solver(samples=1_000), problem)
    arrays = (first.policy, first.action_values, *first.carry.values())
    copies = [array.copy() for array in arrays]
    for array in arrays:
        array.flags.writeable = False
    second = answer(solver(samples=1_000), problem, warm_start=first)
    assert all((array == copy).all() for array, copy in zip(arrays, copies, strict=True))
    produced = (second.policy, second.action_values, *second.carry.values())
    assert not any(np.shares_memory(new, old) for new in produced for old in arrays)


def test_samples_grow_with_the_calls() -> None:
    """`samples · (k+1)^growth`; a start from another solver's answer, which counts no calls, is the 0th again."""
    problem = sampled_problem(MDPS["dense"][0])
    solver = SoftQLearning(samples=1_000, trajectories=10, growth=1.5)
    found, drawn = None, []
    for _ in range(4):
        found = answer(solver, problem, 0.0, found)
        drawn.append(found.cost.samples)
    assert drawn == [1_000, 2_830, 5_200, 8_000]
    stranger = types.SimpleNamespace(action_values=found.action_values)
    assert answer(solver, problem, warm_start=stranger).cost.samples == 1_000


def test_warm_starts_of_another_shape_or_not_finite_are_set_aside() -> None:
    problem = sampled_problem(MDPS["dense"][0])
    fresh = answer(SoftQLearning(samples=500), problem)
    other = answer(SoftQLearning(samples=500), sampled_problem(MDPS["sparse, cold"][0]))
    broken = attrs.evolve(fresh, action_values=np.full_like(fresh.action_values, np.nan))
    for useless in (other, broken, types.SimpleNamespace(policy="no table")):
        found = answer(SoftQLearning(samples=500), problem, warm_start=useless)
        assert (found.action_values == fresh.action_values).all()


def test_everywhere_tries_all_pairs_equally_often() -> None:
    """Also those that no trajectory reaches: the last state here."""
    kernel = np.zeros((3, 2, 3))
    kernel[:, :, :2] = 0.5
    problem = sampled_problem(bl.SoftMDP(kernel, np.ones((3, 2)), 0.5, 1.0, np.array([1.0, 0.0, 0.0])))
    visits = answer(SoftQLearning(samples=6_400, restarts="everywhere"), problem).carry["visits"]
    assert visits.max() - visits.min() <= 1
    reached = answer(SoftQLearning(samples=6_400), problem)
    assert (reached.carry["visits"][2] == 0).all()
    assert (reached.action_values[2] == 0).all(), "what was never tried stays where it started"


@pytest.mark.parametrize("solver", SOLVERS)
def test_exploration_tries_what_the_follower_would_not(solver: Any) -> None:
    """The second action costs 20 temperatures: softmax alone tries it only while Q is unknown."""
    mdp = bl.SoftMDP(np.ones((1, 2, 1)), np.array([[0.0, -20.0]]), 0.0, 1.0)
    problem = sampled_problem(mdp)
    tried = {
        share: answer(solver(samples=50_000, exploration=share), problem).carry["visits"][0, 1] / 50_000
        for share in (0.0, 0.2, 1.0)
    }
    assert tried[0.0] < 0.03, "the first round, of 1,024 transitions, and little more"
    # A standard deviation is below 0.003.
    assert tried[0.2] == pytest.approx(0.1, abs=0.03)
    assert tried[1.0] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("solver", SOLVERS)
def test_frozen_lake_is_learnt_through_steps_alone(solver: Any) -> None:
    """Within the noise of the visits. What ends an episode is worth nothing afterwards."""
    gymnasium = pytest.importorskip("gymnasium")

    def make() -> Any:
        return gymnasium.make("FrozenLake-v1", max_episode_steps=-1)

    mdp = bl.integrations.from_gymnasium(make(), discount=0.9, temperature=0.1)
    world = bl.integrations.GymnasiumWorld(make, 0.9, 0.1)
    problem = bl.BilevelProblem(
        bl.parametric.SampledMDP(world, bl.parametric.TabularReward(mdp.rewards)), bl.objectives.QuadraticObjective()
    )
    found = answer(solver(samples=60_000), problem)
    ends, values = bl.integrations.absorbing_states(mdp), np.zeros(mdp.states)
    for _ in range(300):
        action_values = mdp.rewards + 0.9 * mdp.transitions.expectation(values)
        values = np.where(ends, 0.0, 0.1 * scipy.special.logsumexp(action_values / 0.1, axis=1))
    expected = (action_values - 0.1 * scipy.special.logsumexp(action_values / 0.1, axis=1, keepdims=True)) / 0.1
    rarest = found.carry["visits"].min(axis=1)
    known = (rarest >= 150) & ~ends
    assert known.sum() >= 5
    # Six standard errors of the mean target over the visits of a state's rarest action, in units of the temperature;
    # the goal, the last state, pays 1. Steps that decay more slowly than 1/n use some of the visits only.
    targets = np.append(0.9 * values[:-1], 1.0)
    means = mdp.transitions.expectation(targets)
    deviations = np.sqrt(mdp.transitions.expectation(targets**2) - means**2).max(axis=1)
    allowed = 6.0 * deviations[known] / (0.1 * np.sqrt(rarest[known]))
    missed = np.abs(np.log(found.policy[known]) - expected[known]).max(axis=1)
    assert (missed <= allowed).all()
    # Were what ends an episode worth the entropy of staying there for ever, the policy would be another one.
    assert (np.abs(np.log(exact_policy(mdp)[known]) - expected[known]).max(axis=1) > allowed).any()


@pytest.mark.parametrize("solver", SOLVERS)
def test_restarts_everywhere_without_restarts_is_one_clear_sentence(solver: Any) -> None:
    problem = sampled_problem(MDPS["dense"][0], StepsOnly)
    answer(solver(samples=100), problem)
    with pytest.raises(bl.IncompatibleError) as raised:
        answer(solver(samples=100, restarts="everywhere"), problem)
    assert str(raised.value) == (
        f"lower-level solver {solver.name!r} with restarts='everywhere' needs a simulator that can be put into any "
        "state (SupportsRestart); that of problem 'sampled' offers only reset and step. Use restarts='initial'"
    )


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("samples", 0, "an integer of at least 1"),
        ("samples", 1e5, "an integer of at least 1"),
        ("trajectories", 0, "an integer of at least 1"),
        ("horizon", -1, "an integer of at least 1"),
        ("exploration", 1.1, "at least 0 and at most 1"),
        ("restarts", "everywere", "did you mean 'everywhere'"),
        ("step_decay", 0.5, "above 0.5 and at most 1"),
        ("averaging", 0.0, "above 0 and at most 1"),
        ("memory", float("nan"), "at least 0 and at most 1"),
        ("growth", -1.0, "at least 0"),
    ],
)
@pytest.mark.parametrize("solver", SOLVERS)
def test_bad_options_are_named(solver: Any, option: str, value: Any, expected: str) -> None:
    with pytest.raises(bl.InputError, match=expected) as raised:
        solver(**{option: value})
    assert raised.value.field == option


def test_actor_step_is_a_share() -> None:
    for value in (0.0, 1.5):
        with pytest.raises(bl.InputError, match="actor_step"):
            SoftActorCritic(actor_step=value)


@pytest.mark.parametrize("restarts", RESTARTS)
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("reward", [np.nan, np.inf, -np.inf, 1.7e308])
def test_values_that_are_not_finite_are_told_in_the_status(solver: Any, restarts: str, reward: float) -> None:
    """A reward that is none, or one so large that the values of staying there overflow; costs stay truthful."""
    mdp = MDPS["dense with a reference, hot"][0]
    rewards = np.zeros(mdp.rewards.shape)
    rewards[:, 1] = reward
    problem = sampled_problem(mdp.replace(rewards=rewards))
    found = answer(solver(samples=50_000, restarts=restarts), problem)
    assert found.status is bl.Status.NON_FINITE
    assert 0 < found.cost.samples == problem.lower.last.samples


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_tiny_temperature_does_not_overflow(solver: Any) -> None:
    """τ = 1e-4 with values of about 5: exponents of 50,000 without a shift."""
    mdp = small_mdp(temperature=1e-4)
    found = answer(solver(samples=2_000), sampled_problem(mdp))
    assert np.isfinite(found.action_values).all()
    np.testing.assert_allclose(found.policy.sum(axis=1), 1.0, rtol=1e-12)


@pytest.mark.parametrize("solver", SOLVERS)
def test_averaging_lowers_the_noise_of_the_last_q(solver: Any) -> None:
    """Against an average over the last transition alone; means of 10 seeds."""
    mdp = MDPS["dense"][0]
    last, averaged = (mean_error(solver(samples=20_000, averaging=share), mdp, seeds=10) for share in (1e-6, 0.5))
    assert averaged < last / 1.5, (averaged, last)


@pytest.mark.parametrize("solver", SOLVERS)
def test_solvers_meet_the_protocol(solver: Any) -> None:
    assert isinstance(solver(), bl.LowerLevelSolver)
    assert solver.requires is bl.sampling.SupportsSampling


class Quits:
    """One state: action 0 pays 1 and ends the episode, action 1 pays nothing. What follows an end would pay 99."""

    spec = bl.sampling.FollowerSpec(bl.sampling.Discrete(1), bl.sampling.Discrete(2), 0.9, 0.5)

    def __init__(self, rewards: bl.Array) -> None:
        self.samples = 0

    def reset(self, count: int, rng: np.random.Generator) -> Any:
        self._ended = np.zeros(count, dtype=bool)
        return np.zeros(count, dtype=np.int64)

    def step(self, actions: Any, rng: np.random.Generator) -> bl.sampling.Step:
        self.samples += int((~self._ended).sum())
        paid = np.where(self._ended, 99.0, actions == 0)
        self._ended = self._ended | (actions == 0)
        return bl.sampling.Step(np.zeros(actions.size, dtype=np.int64), paid, self._ended)

    def rollout(self, policy: Any, count: int, horizon: int, rng: np.random.Generator) -> bl.sampling.Trajectories:
        return bl.sampling.rollout_by_steps(self, policy, count, horizon, rng)


@pytest.mark.parametrize("name", ["soft-q-learning", "soft-actor-critic"])
def test_nothing_is_worth_anything_after_a_termination(name):
    """`V = τ log(exp(1/τ) + exp(γV/τ))`: the action that ends the episode is worth what it pays."""
    worlds = []

    def world(rewards: bl.Array) -> Quits:
        worlds.append(Quits(rewards))
        return worlds[-1]

    lower = bl.parametric.SampledMDP(world, bl.parametric.TabularReward(np.zeros((1, 2))))
    problem = bl.BilevelProblem(lower, bl.objectives.QuadraticObjective(), name="quits")
    solution = bl.lower_level_solver(name, samples=60_000).solve(
        problem, np.zeros(2), None, bl.randomness.stream(0, "quits")
    )
    value = 0.0
    for _ in range(500):
        value = 0.5 * np.logaddexp(1.0 / 0.5, 0.9 * value / 0.5)
    # Without chance in the world, what is left is how slowly the start is forgotten.
    assert solution.action_values[0] == pytest.approx([1.0, 0.9 * value], abs=0.02)
    assert solution.cost.samples == worlds[-1].samples < 60_000
