"""Steps per second of `TabularSimulator.rollout` against the obvious vectorised NumPy sampler.

Run with `make bench`. NumPy advances all trajectories at once by inverse cumulative distribution: compare a row of
cumulative probabilities with a uniform number and count. Where a row has few successors it compares these alone, which
is the best that can be written so. The two are measured alternately, and the ratio of the medians is printed.
"""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import attrs
import numpy as np
import pytest
import scipy.sparse

import bilevelrl as bl

ROUNDS = 9


@attrs.frozen
class NumpySampler:
    """Cumulative probabilities of the K positive entries of each row, and the states they lead to (None: all)."""

    cumulative: Any  # (S, A, K)
    successors: Any  # (S, A, K), or None
    rewards: Any

    def rollout(self, policy: bl.Array, count: int, horizon: int, rng: np.random.Generator) -> bl.sampling.Trajectories:
        cumulative_policy = np.cumsum(policy, axis=1)[:, :-1]
        visited = np.empty((count, horizon + 1), dtype=np.int64)
        taken = np.empty((count, horizon), dtype=np.int64)
        rewards = np.empty((count, horizon))
        states = rng.integers(policy.shape[0], size=count)
        visited[:, 0] = states
        for h in range(horizon):
            actions = (cumulative_policy[states] <= rng.random((count, 1))).sum(axis=1)
            rewards[:, h] = self.rewards[states, actions]
            entries = (self.cumulative[states, actions] <= rng.random((count, 1))).sum(axis=1)
            states = entries if self.successors is None else self.successors[states, actions, entries]
            taken[:, h], visited[:, h + 1] = actions, states
        return bl.sampling.Trajectories(visited, taken, rewards)


def dense(states: int, actions: int) -> tuple[bl.SoftMDP, NumpySampler]:
    rng = np.random.default_rng(0)
    kernel = rng.random((states, actions, states))
    kernel /= kernel.sum(axis=2, keepdims=True)
    mdp = bl.SoftMDP(kernel, rng.normal(size=(states, actions)), 0.9, 1.0)
    return mdp, NumpySampler(np.cumsum(kernel, axis=2)[:, :, :-1], None, mdp.rewards)


def sparse_grid(side: int) -> tuple[bl.SoftMDP, NumpySampler]:
    """A torus on which each of four moves succeeds with 0.6 and slips to stay or to another neighbour with 0.1 each."""
    rng = np.random.default_rng(0)
    states = side * side
    row, column = np.divmod(np.arange(states), side)
    steps = ((0, 0), (-1, 0), (0, 1), (1, 0), (0, -1))
    targets = np.stack([(row + d) % side * side + (column + e) % side for d, e in steps], axis=1)
    successors = np.repeat(targets[:, None, :], 4, axis=1)
    kernel = np.full((states, 4, 5), 0.1)
    kernel[:, np.arange(4), 1 + np.arange(4)] = 0.6
    matrix = scipy.sparse.csr_array(
        (kernel.reshape(-1), successors.reshape(-1), np.arange(states * 4 + 1) * 5), shape=(states * 4, states)
    )
    mdp = bl.SoftMDP(matrix, rng.normal(size=(states, 4)), 0.9, 1.0)
    return mdp, NumpySampler(np.cumsum(kernel, axis=2)[:, :, :-1], successors, mdp.rewards)


CASES = {
    "dense, S=100, A=5": (lambda: dense(100, 5), 10_000, 10_000),
    "dense, S=1000, A=10": (lambda: dense(1000, 10), 10_000, 1_000),
    "sparse grid, S=10000, A=4, 5 successors": (lambda: sparse_grid(100), 10_000, 10_000),
}


def seconds_a_step(sampler: Any, policy: bl.Array, count: int, horizon: int) -> float:
    began = time.perf_counter()
    sampler.rollout(policy, count, horizon, np.random.Generator(np.random.Philox(0)))
    return (time.perf_counter() - began) / (count * horizon)


@pytest.mark.benchmark(group="trajectory sampling")
@pytest.mark.parametrize("name", CASES)
def test_steps_per_second_against_vectorised_numpy(benchmark, name) -> None:
    make, count, numpy_count = CASES[name]
    mdp, numpy_sampler = make()
    policy = np.random.default_rng(1).dirichlet(np.ones(mdp.actions), mdp.states)
    samplers = {
        "numpy": (numpy_sampler, numpy_count),
        "one thread": (bl.sampling.TabularSimulator(mdp, threads=1), count),
        "all threads": (bl.sampling.TabularSimulator(mdp), count),
    }
    # The same distribution, or the ratio means nothing: 10⁶ visits agree to a few in a thousand.
    visits = [
        sampler.rollout(policy, 10_000, 100, bl.randomness.stream(0, "check")).rewards
        for sampler, _ in samplers.values()
    ]
    assert visits[1].mean() == pytest.approx(visits[0].mean(), abs=0.02)
    assert np.array_equal(visits[1], visits[2])

    times: dict[str, list[float]] = {label: [] for label in samplers}
    for _ in range(ROUNDS):
        for label, (sampler, trajectories) in samplers.items():
            times[label].append(seconds_a_step(sampler, policy, trajectories, 100))
    median = {label: float(np.median(values)) for label, values in times.items()}
    print(f"\n{name}")
    print(f"{'sampler':>14} {'ns a step':>10} {'steps/s':>10} {'ratio':>7}")
    for label, seconds in median.items():
        ratio = median["numpy"] / seconds
        print(f"{label:>14} {1e9 * seconds:>10.1f} {1 / seconds:>10.2e} {ratio:>7.1f}")
        benchmark.extra_info[label] = {"ns_a_step": 1e9 * seconds, "ratio": ratio}
    benchmark.pedantic(seconds_a_step, args=(samplers["all threads"][0], policy, count, 100), rounds=5)


class Stopwatch:
    """A simulator that adds up the time spent in drawing, and offers what it is told to."""

    def __init__(self, simulator: bl.sampling.TabularSimulator, offers: tuple[str, ...]) -> None:
        self.seconds = 0.0
        self.spec, self.reset, self.step = simulator.spec, simulator.reset, simulator.step
        for name in offers:
            setattr(self, name, self._timed(getattr(simulator, name)))

    def _timed(self, call: Any) -> Any:
        def timed(*arguments: Any, **options: Any) -> Any:
            began = time.perf_counter()
            answer = call(*arguments, **options)
            self.seconds += time.perf_counter() - began
            return answer

        return timed


ROLLOUTS = ("rollout", "rollout_groups", "rollout_from")
WAYS = {"continuations recorded": ROLLOUTS, "visits added up": (*ROLLOUTS, "signed_visits")}
BATCHES = (512, 4096)


def test_share_of_sampling_in_a_stochastic_estimate(benchmark) -> None:
    """Stoc-SoBiRL's estimate on `gridworld-preferences`: how long it takes, and how much of that is drawing."""
    problem = bl.problem("gridworld-preferences")
    x = 0.3 * bl.randomness.stream(0, "x").standard_normal(problem.dimension)
    answer = bl.lower_level_solver("soft-policy-iteration").solve(problem, x, None, bl.randomness.stream(0, "lower"))
    print(f"\n{'stoc-sobirl':>24} {'pairs':>6} {'ms':>7} {'samples':>9} {'sampling':>9} {'the rest, ms':>13}")
    for batch in BATCHES:
        estimator = bl.hypergradient_estimator("stoc-sobirl", batch=batch)
        for way, offers in WAYS.items():
            watch = Stopwatch(problem.lower.simulator(x), offers)
            lower: Any = SimpleNamespace(
                simulator=lambda x, watch=watch: watch, pullback=problem.lower.pullback, dimension=problem.dimension
            )
            watched = bl.BilevelProblem(lower, problem.objective)
            estimator.estimate(watched, x, answer, None, bl.randomness.stream(0, "estimator"))
            times, drawing, samples = [], [], []
            for seed in range(ROUNDS):
                watch.seconds, began = 0.0, time.perf_counter()
                hyper = estimator.estimate(watched, x, answer, None, bl.randomness.stream(seed, "estimator"))
                times.append(time.perf_counter() - began)
                drawing.append(watch.seconds)
                samples.append(hyper.cost.samples)
            total, share = 1e3 * float(np.median(times)), float(np.median(np.array(drawing) / np.array(times)))
            rest = 1e3 * float(np.median(np.array(times) - np.array(drawing)))
            print(f"{way:>24} {batch:>6} {total:>7.1f} {np.mean(samples):>9.0f} {share:>9.0%} {rest:>13.2f}")
            benchmark.extra_info[f"{way}, {batch}"] = {
                "ms": total,
                "samples": float(np.mean(samples)),
                "share_sampling": share,
                "rest_ms": rest,
            }
    estimator = bl.hypergradient_estimator("stoc-sobirl", batch=BATCHES[0])
    benchmark.pedantic(
        estimator.estimate, args=(problem, x, answer, None, bl.randomness.stream(0, "estimator")), rounds=5
    )
